"""Metrics of a run, read back with Prometheus' own parser."""

import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.errors import NotReady
from harness.load.answer import Answer
from harness.load.progress import Progress, Tally
from harness.metrics import RunMetrics, served
from harness.spec import Spec, parse_spec


def spec(port: int | None = None) -> Spec:
    return parse_spec(
        {
            "run_id": "a",
            "model": "/model",
            "dataset": "/data.json",
            "samples": 4,
            "engines": [{"name": "e", "url": "http://127.0.0.1:1"}],
            "node": "jw2",
            "metrics_port": port,
        }
    )


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def progress(*answers: tuple[float, float]) -> Progress:
    """Progress after answers of 11 tokens, each with (TTFT, TPOT) in seconds; a snapshot was taken before them."""
    tally = Tally()
    tally.progress(0.0, 0.0, 4, 0)
    for ttft, tpot in answers:
        tally.add(1.0, Answer(list(range(11)), 1.0, 1.0 + ttft, 1.0 + ttft + 10 * tpot))
    return tally.progress(2.0, 2.0, 4, 1)


def scrape(port: int) -> dict[tuple[str, str], float]:
    """(sample name, phase or bucket) to value, as served."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, f"{sample.labels.get('phase', '')}{sample.labels.get('le', '')}"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_served_metrics_are_those_measured(port: int) -> None:
    metrics = RunMetrics(spec(port))
    with served(metrics, port):
        metrics.enter("performance")
        metrics.note(progress((0.3, 0.02), (0.45, 0.02), (1.9, 0.09)))
        samples = scrape(port)
        assert samples["mlperf_samples_total", "performance"] == 3
        assert samples["mlperf_samples_expected", "performance"] == 4
        assert samples["mlperf_samples_per_second", "performance"] == 1.5
        assert samples["mlperf_tokens_per_second", "performance"] == 16.5
        assert samples["mlperf_phase", "performance"] == 1
        assert samples["mlperf_phase", "preparing"] == 0
        buckets = {
            bound: samples["mlperf_ttft_seconds_bucket", f"performance{bound}"] for bound in ("0.35", "0.5", "2")
        }
        assert buckets == {"0.35": 1, "0.5": 2, "2": 3}
        assert samples["mlperf_ttft_seconds_count", "performance"] == 3
        assert samples["mlperf_ttft_seconds_sum", "performance"] == pytest.approx(2.65)
        assert samples["mlperf_tpot_seconds_bucket", "performance0.025"] == 2
        # What a phase has done stays when the next one begins; its rate does not.
        metrics.enter("accuracy")
        metrics.note(progress((0.3, 0.02)))
        samples = scrape(port)
        assert samples["mlperf_samples_total", "performance"] == 3
        assert samples["mlperf_samples_total", "accuracy"] == 1
        assert samples["mlperf_samples_per_second", "performance"] == 0
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_progress_is_unchanged_after_a_pipe() -> None:
    from dataclasses import asdict

    import orjson

    there = progress((0.3, 0.02))
    back = Progress.parse(orjson.loads(orjson.dumps(asdict(there))))
    assert asdict(back) == {
        **asdict(there),
        **{k: {**asdict(there)[k], "at_most": list(asdict(there)[k]["at_most"])} for k in ("ttft", "tpot")},
    }


def test_a_port_in_use_is_named(port: int) -> None:
    with served(RunMetrics(spec()), port), pytest.raises(NotReady, match=f"metrics_port = {port}.*in use"):
        with served(RunMetrics(spec()), port):
            pass


def test_without_a_port_nothing_is_served() -> None:
    with served(RunMetrics(spec()), None):
        pass


def test_dashboard_queries_metrics_that_are_served(port: int) -> None:
    dashboard = (Path(__file__).parents[2] / "roles/monitoring/files/dashboard.json").read_text()
    metrics = RunMetrics(spec())
    metrics.enter("performance")
    metrics.note(progress((0.3, 0.02)))
    with served(metrics, port):
        names = {name for name, _ in scrape(port)}
    import re

    # Those of results come from files (test_energy.py).
    assert set(re.findall(r"mlperf_(?!result_)[a-z_]+", dashboard)) <= names
