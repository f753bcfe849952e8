"""LoadGen's logs, read from files that real runs of LoadGen 6.0.17 wrote."""

import shutil
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.report import logs
from harness.report.logs import Percentiles
from tests.unit.loadgen_logs import LOGS

SEEDS = (2085463073848966840, 2747215439041700203, 16159082839903944936)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(LOGS / "server_50", tmp_path / "run")
    return tmp_path / "run"


def test_server_record_holds_what_the_log_says() -> None:
    log = logs.read(LOGS / "server_50")
    assert (log.mode, log.scenario, log.loadgen_version, log.seeds) == ("performance", "Server", "6.0.17", SEEDS)
    assert (log.target_qps, log.min_duration_ms, log.ttft_limit_ms, log.tpot_limit_ms) == (40, 0, 2000.0, 100.0)
    assert (log.samples, log.performance_sample_count, log.accuracy_sample_count) == (50, 50, 50)
    assert (log.validity, log.latency_limits_met, log.min_duration_met, log.min_queries_met) == (
        "INVALID", True, True, True)  # fmt: skip
    assert (log.early_stopping_met, log.queries_short) == (False, 409)
    assert (log.samples_per_s, log.tokens_per_s) == (36.5708, 4776.59)
    assert log.ttft == Percentiles(5.390539, 6.920609, 13.029789)
    assert log.tpot == Percentiles(0.354563, 0.367695, 0.589325)
    assert log.end_to_end == Percentiles(50.420124, 56.397293, 80.200514)
    assert (log.num_errors, log.errors) == (0, ())
    assert log.power_begin == "11-23-2026 18:26:40.441"


def test_offline_record_has_no_token_latencies() -> None:
    log = logs.read(LOGS / "offline_50")
    assert (log.scenario, log.validity, log.samples) == ("Offline", "VALID", 50)
    assert (log.query_count, log.samples_per_query) == (1, 50)
    assert (log.samples_per_s, log.tokens_per_s) == (99.8671, 12783)
    assert log.ttft is None and log.tpot is None and log.latency_limits_met is None
    assert log.ttft_limit_ms is None


def test_accuracy_record_has_no_result() -> None:
    log = logs.read(LOGS / "server_50_accuracy")
    assert (log.mode, log.validity, log.samples_per_s, log.ttft, log.num_errors) == ("accuracy", None, None, None, 0)
    assert (log.samples, log.accuracy_sample_count) == (50, 50)


def test_broken_latency_limit_keeps_its_reason() -> None:
    log = logs.read(LOGS / "server_50_over_limit")
    assert log.latency_limits_met is False
    assert log.invalid_reason == "TPOT constrain not met: Reduce target QPS to improve latency."


def test_errors_are_counted_by_message() -> None:
    log = logs.read(LOGS / "server_5_one_token")
    assert log.num_errors == 5
    assert log.errors == (("Number of tokens need to be greater than 1", 5),)


def test_interactive_limits_are_read() -> None:
    log = logs.read(LOGS / "interactive_50")
    assert (log.ttft_limit_ms, log.tpot_limit_ms) == (500.0, 30.0)


@pytest.mark.parametrize("name", ["mlperf_log_detail.txt", "mlperf_log_summary.txt"])
def test_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BadInput, match=name):
        logs.read(copied)


def test_detail_cut_at_a_line_is_refused(copied: Path) -> None:
    path = copied / "mlperf_log_detail.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(BadInput, match="cut short: it has no num_errors"):
        logs.read(copied)


def test_detail_cut_within_a_line_names_the_line(copied: Path) -> None:
    path = copied / "mlperf_log_detail.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1][:40]]))
    with pytest.raises(BadInput, match=f"line {len(lines)} is cut short"):
        logs.read(copied)


def test_empty_detail_is_refused(copied: Path) -> None:
    (copied / "mlperf_log_detail.txt").write_text("")
    with pytest.raises(BadInput, match="no LoadGen entries"):
        logs.read(copied)


def test_empty_summary_is_refused(copied: Path) -> None:
    (copied / "mlperf_log_summary.txt").write_text("")
    with pytest.raises(BadInput, match="no 'Result is' line"):
        logs.read(copied)


def test_summary_of_another_run_is_refused(copied: Path) -> None:
    shutil.copy(LOGS / "offline_50" / "mlperf_log_summary.txt", copied)
    with pytest.raises(BadInput, match=r"says Result is VALID but .* says INVALID"):
        logs.read(copied)
