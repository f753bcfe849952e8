"""Shortened searches for the highest VALID rate: the real LoadGen over fake engines whose limit is known."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import run_store
from harness.errors import RunFailed
from harness.load.loadgen import run_loadgen
from harness.load.schedule import arrivals, order
from harness.run_phases import execute
from harness.spec import Spec
from tests.fake_server import FakeServer
from tests.integration.test_run import spec
from tests.unit.load import VOCABULARY, samples, worker_path

pytestmark = pytest.mark.usefixtures(worker_path.__name__)

__all__ = ["worker_path"]

SAMPLES = 700
PROMPT_TOKENS, ANSWER_TOKENS = 32, 20
# A step takes 10 ms, 0.33 ms a sequence and 0.067 ms a prompt's token: at r samples/s 10 / (1 - 0.0088 r) ms, and
# Interactive allows 30 ms.
COSTS = {"step_ms": 10.0, "decode_ms_per_sequence": 0.33, "prefill_ms_per_token": 0.067, "tokens": ANSWER_TOKENS}
LIMIT_QPS = (1 - 10 / 30) / 0.0088


def asked(folder: Path, *servers: FakeServer, **values: Any) -> Spec:
    """A spec of a search over as many samples as early stopping can confirm, one forgiven."""
    source, data = random.Random(3), folder / "peak.json"
    prompts = [[source.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(SAMPLES)]
    folder.mkdir(exist_ok=True)
    common = {"target_qps": "peak", "scenario": "interactive", "mode": "performance", "samples": SAMPLES}
    made = spec(folder, *servers, dataset=data, **{**common, **values})
    data.write_text(json.dumps([{"tok_input": ids, "input": "a", "output": "b"} for ids in prompts]))
    return made


def search(made: Spec, root: Path) -> tuple[Path, dict[str, Any]]:
    assert run_store.create(made, root)
    folder = execute(made, root, samples(made))
    return folder, json.loads((folder / "outcome.json").read_text())


@pytest.mark.parametrize(
    ("engines", "start", "limit"),
    [(1, 0.7, LIMIT_QPS), (1, 1.4, LIMIT_QPS), (2, 0.6, 2 * LIMIT_QPS)],
    ids=["from a rate that holds", "from one that does not", "two engines"],
)
def test_a_search_ends_with_a_whole_run_that_is_valid(tmp_path: Path, engines: int, start: float, limit: float) -> None:
    servers = [FakeServer(**COSTS) for _ in range(engines)]
    for server in servers:
        server.__enter__()
    try:
        made = asked(tmp_path, *servers, peak_from_qps=start * limit, peak_budget_minutes=3.0, max_in_flight=256)
        folder, outcome = search(made, tmp_path / "root")
    finally:
        for server in servers:
            server.__exit__()
    peak, attempts = outcome["peak"], outcome["attempts"]
    assert [one["verdict"] for one in attempts][-1] == "VALID" and attempts[-1]["samples"] == SAMPLES
    assert peak["highest_valid_qps"] == attempts[-1]["target_qps"] == outcome["target_qps"]
    assert 0.6 * limit < peak["highest_valid_qps"] < 1.1 * limit
    assert peak["lowest_failed_qps"] > peak["highest_valid_qps"]
    assert peak["distance_percent"] == pytest.approx(100 * (peak["lowest_failed_qps"] / peak["highest_valid_qps"] - 1))
    assert peak["sentence"].startswith(f"Highest VALID rate {peak['highest_valid_qps']:g} samples/s; ")
    assert 2 <= len(peak["probes"]) <= 12 and peak["probes"][0]["held"] is (start < 1)
    for number, probe in enumerate(peak["probes"], 1):
        own = folder / "probes" / str(number)
        rows = [json.loads(line) for line in (own / "journal.jsonl").read_text().splitlines()]
        assert len(rows) == probe["samples"] < SAMPLES
        assert probe.items() <= json.loads((own / "probe.json").read_text()).items()
    summary = folder / "attempts" / str(len(attempts)) / "performance" / "mlperf_log_summary.txt"
    assert "Result is : VALID" in summary.read_text() and not (folder / "performance").exists()


def test_a_budget_too_short_for_a_whole_run_is_an_error(tmp_path: Path) -> None:
    with FakeServer(**COSTS) as server:
        made = asked(tmp_path, server, peak_from_qps=50.0, peak_budget_minutes=0.05)
        with pytest.raises(RunFailed, match=r"peak_budget_minutes = 0\.1 is over before a whole performance run"):
            search(made, tmp_path / "root")


def test_what_loadgen_issues_is_known_beforehand(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1, tokens=4) as server:
        made = spec(tmp_path, server, target_qps=50.0, limits={"min_duration_s": 4.0})
        expected = order(made, tmp_path, 240)
        run_loadgen(made, samples(made), "performance", tmp_path, 50.0, lambda progress: None)
    rows = sorted(
        (json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()),
        key=lambda row: float(row["issued_s"]),
    )
    assert [row["qsl_idx"] for row in rows] == expected[: len(rows)].tolist() and len(rows) >= 240
    issued = np.array([row["issued_s"] for row in rows])
    late = issued - issued[0] - arrivals(len(rows)) / 50
    assert abs(float(np.median(late))) < 0.05 and float(np.abs(late).max()) < 1
