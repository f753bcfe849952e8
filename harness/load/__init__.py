"""The load path: LoadGen's samples, dispatched over engines, sent and received token by token id.

loadgen → dispatch → client → HTTP          calibrate: the same path without LoadGen
          └ balance: which engine is next
"""
