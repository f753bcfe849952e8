"""Resuming a run: what must be the same in all its parts."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.dataset import Dataset, load
from harness.errors import BadInput
from harness.manifest import manifest
from harness.resume import Interrupted
from harness.spec import Spec, parse_spec
from tests.engines import write_model
from tests.fake_server import FakeServer


def begin(folder: Path, *servers: FakeServer) -> tuple[Spec, Dataset]:
    """A run over calibrated engines."""
    data = folder / "data.json"
    data.write_text(json.dumps([{"tok_input": [1], "input": "a", "output": "b"}]))
    engines = [
        {"name": f"engine{number}", "url": server.url, "samples_per_s": 10.0} for number, server in enumerate(servers)
    ]
    values = {"run_id": "r1", "model": write_model(folder / "model"), "dataset": data, "samples": 1, "engines": engines}
    return parse_spec(values), load(data, limit=1)


def check_same(folder: Path, spec: Spec, before: dict[str, Any], now: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(before))
    Interrupted(spec, folder, "accuracy", {}, folder / "interrupted" / "1").check_same(json.loads(json.dumps(now)))


def test_a_run_is_resumed_without_an_engine_that_is_away_and_again_with_it(tmp_path: Path) -> None:
    """Fault: one of two engines dies, then the run; the run is resumed before the engine is back, and once more."""
    with FakeServer() as lives, FakeServer() as dies:
        spec, samples = begin(tmp_path, lives, dies)
        both = manifest(spec, tmp_path, samples)
        dies.process.kill()
        dies.process.wait()
        one = manifest(spec, tmp_path, samples)
    assert [engine["state"] for engine in one["engines"]] == ["ready", "failed"]
    for before, now in ((both, both), (both, one), (one, one), (one, both)):
        check_same(tmp_path, spec, before, now)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["engines"][0]["version"].update(vllm="0.1"),
        lambda one: one["engines"][0]["verified"].update(max_model_len=1),
        lambda one: one["engines"][1].update(model="/another"),
        lambda one: one["engines"].pop(),
    ],
)
def test_another_engine_that_is_away_hides_no_difference(tmp_path: Path, change: Any) -> None:
    with FakeServer() as lives, FakeServer() as away:
        spec, samples = begin(tmp_path, lives, away)
        both = manifest(spec, tmp_path, samples)
        away.process.kill()
        away.process.wait()
        one = json.loads(json.dumps(manifest(spec, tmp_path, samples)))
    change(one)
    with pytest.raises(BadInput, match="run r1 cannot be resumed, since what it measures has changed"):
        check_same(tmp_path, spec, both, one)
