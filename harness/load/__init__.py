"""The load path: samples issued by LoadGen, dispatched over engines, sent as requests, answered with streamed token ids.

loadgen → dispatch → client → HTTP          calibrate: the same path without LoadGen
          └ balance: which engine is next
"""
