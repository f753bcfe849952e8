"""Engines: one vLLM or DeepSpeed server on a GPU, a group of GPUs, or some CPU cores; or an endpoint that already runs.

`up`, `status` and `down` are all a caller needs, or `serve` where a container lasts as long as its command; everything
they know is in <root>/engines/<name>/engine.json.
"""

from harness.engine.config import EngineConfig, parse_config
from harness.engine.control import check, down, names, observe, serve, status, up
from harness.engine.state import EngineState

__all__ = ["EngineConfig", "EngineState", "check", "down", "names", "observe", "parse_config", "serve", "status", "up"]
