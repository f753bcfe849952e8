"""Engines: one vLLM or DeepSpeed server on a GPU, a group of GPUs, or some CPU cores; or an endpoint that already runs.

Callers use `up`, `status` and `down`, or `serve` as the command of a container. All state is in
<root>/engines/<name>/engine.json.
"""

from harness.engine.config import EngineConfig, parse_config
from harness.engine.endpoint import gone, observe
from harness.engine.keys import introduce_all
from harness.engine.launch import not_inherited
from harness.engine.lifecycle import check, down, names, serve, status, up
from harness.engine.state import EngineState

__all__ = [
    "EngineConfig",
    "EngineState",
    "check",
    "down",
    "gone",
    "introduce_all",
    "names",
    "not_inherited",
    "observe",
    "parse_config",
    "serve",
    "status",
    "up",
]
