"""The load path: LoadGen issues samples, dispatch chooses engines, the client sends requests and reads token ids.

loadgen → dispatch → client → HTTP          calibrate: the same path without LoadGen
          └ balance: which engine is next
"""
