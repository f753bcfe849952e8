"""manifest.json: hardware, software, data and engines of a run, so that runs can be compared years later."""

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
    """The content of manifest.json for a run of `samples` under `root`.

    Engines started under `root` are described by their engine.json, others by what they report.

    Raises:
        BadInput: the model is incomplete, or an engine is not an OpenAI-compatible server.
        NotReady: an engine does not answer.
    """
    punkt_folder = punkt.find(spec.punkt, root)
    return {
        "schema": 1,
        **machine(spec.model, root),
        "dataset": samples.facts(),
        "punkt": str(punkt_folder) if punkt_folder else None,
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
