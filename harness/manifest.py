"""manifest.json: hardware, software, data and engines of a run, so that runs can be compared years later."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import clock, engine
from harness.dataset import Dataset
from harness.engine import EngineConfig, EngineState
from harness.errors import BadInput, NotReady
from harness.node.machine import machine
from harness.scoring import punkt
from harness.spec import EngineRef, Spec


def manifest(spec: Spec, root: Path, samples: Dataset) -> dict[str, Any]:
    """The content of manifest.json for a run of `samples` under `root`.

    Engines started under `root` are described by their engine.json, others by what they report.

    One of several engines that has answered before, as its calibration shows, and is gone now is described as failed:
    the run goes on without it.

    Raises:
        BadInput: the model is incomplete, or an engine is not an OpenAI-compatible server.
        NotReady: an engine does not answer.
    """
    return {
        "schema": 1,
        **spec.identity,
        **machine(spec.model, root),
        "dataset": samples.facts(),
        **punkt.facts(punkt.find(spec.punkt, root)),
        "engines": [_engine(reference, spec, root).document() for reference in spec.engines],
        "seeds": {"sampling": spec.seed, "loadgen": "built in"},
        "started_unix": clock.unix(),
        "node": spec.node,
    }


def facts(
    root: Path, model: Path, samples: Dataset, configs: Sequence[EngineConfig], punkt_path: Path | None = None
) -> dict[str, Any]:
    """What a run of `samples` here would run on, in the form of manifest.json, before any engine is started.

    Raises:
        BadInput, NotReady: as `manifest`, of the model, of Punkt's data and of engines of kind endpoint.
    """
    for config in configs:
        if config.kind == "endpoint":
            config.introduce()
    engines = [
        {
            "name": config.name,
            "kind": config.kind,
            "state": "planned",
            "config": config.public(),
            "version": engine.observe(config.name, config.base_url, model).version if config.kind == "endpoint" else {},
        }
        for config in configs
    ]
    return {
        **machine(model, root),
        "dataset": samples.facts(),
        **punkt.facts(punkt.find(punkt_path, root)),
        "engines": engines,
    }


def _engine(reference: EngineRef, spec: Spec, root: Path) -> EngineState:
    with contextlib.suppress(BadInput):
        state = engine.status(root, reference.name)
        if state.url == reference.url:
            return state
    try:
        return engine.observe(reference.name, reference.url, spec.model)
    except (NotReady, BadInput) as error:
        if spec.silence_s is None or reference.samples_per_s is None:
            raise
        return engine.gone(reference.name, reference.url, spec.model, str(error))
