"""Shared by tests of the load path: a small model directory and data set, and specs of runs on fake servers."""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import dataset
from harness.dataset import Dataset
from harness.spec import Spec, parse_spec
from tests.fake_server import FakeServer

VOCABULARY = 1024
SAMPLES = 120


def prompts(count: int = SAMPLES) -> list[list[int]]:
    """Token ids that differ from sample to sample."""
    source = random.Random(7)
    return [[source.randrange(VOCABULARY) for _ in range(source.randint(5, 60))] for _ in range(count)]


def make_spec(folder: Path, *servers: FakeServer, max_in_flight: int = 32, **values: Any) -> Spec:
    """A spec over fake servers with a model and a data set written to `folder`."""
    model, data = folder / "model", folder / "data.json"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps({"vocab_size": VOCABULARY, "eos_token_id": 2}))
    known = prompts(max(SAMPLES, values.get("samples", SAMPLES)))
    data.write_text(json.dumps([{"tok_input": ids, "input": "a", "output": "b"} for ids in known]))
    engines = [
        {"name": f"engine{number}", "url": server.url, "max_in_flight": max_in_flight}
        for number, server in enumerate(servers)
    ]
    common = {"run_id": "test", "model": model, "dataset": data, "samples": SAMPLES, "engines": engines}
    return parse_spec({**common, **values})


def samples(spec: Spec) -> Dataset:
    """The samples of a spec's share."""
    return dataset.load(spec.dataset, limit=spec.samples).share(spec.window.start, spec.window.stop)


@pytest.fixture
def worker_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that the harness starts import what this one can."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
