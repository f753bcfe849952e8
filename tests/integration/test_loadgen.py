"""The real LoadGen over fake engines: its pitfalls, and every way in which a run can fail."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

from harness.errors import BadInput, RunFailed
from harness.load import calibrate_worker, loadgen
from harness.load.loadgen import Outcome, Progress, RunMode, Settings, warm_up
from harness.spec import Spec
from tests.engines import until
from tests.fake_server import FakeServer, answer
from tests.unit.load import SAMPLES, make_spec, prompts, samples, worker_path

pytestmark = pytest.mark.usefixtures(worker_path.__name__)

__all__ = ["worker_path"]


def quiet(progress: Progress) -> None:
    """Ignore progress."""


def run_loadgen(
    spec: Spec, mode: RunMode, run_dir: Path, target_qps: float | None, watch: Callable[[Progress], None]
) -> Outcome:
    return loadgen.run_loadgen(spec, samples(spec), mode, run_dir, target_qps, watch)


def detail(folder: Path) -> list[dict[str, Any]]:
    """All entries of a detail log."""
    lines = (folder / "mlperf_log_detail.txt").read_text().splitlines()
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


def values(folder: Path) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in detail(folder)}


def errors(folder: Path) -> list[str]:
    return [str(entry["value"]) for entry in detail(folder) if entry["metadata"]["is_error"]]


def journal(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()]


def accuracy_log(run_dir: Path) -> dict[int, list[int]]:
    """Ids by local index."""
    entries = json.loads((run_dir / "accuracy" / "mlperf_log_accuracy.json").read_text())
    return {entry["qsl_idx"]: list(memoryview(bytes.fromhex(entry["data"])).cast("i")) for entry in entries}


def workers() -> list[int]:
    """Process ids of workers of this process."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and b"harness.load.worker" in (path.parent / "cmdline").read_bytes():
            pids.append(int(path.parent.name))
    return pids


@pytest.mark.parametrize("scenario", ["server", "interactive", "offline"])
def test_a_share_is_issued_once_by_each_mode_and_answered_with_its_own_answers(tmp_path: Path, scenario: str) -> None:
    with FakeServer(ms_per_token=1, tokens=20) as one, FakeServer(ms_per_token=1, tokens=20) as two:
        spec = make_spec(tmp_path, one, two, scenario=scenario, share={"start": 30, "stop": 90})
        run_dir = tmp_path / "run"
        performance = run_loadgen(spec, "performance", run_dir, 200.0, quiet)
        accuracy = run_loadgen(spec, "accuracy", run_dir, 200.0, quiet)
        expected = {index: answer(prompts()[index], one.set()) for index in range(30, 90)}
    for outcome in (performance, accuracy):
        assert (outcome.samples, outcome.issued, outcome.tokens) == (60, 60, 60 * 20)
        assert outcome.one_token_answers == ()
        assert outcome.client_cpu_s > 0 and outcome.finished_unix > outcome.started_unix
    lines = journal(run_dir)
    for mode in ("performance", "accuracy"):
        part = [line for line in lines if line["mode"] == mode]
        assert {line["qsl_idx"]: line["token_ids"] for line in part} == expected and len(part) == 60
        assert {line["engine"] for line in part} == {"engine0", "engine1"}
        # A busy machine may read a whole answer at once: its first and last token then have one time.
        assert all(0 <= x["issued_s"] <= x["sent_s"] < x["first_s"] <= x["last_s"] for x in part)
        if mode == "performance":
            told = [(x.get("first_logged_s", x["first_s"]), x["last_logged_s"]) for x in part]
            assert all(x["first_s"] <= first <= last for x, (first, last) in zip(part, told, strict=True))
            assert all(x["last_s"] <= x["last_logged_s"] for x in part)
        assert median(x["last_s"] - x["first_s"] for x in part) > 0.01
        assert not errors(run_dir / mode)
        assert values(run_dir / mode)["sut_name"] == "mlperf-distributed (engine0, engine1)"
        assert (run_dir / mode / "mlperf_log_trace.json").stat().st_size == 0
    assert accuracy_log(run_dir) == {index - 30: ids for index, ids in expected.items()}


def test_loadgen_is_told_of_tokens_as_they_come(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=5, first_ms=40, tokens=20) as server:
        run_loadgen(make_spec(tmp_path, server), "performance", tmp_path, 60.0, quiet)
        requests = server.records()
    log_values = values(tmp_path / "performance")
    ttft_ms, latency_ms = (log_values[f"result_{name}mean_latency_ns"] / 1e6 for name in ("first_token_", ""))
    assert ttft_ms >= mean(record["first_s"] - record["arrived_s"] for record in requests) * 1000
    assert latency_ms >= mean(record["last_s"] - record["arrived_s"] for record in requests) * 1000
    assert log_values["result_time_to_output_token_mean"] / 1e6 * 19 == pytest.approx(latency_ms - ttft_ms, rel=0.01)
    # A busy machine may read a whole answer at once, but not all of them: the rest of each takes 95 ms.
    assert log_values["result_first_token_min_latency_ns"] < log_values["result_min_latency_ns"] - 20e6


def test_rates_and_durations_are_those_requested(tmp_path: Path) -> None:
    with FakeServer(tokens=4) as server:
        spec = make_spec(tmp_path, server, limits={"min_duration_s": 2.0}, samples=50)
        started = time.monotonic()
        timed = run_loadgen(spec, "performance", tmp_path, 100.0, quiet)
        assert time.monotonic() - started > 2
        assert timed.issued >= 200 and timed.issued % 50 == 0
        paced = run_loadgen(spec, "accuracy", tmp_path, 50.0, quiet)
        assert paced.issued == 50
        assert paced.finished_unix - paced.started_unix > 0.5
        spec = make_spec(tmp_path, server, limits={"min_duration_s": 2.0}, samples=50, scenario="offline")
        offline = run_loadgen(spec, "performance", tmp_path / "offline", 100.0, quiet)
        assert offline.issued == 250 == Settings.of(spec, "performance", 100.0).expected_samples


def test_answers_of_one_token_are_reported(tmp_path: Path) -> None:
    with FakeServer(tokens=8, faults={"one_token": 40}) as server:
        outcome = run_loadgen(make_spec(tmp_path, server), "performance", tmp_path, 300.0, quiet)
    short = {line["qsl_idx"] for line in journal(tmp_path) if line["n_tokens"] == 1}
    assert len(short) == 3
    assert set(outcome.one_token_answers) == short
    assert any("greater than 1" in error for error in errors(tmp_path / "performance"))


def test_an_audit_file_in_the_working_directory_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.config").write_text("*.*.mode = 2\n*.*.min_query_count = 7\n*.*.sample_index_rng_seed = 1\n")
    monkeypatch.chdir(tmp_path)
    with FakeServer(tokens=4) as server:
        outcome = run_loadgen(make_spec(tmp_path, server), "performance", tmp_path / "run", 300.0, quiet)
    assert outcome.issued == SAMPLES
    assert "audit" not in (tmp_path / "run" / "performance" / "mlperf_log_detail.txt").read_text().lower()


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    reports: list[Progress] = []
    with FakeServer(ms_per_token=1, tokens=20) as server:
        run_loadgen(make_spec(tmp_path, server), "performance", tmp_path, 40.0, reports.append)
    assert [one.total for one in reports] == [SAMPLES] * len(reports)
    assert [one.done for one in reports] == sorted(one.done for one in reports)
    last = reports[-1]
    middle = [one for one in reports if one.done < SAMPLES][-1]
    assert len(reports) >= 3 and 0 < middle.done < last.done == SAMPLES
    assert middle.samples_per_s and 0 < middle.samples_per_s < 60
    assert middle.tokens_per_s and abs(middle.tokens_per_s / middle.samples_per_s - 20) < 0.01
    assert last.tpot_ms_p50 and last.tpot_ms_p50 > 0.1
    assert last.ttft_ms_p99 and last.ttft_ms_p50 and last.ttft_ms_p99 >= last.ttft_ms_p50 > 0.5


def test_rare_queries_are_not_a_stall(tmp_path: Path) -> None:
    with FakeServer(tokens=4) as server:
        spec = make_spec(tmp_path, server, samples=4, limits={"stall_timeout_s": 2.0})
        assert run_loadgen(spec, "performance", tmp_path, 0.4, quiet).samples == 4


def test_an_interrupted_caller_leaves_no_worker(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with FakeServer(ms_per_token=1) as server:
        with pytest.raises(KeyboardInterrupt):
            run_loadgen(make_spec(tmp_path, server), "performance", tmp_path, 20.0, interrupt)
    assert not workers()


def test_a_killed_caller_takes_its_worker_along(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from harness.load.loadgen import run_loadgen
        from harness.spec import parse_spec
        from tests.unit.load import samples
        import json
        spec = parse_spec(json.loads(sys.argv[1]))
        run_loadgen(spec, samples(spec), "performance", Path(sys.argv[2]), 20.0, print)
    """
    with FakeServer(ms_per_token=1) as server:
        spec_json = make_spec(tmp_path, server).model_dump_json()
        command = [sys.executable, "-uc", textwrap.dedent(script), spec_json, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as caller:
            assert caller.stdout and caller.stdout.readline()
            children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
            caller.kill()
        assert len(children) == 1
        deadline = time.monotonic() + 5
        while _runs(int(children[0])):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_run_in_one_process_is_refused(tmp_path: Path) -> None:
    script = """
        import dataclasses, json, sys
        from harness.load import loadgen_worker
        from harness.load.loadgen import Settings
        from harness.spec import parse_spec
        from tests.unit.load import prompts
        spec = parse_spec(json.loads(sys.argv[1]))
        settings = dataclasses.asdict(Settings.of(spec, "performance", 300.0))
        payload = {"spec": json.loads(sys.argv[1]), "settings": settings, "directory": sys.argv[2] + "/performance"}
        payload |= {"log": "log", "ends_early": False, "ends_after": None, "prompts": prompts(20)}
        payload |= {"journal": sys.argv[2] + "/journal.jsonl", "qsl_idx": list(range(20))}
        assert loadgen_worker.run(payload, lambda message: None)["samples"] == 20
        loadgen_worker.run(payload, lambda message: None)
    """
    with FakeServer(tokens=2) as server:
        spec_json = make_spec(tmp_path, server, samples=20).model_dump_json()
        command = [sys.executable, "-c", textwrap.dedent(script), spec_json, str(tmp_path)]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60, check=False
        )
    assert result.returncode == 1
    assert "RunFailed: LoadGen can run only once per process" in result.stderr


def test_warming_up_sends_a_few_samples_to_every_engine(tmp_path: Path) -> None:
    with FakeServer(tokens=4, ms_per_token=100) as one, FakeServer(tokens=4, ms_per_token=100) as two:
        spec = make_spec(tmp_path, one, two)
        assert warm_up(spec, samples(spec), tmp_path)
        counts = len(one.records()), len(two.records())
    assert counts[0] == counts[1] and counts[0] in (8, 12)  # a second round tells that the first was no slower


def test_warming_up_goes_on_while_it_gets_quicker(tmp_path: Path) -> None:
    with FakeServer(tokens=4, ms_per_token=400) as server:
        spec = make_spec(tmp_path, server)

        def quicker() -> None:  # requests that have been taken keep their pace
            for count, pace in ((4, 200), (8, 100)):
                assert until(lambda count=count: len(server.records()) >= count, 30)
                server.set(ms_per_token=pace)

        thread = threading.Thread(target=quicker)
        thread.start()
        warm_up(spec, samples(spec), tmp_path)
        thread.join()
        assert len(server.records()) >= 16


def test_warming_up_ends_at_its_longest_time_and_says_that_it_was_not_steady(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate_worker, "_WARM_UP_LONGEST_S", 0.0)
    with FakeServer(tokens=4) as server:
        spec = make_spec(tmp_path, server)
        payload = {"spec": spec.model_dump(mode="json"), "prompts": samples(spec).inputs}
        assert calibrate_worker.warm_up(payload, lambda message: None) == {"samples": 4, "steady": False}


def test_errors_are_reported_before_loadgen_starts(tmp_path: Path) -> None:
    with FakeServer(website=True) as server:
        spec = make_spec(tmp_path, server)
        with pytest.raises(BadInput, match="text/html"):
            run_loadgen(spec, "performance", tmp_path, 1.0, quiet)
    with pytest.raises(BadInput, match="target_qps is missing for server performance"):
        run_loadgen(spec, "performance", tmp_path, None, quiet)


def test_a_configuration_that_loadgen_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.load import loadgen_worker

    settings = Settings.of(_settings_spec(tmp_path), "performance", 10.0)
    assert loadgen_worker._test_settings(settings, tmp_path, "log").use_token_latencies
    (tmp_path / "user.conf").unlink()
    monkeypatch.setattr(Path, "write_text", lambda path, text: len(text))  # as on a file system that loses it
    with pytest.raises(RunFailed, match=r"LoadGen rejected .*user.conf with code -2"):
        loadgen_worker._test_settings(settings, tmp_path, "log")


def _settings_spec(folder: Path, **values: Any) -> Spec:
    class Nowhere(FakeServer):
        url = "http://127.0.0.1:1"

    return make_spec(folder, Nowhere(), **values)


LOADGEN = """
import sys
import mlperf_loadgen as lg
folder, model, scenario = sys.argv[1:]
settings = lg.TestSettings()
assert settings.FromConfig(folder + "/user.conf", model, scenario) == 0
settings.scenario, settings.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
ended = []
def issue(queries):
    for query in queries:
        if scenario == "Server":
            lg.FirstTokenComplete([lg.QuerySampleResponse(query.id, 0, 0)])
        lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0, 2)])
log = lg.LogSettings()
log.enable_trace, log.log_output.outdir = False, folder
library = lg.ConstructQSL(SAMPLES, SAMPLES, lambda _: None, lambda _: None)
for _ in range(RUNS):
    lg.StartTestWithLogSettings(lg.ConstructSUT(issue, lambda: None), library, settings, log, folder + "/none")
    settings = lg.TestSettings()
    settings.FromConfig(folder + "/user.conf", model, scenario)
    settings.scenario, settings.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
"""


def loadgen_ran(folder: Path, model: str, conf: str, samples: int, runs: int = 1) -> None:
    """Run the real LoadGen with these settings, valid or not."""
    (folder / "user.conf").write_text(conf)
    script = LOADGEN.replace("SAMPLES", str(samples)).replace("RUNS", str(runs))
    subprocess.run([sys.executable, "-c", script, str(folder), model, "Server"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda conf: conf, None),
        (lambda conf: conf.replace("performance_sample_count_override = 40", "x = 1"), "performance_sample_count"),
        (lambda conf: conf.replace("min_query_count = 40", "min_query_count = 20"), "min_query_count"),
        (lambda conf: conf.replace("min_duration = 0", "min_duration = 9"), "min_duration_ms = 9 instead of 0"),
        (lambda conf: conf.replace("target_qps = 2000.0", "target_qps = 1000.0"), "target_qps"),
        (lambda conf: conf.replace("llama3_1-8b", "llama3.1-8b"), "requested_use_token_latencies = None"),
        (lambda conf: conf + "*.*.sample_concatenate_permutation = 0\n", "sample_concatenate_permutation"),
    ],
)
def test_loadgens_effective_settings_are_compared_with_the_requested_ones(
    tmp_path: Path, change: Callable[[str], str], complaint: str | None
) -> None:
    settings = Settings.of(_settings_spec(tmp_path, samples=40), "performance", 2000.0)
    conf = change(settings.user_conf)
    loadgen_ran(tmp_path, conf.split(".Server")[0], conf, 40)
    outcome = Outcome("performance", 0.0, 1.0, 40, 80, 0.0, 40)
    if complaint is None:
        loadgen._check(tmp_path, settings, outcome)
        with pytest.raises(RunFailed, match="issued 40 samples in passes of 40 and 39 were answered"):
            loadgen._check(tmp_path, settings, dataclasses.replace(outcome, samples=39))
        interactive = _settings_spec(tmp_path, samples=40, scenario="interactive")
        with pytest.raises(RunFailed, match="ttft_latency = 2000000000 instead of 500000000"):
            loadgen._check(tmp_path, Settings.of(interactive, "performance", 2000.0), outcome)
        (tmp_path / "mlperf_log_summary.txt").write_text("")
        with pytest.raises(RunFailed, match="truncated; check whether the disk is full"):
            loadgen._check(tmp_path, settings, outcome)
    else:
        with pytest.raises(RunFailed, match=complaint):
            loadgen._check(tmp_path, settings, outcome)


def test_a_second_run_would_be_noticed_by_its_seeds(tmp_path: Path) -> None:
    settings = Settings.of(_settings_spec(tmp_path, samples=40), "performance", 2000.0)
    loadgen_ran(tmp_path, "llama3_1-8b", settings.user_conf, 40, runs=2)
    log_values = values(tmp_path)
    assert log_values["effective_qsl_rng_seed"] == 0 != settings.effective["effective_qsl_rng_seed"]
    with pytest.raises(RunFailed, match="instead of"):
        loadgen._check(tmp_path, settings, Outcome("performance", 0.0, 1.0, 40, 80, 0.0, 40))
