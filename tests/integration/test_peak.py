"""Shortened searches for the highest VALID rate: the real LoadGen over fake engines whose limit is known."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import peak as bench
from harness import run_store
from harness.attempt_record import rate
from harness.errors import BadInput
from harness.load.loadgen import run_loadgen
from harness.load.schedule import arrivals, order
from harness.load.search import Step
from harness.run_phases import execute
from harness.spec import FULL_SAMPLES, Spec
from tests.fake_server import FakeServer
from tests.integration.test_run import make_spec
from tests.unit.load import VOCABULARY, samples, worker_path

pytestmark = pytest.mark.usefixtures(worker_path.__name__)

__all__ = ["worker_path"]

SAMPLES = 700
PROMPT_TOKENS, ANSWER_TOKENS = 32, 20
# A step takes 10 ms, 0.33 ms a sequence and 0.067 ms a prompt's token: at r samples/s 10 / (1 - 0.0088 r) ms, and
# Interactive allows 30 ms.
COSTS = {"step_ms": 10.0, "decode_ms_per_sequence": 0.33, "prefill_ms_per_token": 0.067, "tokens": ANSWER_TOKENS}
LIMIT_QPS = (1 - 10 / 30) / 0.0088


def make_search_spec(folder: Path, *servers: FakeServer, **values: Any) -> Spec:
    """A spec of a search over as many samples as early stopping can confirm, one forgiven."""
    source, data = random.Random(3), folder / "peak.json"
    prompts = [[source.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(SAMPLES)]
    folder.mkdir(exist_ok=True)
    common = {"target_qps": "peak", "scenario": "interactive", "mode": "performance", "samples": SAMPLES}
    spec = make_spec(folder, *servers, dataset=data, **{**common, **values})
    data.write_text(json.dumps([{"tok_input": ids, "input": "a", "output": "b"} for ids in prompts]))
    return spec


def search(spec: Spec, root: Path) -> tuple[Path, dict[str, Any]]:
    assert run_store.create(spec, root)
    folder = execute(spec, root, samples(spec))
    return folder, json.loads((folder / "outcome.json").read_text())


@pytest.mark.parametrize(
    ("engines", "start", "limit"),
    [
        pytest.param(1, 0.7, LIMIT_QPS, id="from a rate that holds", marks=pytest.mark.long),
        pytest.param(1, 1.4, LIMIT_QPS, id="from one that does not"),
        pytest.param(2, 0.6, 2 * LIMIT_QPS, id="two engines", marks=pytest.mark.long),
    ],
)
def test_a_search_ends_with_a_whole_run_that_is_valid(tmp_path: Path, engines: int, start: float, limit: float) -> None:
    servers = [FakeServer(**COSTS) for _ in range(engines)]
    for server in servers:
        server.__enter__()
    try:
        spec = make_search_spec(
            tmp_path, *servers, peak_from_qps=start * limit, peak_budget_minutes=3.0, max_in_flight=256
        )
        folder, outcome = search(spec, tmp_path / "root")
    finally:
        for server in servers:
            server.__exit__()
    peak, attempts = outcome["peak"], outcome["attempts"]
    assert [one["verdict"] for one in attempts][-1] == "VALID" and attempts[-1]["samples"] == SAMPLES
    assert peak["highest_valid_qps"] == attempts[-1]["target_qps"] == outcome["target_qps"]
    assert 0.6 * limit < peak["highest_valid_qps"] < limit
    assert peak["lowest_failed_qps"] > peak["highest_valid_qps"]
    assert peak["distance_percent"] == pytest.approx(100 * (peak["lowest_failed_qps"] / peak["highest_valid_qps"] - 1))
    assert peak["sentence"].startswith(f"Highest VALID rate {rate(peak['highest_valid_qps'])} samples/s; ")
    assert 2 <= len(peak["probes"]) <= 12 and peak["probes"][0]["held"] is (start < 1)
    for number, probe in enumerate(peak["probes"], 1):
        own = folder / "probes" / str(number)
        rows = [json.loads(line) for line in (own / "journal.jsonl").read_text().splitlines()]
        assert len(rows) == probe["samples"] < SAMPLES
        assert probe.items() <= json.loads((own / "probe.json").read_text()).items()
    summary = folder / "attempts" / str(len(attempts)) / "performance" / "mlperf_log_summary.txt"
    assert "Result is : VALID" in summary.read_text() and not (folder / "performance").exists()


@pytest.mark.long
def test_half_of_the_runs_at_the_stated_true_rate_are_valid() -> None:
    load, runs = bench.workload(), 12
    below, above = (
        sum(bench.run(load, Step("attempt", factor * bench.TRUTH_QPS, FULL_SAMPLES), seed).held for seed in range(runs))
        for factor in (0.99, 1.01)
    )
    assert above < runs / 2 < below


@pytest.mark.long
def test_twenty_searches_in_virtual_time_end_valid_near_the_truth() -> None:
    load = bench.workload()
    searches = {seed: bench.search(load, seed, bench.capacity()) for seed in range(400, 420)}
    assert [seed for seed, one in searches.items() if not one.valid or one.steps[-1].samples != FULL_SAMPLES] == []
    assert min(one.rate for one in searches.values()) >= 0.97 * bench.TRUTH_QPS
    assert max(one.count("probe") for one in searches.values()) <= 12
    assert max(one.lengths for one in searches.values()) <= 2.5


def test_a_budget_too_short_for_a_whole_run_is_an_error(tmp_path: Path) -> None:
    with FakeServer(**COSTS) as server:
        spec = make_search_spec(tmp_path, server, peak_from_qps=50.0, peak_budget_minutes=0.05)
        with pytest.raises(BadInput, match=r"peak_budget_minutes = 0\.05: a whole performance run at the calibrated"):
            search(spec, tmp_path / "root")


def test_loadgens_order_is_predicted(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1, tokens=4) as server:
        spec = make_spec(tmp_path, server, target_qps=50.0, limits={"min_duration_s": 4.0})
        expected = order(spec, tmp_path, 240)
        run_loadgen(spec, samples(spec), "performance", tmp_path, 50.0, lambda progress: None)
    rows = sorted(
        (json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()),
        key=lambda row: float(row["issued_s"]),
    )
    assert [row["qsl_idx"] for row in rows] == expected[: len(rows)].tolist() and len(rows) >= 240
    issued = np.array([row["issued_s"] for row in rows])
    late = issued - issued[0] - arrivals(len(rows)) / 50
    assert abs(float(np.median(late))) < 0.05 and float(np.abs(late).max()) < 1


@pytest.mark.long
def test_a_search_that_loses_an_engine_ends_with_one_whole_run(tmp_path: Path) -> None:
    """Fault: one of two engines is killed in a probe of a search."""
    with FakeServer(**COSTS) as lives, FakeServer(**COSTS) as lost:
        start_qps = 0.5 * LIMIT_QPS
        spec = make_search_spec(
            tmp_path, lives, lost, peak_from_qps=start_qps, peak_budget_minutes=3.0, max_in_flight=256
        )

        def kill(status: dict[str, Any]) -> None:
            if status["phase"] == "probing" and status["samples_done"] > 10:
                lost.process.kill()

        assert run_store.create(spec, tmp_path / "root")
        folder = execute(spec, tmp_path / "root", samples(spec), on_status=kill)
    outcome = json.loads((folder / "outcome.json").read_text())
    first, *later = outcome["engine_losses"]
    assert first["engine"] == "engine1" and first["moved"] >= 0
    assert [loss["moved"] for loss in later] == [0]  # it was away when the whole run began
    assert first["folder"].startswith("probes/") and later[0]["folder"] == "attempts/1"
    assert json.loads((folder / first["folder"] / "probe.json").read_text())["engine_lost"] is True
    (attempt,) = outcome["attempts"]
    assert attempt["engine_lost"] is True
    assert (attempt["target_qps"], attempt["samples"], attempt["verdict"]) == (start_qps, SAMPLES, "INVALID")
    assert attempt["reason"].startswith("engine engine1 was lost after ") and not attempt["repeatable"]
    peak = outcome["peak"]
    assert len(peak["probes"]) == 1 and (peak["highest_valid_qps"], peak["lowest_failed_qps"]) == (None, None)
