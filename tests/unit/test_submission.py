"""A submission's tree from finished runs, what is refused, and the check of the tree by the smallest mutations."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import BadInput
from harness.files import sha256_file
from harness.report import Inputs, Result, judged
from harness.report.machines import EngineSettings
from harness.report.record import Level, Reason, Verdict
from harness.submission import Submission, check, submission
from harness.submission.rules import FILLED_SYSTEM_KEYS, SYSTEM_KEYS
from harness.submission.system import weight_type
from tests.conftest import REPOSITORY
from tests.unit.results_tree import TINY, edit
from tests.unit.submission_runs import ANSWERS, configure, submittable


def answer(out: Path, **changes: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "system.yml").write_text(yaml.safe_dump({**ANSWERS, **changes}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return submittable(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def records(runs: list[Path]) -> dict[Path, tuple[Result, Inputs]]:
    return {run: judged(run) for run in runs}


@pytest.fixture(autouse=True)
def known_records(records: dict[Path, tuple[Result, Inputs]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs that no test changes are judged once for all."""
    monkeypatch.setattr("harness.submission.runs.judged", lambda path: records.get(path) or judged(path))


Describe = Callable[..., None]


@pytest.fixture
def describe(records: dict[Path, tuple[Result, Inputs]], monkeypatch: pytest.MonkeyPatch) -> Describe:
    """Let the runs' records say something else of the machines of some nodes, in all runs or in one."""

    def describe(nodes: Sequence[str] = ("alpha", "beta"), run: str = "", host: Any = None, **facts: Any) -> None:
        def changed(path: Path) -> tuple[Result, Inputs]:
            result, inputs = records[path]
            if run not in path.name:
                return result, inputs
            others = []
            for node in result.nodes:
                own = {**facts, "host": {**node.machine.host, **(host or {})}} if node.name in nodes else {}
                others.append(node.model_copy(update={"machine": node.machine.model_copy(update=own)}))
            return result.model_copy(update={"nodes": tuple(others)}), inputs

        monkeypatch.setattr("harness.submission.runs.judged", changed)

    return describe


@pytest.fixture(scope="module")
def made(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Submission:
    out = tmp_path_factory.mktemp("out")
    answer(out)
    return submission(runs, "Example", out)


@pytest.fixture
def tree(made: Submission, tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(
            made.path,
            tmp_path / "tree",
            ignore=shutil.ignore_patterns("harness", "roles", "plugins", "requirements", "playbooks", "container"),
        )
    )


def problems(tree: Path) -> list[str]:
    return [str(line) for line in check(tree) if line.problem]


def test_two_valid_runs_make_a_closed_tree_that_meets_every_rule(made: Submission) -> None:
    assert [str(line) for line in made.lines if line.problem] == []
    assert made.division == "closed" and made.changed and made.good
    home = made.path / "closed/Example"
    (system,) = (home / "results").iterdir()
    assert system.name == "2x_ExampleServer_100_1x_NVIDIA_A30_each"
    files = {
        str(path.relative_to(system / "llama3.1-8b/Server"))
        for path in (system / "llama3.1-8b/Server").rglob("*")
        if path.is_file()
    }
    assert files == {
        "measurements.json",
        "user.conf",
        "README.md",
        "performance/run_1/mlperf_log_summary.txt",
        "performance/run_1/mlperf_log_detail.txt",
        "accuracy/accuracy.txt",
        "accuracy/mlperf_log_accuracy.json",
        "accuracy/mlperf_log_detail.txt",
        "accuracy/mlperf_log_summary.txt",
        "TEST06/verify_accuracy.txt",
        "TEST06/accuracy/mlperf_log_accuracy.json",
    }
    assert (home / "src/llama3.1-8b/harness/load/loadgen.py").is_file()
    assert (home / "src/llama3.1-8b/playbooks/benchmark.yml").is_file()
    repeated = json.loads((home / "src/llama3.1-8b/runs/Server.json").read_text())
    assert repeated["specification"]["scenario"] == "server"
    assert [engine["max_num_seqs"] for engines in repeated["engines"].values() for engine in engines] == [8, 8]
    assert not list(home.rglob("*.pyc"))
    assert "not quantized" in (home / "documentation/calibration.md").read_text()


def test_the_system_is_described_by_what_was_measured_and_answered(made: Submission) -> None:
    (path,) = (made.path / "closed/Example/systems").iterdir()
    described = json.loads(path.read_text())
    assert set(described) == set(SYSTEM_KEYS) and len(SYSTEM_KEYS) == 35 and len(FILLED_SYSTEM_KEYS) == 26
    expected = {
        "number_of_nodes": "2",
        "host_processors_per_node": "2",
        "host_processor_core_count": "16",
        "host_processor_frequency": "3700 MHz",
        "accelerators_per_node": "1",
        "accelerator_model_name": "NVIDIA A30",
        "accelerator_host_interconnect": "PCIe gen 4 ×16",
        "host_networking": "Ethernet 10GbE",
        "host_storage_capacity": "1x 1920 GB + 1x 960 GB",
        "host_storage_type": "NVMe SSD",
        "host_network_card_count": "1x 10 Gbit/s + link down and 1x 1 Gbit/s",
        "accelerator_interconnect": "N/A",
        "system_type": "datacenter",
        "division": "closed",
        "submitter": "Example",
    }
    assert {key: described[key] for key in expected} == expected
    assert described["sw_notes"].startswith("One LoadGen drives 2 engines on 2 nodes over HTTP")
    measurements = json.loads(next(made.path.rglob("Offline/measurements.json")).read_text())
    assert measurements["weight_data_types"] == "bf16"
    assert measurements["starting_weights_filename"] == "Llama-3.1-8B-Instruct"


def test_the_same_call_changes_nothing_and_another_tree_is_not_overwritten(made: Submission, runs: list[Path]) -> None:
    out = made.path.parent
    assert submission(runs, "Example", out).changed is False
    readme = next(made.path.rglob("Offline/README.md"))
    honest = readme.read_text()
    readme.write_text("mine")
    with pytest.raises(BadInput, match="holds another tree"):
        submission(runs, "Example", out)
    assert readme.read_text() == "mine"
    readme.write_text(honest)


def test_what_cannot_be_measured_is_asked_for_once_and_never_guessed(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"system.yml has no answer to system_name, status, .*fill them in"):
        submission(runs, "Example", tmp_path)
    file = tmp_path / "system.yml"
    written = file.read_text()
    assert set(ANSWERS) <= set(yaml.safe_load(written)) and written.count("\n# ") > len(ANSWERS)
    assert not (tmp_path / "submission").exists()
    some = {**ANSWERS, "cooling": "", "retraining": "no"}
    file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in some.items()).replace('"no"', "no"))
    with pytest.raises(BadInput, match="has no answer to cooling;"):
        submission(runs, "Example", tmp_path)
    kept = yaml.safe_load(file.read_text())
    assert (kept["host_networking"], kept["cooling"], kept["retraining"]) == ("Ethernet 10GbE", "", "no")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[1, 2]", "holds no keys"),
        ("a: [", "is not YAML"),
        ("cooling: [air]", r"cooling = \['air'\]: give text or a number"),
        ("host_memory_capacity: 1", "host_memory_capacity is unknown, or is measured"),
        (yaml.safe_dump({**ANSWERS, "status": "soon"}), "status = 'soon': give available, preview, rdi"),
    ],
)
def test_a_wrong_answer_is_one_error(runs: list[Path], tmp_path: Path, content: str, error: str) -> None:
    (tmp_path / "system.yml").write_text(content)
    with pytest.raises(BadInput, match=error):
        submission(runs, "Example", tmp_path)


def test_a_fact_that_the_runs_did_not_record_is_asked_for(runs: list[Path], tmp_path: Path, describe: Describe) -> None:
    describe(host={"cpu_sockets": None})
    out = tmp_path / "out"
    answer(out)
    with pytest.raises(BadInput, match="has no answer to host_processors_per_node;"):
        submission(runs, "Example", out)
    answer(out, host_processors_per_node=2)
    assert submission(runs, "Example", out).good


def test_disks_and_cards_that_a_virtual_machine_hides_are_asked_for_with_an_example(
    runs: list[Path], tmp_path: Path, describe: Describe
) -> None:
    describe(host={"disks": [{"kind": None, "gb": 100}], "network_cards": None})
    answer(tmp_path)
    with pytest.raises(BadInput, match="has no answer to host_storage_type, host_network_card_count;"):
        submission(runs, "Example", tmp_path)
    comment = "# Its kind, for example: NVMe SSD. The runs did not record it: on the nodes it is not known, not known"
    assert comment in (tmp_path / "system.yml").read_text()


def test_what_connects_a_host_s_accelerators_is_asked_only_of_several(
    runs: list[Path], tmp_path: Path, describe: Describe, records: dict[Path, tuple[Result, Inputs]]
) -> None:
    describe(gpus=records[runs[0]][0].nodes[0].machine.gpus * 2)
    answer(tmp_path)
    with pytest.raises(BadInput, match="has no answer to accelerator_interconnect;"):
        submission(runs, "Example", tmp_path)
    answer(tmp_path, accelerator_interconnect="NVLink")
    made = submission(runs, "Example", tmp_path)
    assert json.loads(next(made.path.rglob("systems/*.json")).read_text())["accelerator_interconnect"] == "NVLink"


def test_a_fact_that_may_stay_empty_is_not_insisted_on(runs: list[Path], tmp_path: Path, describe: Describe) -> None:
    describe(host={"cpu_mhz_max": None})
    answer(tmp_path / "out")
    made = submission(runs, "Example", tmp_path / "out")
    assert made.good
    assert json.loads(next(made.path.rglob("systems/*.json")).read_text())["host_processor_frequency"] == ""


def test_nodes_that_differ_are_named_and_a_count_that_differs_is_asked_for(
    runs: list[Path], tmp_path: Path, describe: Describe, records: dict[Path, tuple[Result, Inputs]]
) -> None:
    (gpu,) = records[runs[0]][0].nodes[1].machine.gpus
    describe(["beta"], gpus=(gpu.model_copy(update={"name": "NVIDIA L4"}),) * 2)
    answer(tmp_path / "out")
    with pytest.raises(BadInput, match="has no answer to accelerator_interconnect, accelerators_per_node;"):
        submission(runs, "Example", tmp_path / "out")
    answer(tmp_path / "out", accelerators_per_node=2, accelerator_interconnect="NVLink")
    made = submission(runs, "Example", tmp_path / "out")
    described = json.loads(next(made.path.rglob("systems/*.json")).read_text())
    assert described["accelerator_model_name"] == "NVIDIA A30 and NVIDIA L4"


def test_quantized_weights_want_their_calibration_described(tmp_path: Path) -> None:
    runs = submittable(tmp_path)
    for run in runs:
        configure(run, quantization="fp8")
    answer(tmp_path / "out", weight_transformations="FP8 with llm-compressor")
    with pytest.raises(BadInput, match="has no answer to calibration;"):
        submission(runs, "Example", tmp_path / "out")
    answer(tmp_path / "out", weight_transformations="FP8", calibration="512 samples of the calibration set")
    made = submission(runs, "Example", tmp_path / "out")
    assert made.good
    assert "512 samples of the calibration set" in next(made.path.rglob("calibration.md")).read_text()
    measurements = json.loads(next(made.path.rglob("Server/measurements.json")).read_text())
    assert measurements["weight_data_types"] == "fp8" and measurements["weight_transformations"] == "FP8"


def test_weights_that_are_stored_quantized_are_seen_without_an_engines_setting(
    runs: list[Path], tmp_path: Path, describe: Describe
) -> None:
    describe(model_quantization="int8")
    answer(tmp_path / "out", calibration="none was needed")
    made = submission(runs, "Example", tmp_path / "out")
    assert json.loads(next(made.path.rglob("Server/measurements.json")).read_text())["weight_data_types"] == "int8"


def test_a_format_made_while_loading_has_the_rules_name() -> None:
    engine = EngineSettings.model_validate(
        {**dict.fromkeys(EngineSettings.model_fields), "name": "e", "kind": "vllm", "state": "ready", "version": {},
         "unverified": (), "settings_sha256": "", "dtype": "bfloat16", "quantization": "fp8_per_channel"}
    )  # fmt: skip
    assert weight_type([], [engine]) == "fp8"


def test_open_has_no_rules_of_accuracy_and_compliance(tree: Path) -> None:
    (tree / "closed").rename(tree / "open")
    edit(next(tree.rglob("systems/*.json")), lambda content: content.update(division="open"))
    server(tree, "TEST06/verify_accuracy.txt").unlink()
    replace(server(tree, "accuracy/accuracy.txt"), "'rouge2': '15.9075'", "'rouge2': '1.0'")
    lines = [str(line) for line in check(tree)]
    assert not [line for line in lines if "NOT MET" in line or "TEST06" in line or "gates" in line]


def test_network_has_closeds_rules(tree: Path) -> None:
    (tree / "closed").rename(tree / "network")
    server(tree, "TEST06/verify_accuracy.txt").unlink()
    assert any("TEST06/verify_accuracy.txt is missing" in str(line) for line in check(tree))


def test_a_resumed_run_is_refused_like_any_that_is_not_valid(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = Reason(code="RESUMED", level=Level.UNOFFICIAL, sentence="the run was resumed")

    def resumed(path: Path) -> tuple[Result, Inputs]:
        result, inputs = judged(path)
        return result.model_copy(update={"verdict": Verdict(level=Level.UNOFFICIAL, reasons=(reason,))}), inputs

    monkeypatch.setattr("harness.submission.runs.judged", resumed)
    with pytest.raises(BadInput, match=r"\[UNOFFICIAL\] the run was resumed.*ask for an unofficial tree"):
        submission(runs, "Example", tmp_path)


def test_runs_that_are_not_valid_are_refused_with_their_reasons(tmp_path: Path) -> None:
    runs = submittable(tmp_path, model=TINY)
    out = tmp_path / "out"
    answer(out)
    with pytest.raises(BadInput, match=r"run offline is UNOFFICIAL: \[UNOFFICIAL\] the model is the sandbox's tiny"):
        submission(runs, "Example", out)
    made = submission(runs, "Example", out, unofficial=True)
    assert made.path.name == "submission-UNOFFICIAL" and made.division == "open"
    assert "division open" in made.summary and "Open because of run server: [UNOFFICIAL] the model is" in made.summary
    (path,) = (made.path / "open/Example/systems").iterdir()
    assert path.name.startswith("UNOFFICIAL_")
    assert "UNOFFICIAL" in json.loads(path.read_text())["sw_notes"]
    assert made.good


OTHER = Reason(code="TINY_MODEL", level=Level.UNOFFICIAL, sentence="the model is Distilled, not Llama-3.1-8B")
ROUGE = Reason(code="ROUGE", level=Level.INVALID, sentence="rouge1 is 38.0000, below the gate")
CACHED = Reason(code="PREFIX_CACHING", level=Level.INVALID, sentence="alpha/alpha-0: prefix caching was on")


@pytest.fixture
def judge(records: dict[Path, tuple[Result, Inputs]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the verdict of the Server run have these reasons."""

    def judge(*reasons: Reason) -> None:
        def changed(path: Path) -> tuple[Result, Inputs]:
            result, inputs = records[path]
            level = max((reason.level for reason in reasons), key=[Level.UNOFFICIAL, Level.INVALID].index)
            verdict = Verdict(level=level, reasons=reasons) if path.name == "server" else result.verdict
            return result.model_copy(update={"verdict": verdict}), inputs

        monkeypatch.setattr("harness.submission.runs.judged", changed)

    return judge


def test_another_model_whose_figures_hold_is_an_open_submission(
    runs: list[Path], tmp_path: Path, judge: Callable[..., None]
) -> None:
    judge(OTHER, ROUGE)
    answer(tmp_path)
    made = submission(runs, "Example", tmp_path)
    assert made.path.name == "submission" and made.division == "open" and made.good
    reasons = f"[UNOFFICIAL] {OTHER.sentence} [INVALID] {ROUGE.sentence}"
    assert made.open_because == (f"run server: {reasons}",)
    assert json.loads(next(made.path.rglob("open/Example/systems/*.json")).read_text())["division"] == "open"
    assert (
        f"in the Open division because of:\n\n- [UNOFFICIAL] {OTHER.sentence}"
        in server(made.path, "README.md").read_text()
    )


def test_what_no_division_allows_is_refused_also_beside_what_open_allows(
    runs: list[Path], tmp_path: Path, judge: Callable[..., None]
) -> None:
    judge(OTHER, CACHED)
    answer(tmp_path)
    with pytest.raises(BadInput, match=r"run server is INVALID: .*prefix caching was on.*ask for an unofficial tree"):
        submission(runs, "Example", tmp_path)
    made = submission(runs, "Example", tmp_path, unofficial=True)
    assert made.path.name == "submission-UNOFFICIAL" and made.division == "open"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda runs: runs[:1], "runs of scenario Offline: give one of Offline and one of Server or Interactive"),
        (lambda runs: runs[1:], "runs of scenario Server: give"),
        (lambda runs: [*runs, runs[0]], "two runs are of scenario Offline"),
    ],
)
def test_offline_and_another_scenario_are_needed(
    runs: list[Path], tmp_path: Path, change: Callable[[list[Path]], list[Path]], error: str
) -> None:
    answer(tmp_path)
    with pytest.raises(BadInput, match=error):
        submission(change(runs), "Example", tmp_path)


@pytest.mark.parametrize("submitter", ["", "a b", "../x", "ä"])
def test_the_submitter_is_a_name_in_a_path(runs: list[Path], tmp_path: Path, submitter: str) -> None:
    with pytest.raises(BadInput, match="submitter = "):
        submission(runs, submitter, tmp_path)


def test_each_run_must_have_its_three_parts(tmp_path: Path) -> None:
    runs = submittable(tmp_path)
    (runs[1] / "nodes/alpha/compliance/verify_accuracy.txt").unlink()
    with pytest.raises(BadInput, match=r"run server lacks compliance/verify_accuracy.txt.*mode=all"):
        submission(runs, "Example", tmp_path / "out", unofficial=True)


def test_all_runs_must_be_of_one_system(runs: list[Path], tmp_path: Path, describe: Describe) -> None:
    describe(run="offline", driver="570.1")
    with pytest.raises(BadInput, match="not of one system: the driver differ"):
        submission(runs, "Example", tmp_path / "out")


def test_a_long_accuracy_log_is_cut_to_its_ends_and_keeps_its_hash(tmp_path: Path) -> None:
    runs = submittable(tmp_path)
    log = runs[1] / "nodes/alpha/accuracy/mlperf_log_accuracy.json"
    content = "[\n" + "x" * 30_000 + "\n]\n"
    log.write_text(content)
    edit(log.with_name("score.json"), lambda score: score.update(log_sha256=sha256_file(log)))
    text = log.with_name("accuracy.txt").read_text()
    log.with_name("accuracy.txt").write_text(re.sub("hash=.*", f"hash={sha256_file(log)}", text))
    answer(tmp_path / "out")
    made = submission(runs, "Example", tmp_path / "out", unofficial=True)
    copy = next(made.path.rglob("Server/accuracy/mlperf_log_accuracy.json"))
    assert copy.read_text() == content[:4096] + "\n\n...\n\n" + content[-4096:]
    assert f"hash={sha256_file(log)}" in copy.with_name("accuracy.txt").read_text()


def server(tree: Path, name: str) -> Path:
    return next(tree.rglob("llama3.1-8b/Server")) / name


def entry(path: Path, key: str, value: object) -> None:
    """Change one value of a detail log."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        content = json.loads(line.removeprefix(":::MLLOG "))
        if content["key"] == key:
            content["value"] = value
            lines[number] = f":::MLLOG {json.dumps(content)}"
    path.write_text("\n".join(lines) + "\n")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new))


def add(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


PERFORMANCE, ACCURACY = "performance/run_1/mlperf_log_detail.txt", "accuracy/mlperf_log_detail.txt"
LOG_FAULTS = [
    (PERFORMANCE, "effective_min_duration_ms", 599_999, "performance lasted 600 s"),
    (PERFORMANCE, "result_min_duration_met", False, "performance lasted 600 s"),
    (PERFORMANCE, "result_min_queries_met", False, "there were enough queries"),
    (PERFORMANCE, "effective_min_query_count", 0, "there were enough queries"),
    (PERFORMANCE, "effective_qsl_rng_seed", 1, "the seeds are the round's"),
    (ACCURACY, "effective_schedule_rng_seed", 1, "the seeds are the round's"),
    (PERFORMANCE, "effective_scenario", "Offline", "the scenario is the folder's"),
    (PERFORMANCE, "effective_test_mode", "AccuracyOnly", "each log is of its mode"),
    (PERFORMANCE, "effective_performance_sample_count", 13_367, "performance drew from 13368 samples"),
    (ACCURACY, "effective_accuracy_sample_count", 13_367, "accuracy covers 13368 samples"),
    (PERFORMANCE, "early_stopping_met", False, "early stopping was met"),
    (PERFORMANCE, "effective_target_latency_ns", 20_000_000_001, "early stopping was met"),
    (PERFORMANCE, "result_time_per_output_token_99.00_percentile_ns", None, "TTFT and TPOT hold their limits"),
    (PERFORMANCE, "result_validity", "INVALID", "the result is VALID"),
    (PERFORMANCE, "result_completed_tokens_per_second", "fast", "the result is VALID"),
    (PERFORMANCE, "result_completed_samples_per_sec", None, "the result is VALID"),
    (PERFORMANCE, "effective_sample_concatenate_permutation", False, "every sample was issued equally often"),
    (PERFORMANCE, "requested_use_token_latencies", False, "token latencies were measured"),
    (PERFORMANCE, "loadgen_version", "5.1.0 @ 0", "LoadGen is 6.0.17"),
]


@pytest.mark.parametrize(("name", "key", "value", "rule"), LOG_FAULTS)
def test_the_check_sees_a_changed_value_of_a_log(tree: Path, name: str, key: str, value: object, rule: str) -> None:
    entry(server(tree, name), key, value)
    (problem,) = problems(tree)
    assert f"/Server: {rule}: NOT MET" in problem


@pytest.mark.parametrize(("key", "limit_ns"), [
    ("result_first_token_99.00_percentile_latency_ns", 2_000_000_000),
    ("result_time_per_output_token_99.00_percentile_ns", 100_000_000),
])  # fmt: skip
def test_a_percentile_must_be_below_its_limit_as_for_the_official_checker(tree: Path, key: str, limit_ns: int) -> None:
    """LoadGen calls a run VALID whose percentile equals the limit; see the verdict's test of the same values."""
    entry(server(tree, PERFORMANCE), key, limit_ns - 1)
    assert problems(tree) == []
    entry(server(tree, PERFORMANCE), key, limit_ns)
    (problem,) = problems(tree)
    assert f"{key} is {limit_ns}, the limit is {limit_ns}" in problem


def logged_error(tree: Path) -> None:
    with server(tree, ACCURACY).open("a") as log:
        log.write(':::MLLOG {"key": "error_runtime", "value": "bad", "metadata": {"is_error": true}}\n')


def second_value(tree: Path) -> None:
    with server(tree, PERFORMANCE).open("a") as log:
        log.write(':::MLLOG {"key": "result_validity", "value": "INVALID", "metadata": {"is_error": false}}\n')


def system(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda tree: edit(next(tree.rglob("systems/*.json")), change)


TREE_FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (logged_error, "LoadGen logged no errors"),
    (second_value, "LoadGen logged no key twice with different values"),
    (lambda tree: server(tree, "user.conf").write_text(""), "all files are there and not empty"),
    (lambda tree: server(tree, "README.md").unlink(), "all files are there and not empty"),
    (lambda tree: edit(server(tree, "measurements.json"), lambda c: c.pop("retraining")), "measurements.json has all"),
    (lambda tree: server(tree, "measurements.json").write_text("5"), "measurements.json has all keys"),
    (lambda tree: replace(server(tree, "accuracy/accuracy.txt"), "'rouge2': '15.9075'", "'rouge2': '9'"), "the gates"),
    (lambda tree: replace(server(tree, "accuracy/accuracy.txt"), "'gen_len': 8", "'gen_len': 9"), "the gates"),
    (lambda tree: replace(server(tree, "accuracy/accuracy.txt"), "'gen_len': 8", "'gen_len': np.int64(8"), "the gates"),
    (lambda tree: replace(server(tree, "accuracy/accuracy.txt"), "hash=", "hash: "), "accuracy.txt has the log's hash"),
    (lambda tree: server(tree, "accuracy/mlperf_log_accuracy.json").write_text("x" * 10_241), "log is truncated"),
    (lambda tree: replace(server(tree, "TEST06/verify_accuracy.txt"), "EOS check pass: True", "EOS check pass: False"),
     "verify_accuracy.txt says that TEST06 passed"),
    (lambda tree: replace(server(tree, "TEST06/verify_accuracy.txt"), "True\nEOS", "Skipped\nEOS"),
     "verify_accuracy.txt says that TEST06 passed"),
    (lambda tree: replace(server(tree, "TEST06/accuracy/mlperf_log_accuracy.json"), '"token_count" : 8',
                          '"token_count" : 9'), "TEST06 follows from its log"),
    (lambda tree: replace(server(tree, "performance/run_1/mlperf_log_summary.txt"), "Result is : VALID",
                          "Result is : INVALID"), "the result is VALID"),
    (lambda tree: (tree / "notes").mkdir(), "only divisions lie in the root"),
    (lambda tree: next(tree.rglob("systems")).joinpath("other.json").write_text("{}"), "each system has a description"),
    (system(lambda c: c.pop("sw_notes")), "the system's description has all keys"),
    (system(lambda c: c.update(cooling="")), "the keys that need a value have one"),
    (system(lambda c: c.update(status="soon")), "the status is known"),
    (system(lambda c: c.update(system_type="cloud")), "the system's type is known"),
    (system(lambda c: c.update(submitter="Other")), "submitter and division are those of the folders"),
    (system(lambda c: c.update(division="open")), "submitter and division are those of the folders"),
    (system(lambda c: c.update(is_network="True")), "only the Network division is a network system"),
    (system(lambda c: c.update(number_of_nodes="two")), "counts are numbers"),
    (lambda tree: next(tree.rglob("calibration.md")).write_text(""), "calibration is documented"),
    (lambda tree: shutil.rmtree(next(tree.rglob("src"))), "there is source code"),
    (lambda tree: (next(tree.rglob("src")) / "empty").mkdir(), "no link, hidden file,"),
    (lambda tree: (next(tree.rglob("src")) / ".notes").write_text("mine"), "no link, hidden file,"),
    (lambda tree: (next(tree.rglob("src")) / "my notes").write_text("mine"), "no link, hidden file,"),
    (lambda tree: add(server(tree, "accuracy/accuracy.txt"), "{'rouge1': '1.0'}\n"), "accuracy.txt meets the gates"),
    (lambda tree: shutil.rmtree(server(tree, "")), "the required scenarios are there"),
    (lambda tree: next(tree.rglob("llama3.1-8b/Offline")).rename(server(tree, "").parent / "offline"), "the required"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "rule"), TREE_FAULTS)
def test_the_check_sees_the_smallest_fault_of_a_tree(tree: Path, fault: Callable[[Path], object], rule: str) -> None:
    fault(tree)
    assert any(rule in problem for problem in problems(tree)), problems(tree)


def test_interactive_is_judged_by_its_own_limits(tree: Path) -> None:
    server(tree, "").rename(server(tree, "").parent / "Interactive")
    path = next(tree.rglob("llama3.1-8b/Interactive")) / PERFORMANCE
    entry(path, "result_first_token_99.00_percentile_latency_ns", 500_000_000)
    assert [line for line in problems(tree) if "TTFT and TPOT" in line and "500000000" in line]


def test_a_folder_without_a_tree_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give the root of a tree"):
        list(check(tmp_path))


def test_the_commands_say_every_rule_and_end_by_it(tree: Path, runs: list[Path], tmp_path: Path) -> None:
    words = ["submission", *map(str, runs), "--submitter", "Example", "--out", str(tmp_path / "out"), "--json"]
    assert isinstance(CliRunner().invoke(cli, words, standalone_mode=False).exception, BadInput)
    answer(tmp_path / "out")
    written = CliRunner().invoke(cli, words, standalone_mode=False)
    assert written.return_value == 0 and json.loads(written.stdout)["broken"] == 0
    good = CliRunner().invoke(cli, ["check-submission", str(tree)], standalone_mode=False)
    assert good.return_value == 0 and "rules are met" in good.stdout.splitlines()[-1]
    server(tree, "user.conf").unlink()
    bad = CliRunner().invoke(cli, ["check-submission", str(tree)], standalone_mode=False)
    assert bad.return_value == 5 and "user.conf is missing" in bad.stdout


def test_the_playbook_asks_then_writes_and_then_changes_nothing(runs: list[Path], tmp_path: Path) -> None:
    def play(*words: str) -> subprocess.CompletedProcess[str]:
        given = {"harness_results": str(runs[0].parent), "submissions": str(tmp_path), "submitter": "Example"}
        given |= {"runs": "offline, server"}
        command = [Path(sys.executable).with_name("ansible-playbook"), "playbooks/submission.yml"]
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(
            [*command, "-e", json.dumps(given), *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )

    asked = play()
    assert asked.returncode == 2 and "has no answer to system_name" in " ".join(asked.stdout.split())
    answer(tmp_path / "Example")
    assert "changed=1" in play("--check").stdout and not (tmp_path / "Example/submission").exists()
    written = play()
    assert written.returncode == 0 and "changed=1" in written.stdout, written.stdout
    assert "the seeds are the round's: ok" in written.stdout
    assert f"Submission: {tmp_path}/Example/submission, division closed" in written.stdout
    assert (tmp_path / "Example/submission/closed/Example/results").is_dir()
    assert "changed=0" in play().stdout
