"""manifest.json: what a run ran on, so that two runs can be told to be comparable years later."""

import time
from pathlib import Path
from typing import Any

from harness import engine
from harness.dataset import Dataset
from harness.engine import EngineState
from harness.errors import BadInput
from harness.node.machine import machine
from harness.scoring import punkt
from harness.spec import EngineRef, Spec


def manifest(spec: Spec, root: Path, samples: Dataset) -> dict[str, Any]:
    """Everything about this machine, the data and the engines that a run of `samples` under `root` depends on.

    Engines known under `root` are taken from their engine.json, others are asked what they show.

    Raises:
        BadInput: the model or an engine is not what it should be.
        NotReady: an engine does not answer.
    """
    found = punkt.find(spec.punkt, root)
    return {
        "schema": 1,
        **machine(spec.model, root),
        "dataset": samples.facts(),
        "punkt": str(found) if found else None,
        "engines": [_engine(reference, spec, root).document() for reference in spec.engines],
        "seeds": {"sampling": spec.seed, "loadgen": "built in"},
        "started_unix": time.time(),
        "node": spec.node,
    }


def _engine(reference: EngineRef, spec: Spec, root: Path) -> EngineState:
    try:
        state = engine.status(root, reference.name)
    except BadInput:
        return engine.observe(reference.name, reference.url, spec.model)
    return state if state.url == reference.url else engine.observe(reference.name, reference.url, spec.model)
