"""A compliance run of the real LoadGen over fake engines, from the run to the verdict."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import compliance, report, run_store
from harness.report import Result
from harness.run_phases import execute
from harness.sandbox.model import model_files
from harness.spec import Spec, parse_spec
from tests.fake_server import FakeServer
from tests.integration.test_run import make_spec
from tests.unit.load import worker_path

pytestmark = pytest.mark.usefixtures(worker_path.__name__)

__all__ = ["worker_path"]

PASSED = "EOS check pass: True\nSample length check pass: True\nTEST06 verification complete\n"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(ms_per_token=1, tokens=12) as running:
        yield running


def run(folder: Path, *servers: FakeServer, **values: Any) -> Path:
    """The directory of a run that was executed here."""
    spec: Spec = make_spec(folder, *servers, target_qps=400.0, **values)
    if "accuracy" in spec.mode.runs:
        for name, content in model_files(1).items():
            (spec.model / name).write_bytes(content)
    run_store.create(spec, folder)
    return execute(spec, folder, run_store.validate(spec, folder))


def reasons(result: Result) -> list[str]:
    return [reason.sentence for reason in result.verdict.reasons if reason.code in ("COMPLIANCE", "FILES_WHOLE")]


@pytest.mark.parametrize("scenario", ["server", "offline"])
def test_all_runs_performance_accuracy_and_compliance(tmp_path: Path, server: FakeServer, scenario: str) -> None:
    (tmp_path / "audit.config").write_text("*.*.min_query_count = 7\n")
    folder = run(tmp_path, server, scenario=scenario, mode="all")
    own = folder / "compliance"
    values = {}
    for line in (own / "mlperf_log_detail.txt").read_text().splitlines():
        entry = json.loads(line.removeprefix(":::MLLOG "))
        values[entry["key"]] = entry["value"]
    assert {key: values[key] for key in compliance.EFFECTIVE} == compliance.EFFECTIVE
    assert values["effective_performance_sample_count"] == 120
    answers = list(compliance.read(own / "mlperf_log_accuracy.json"))
    assert len(answers) == 100
    first = "Skipped" if scenario == "offline" else "True"
    assert (own / "verify_accuracy.txt").read_text() == f"First token check pass: {first}\n{PASSED}"
    outcome = json.loads((folder / "outcome.json").read_text())
    run_of = parse_spec(json.loads((folder / "spec.json").read_text())).identity
    for name in ("manifest.json", "outcome.json", "status.json", "accuracy/score.json", "compliance/test06.json"):
        assert json.loads((folder / name).read_text()).items() >= run_of.items(), name
    assert [outcome[mode]["samples"] for mode in ("performance", "accuracy", "compliance")] == [120, 120, 100]
    assert reasons(report.report(folder)) == []


def test_compliance_alone_is_no_result_but_is_judged(tmp_path: Path, server: FakeServer) -> None:
    folder = run(tmp_path, server, mode="compliance")
    result = report.report(folder)
    assert {"BOTH_MODES"} <= {reason.code for reason in result.verdict.reasons}
    assert "no performance and no accuracy run" in " ".join(reason.sentence for reason in result.verdict.reasons)
    assert reasons(result) == []
    assert not (folder / "performance").exists() and not (folder / "accuracy").exists()
    verified = folder / "compliance" / compliance.VERIFIED
    honest = verified.read_text()
    verified.write_text(honest.replace("EOS check pass: True", "EOS check pass:  True"))
    assert any("does not say what follows" in sentence for sentence in reasons(report.report(folder)))
    verified.write_text(honest)
    log = folder / "compliance" / compliance.LOG
    entries = json.loads(log.read_text())
    entries[7]["data"] = entries[8]["data"]
    entries[7]["token_data"] = entries[8]["token_data"]
    log.write_text(json.dumps(entries))
    assert any("the journal has other answers" in sentence for sentence in reasons(report.report(folder)))


def test_an_answer_after_an_end_token_fails_the_test(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1, tokens=12, faults={"after_end": 30}) as server:
        folder = run(tmp_path, server, mode="compliance")
    assert "EOS check pass: False" in (folder / "compliance" / "verify_accuracy.txt").read_text()
    result = report.report(folder)
    assert result.verdict.level == "INVALID"
    assert any("an answer goes on after an end token" in sentence for sentence in reasons(result))
