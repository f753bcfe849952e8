"""Compliance test TEST06: LoadGen's log of the run, the text that submissions show, and the journal agree."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from harness import compliance as test06
from harness import journal, mllog
from harness.errors import BadInput
from harness.files import read_json
from harness.report.accuracy_rules import few, is_real
from harness.report.evidence.journal import other_outcome
from harness.report.evidence.loadgen import other_settings
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.logs import LoadGenLog
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.spec import EFFECTIVE_SEEDS, LOADGEN_VERSION, Scenario, Spec


def compliance(inputs: Inputs) -> Iterator[Reason]:
    """Reasons from the compliance run of each LoadGen that made one, or was to make one and finished."""
    for loadgen in inputs.loadgens:
        planned = loadgen.spec and "compliance" in loadgen.spec.mode.runs and loadgen.finished
        if loadgen.spec and (planned or (loadgen.path / "compliance").is_dir()):
            try:
                log = loadgen.compliance
                of_log = (*_log_faults(loadgen, log, loadgen.spec), *_run_faults(loadgen, log)) if log else ()
                for what in (*of_log, *_answer_faults(loadgen, loadgen.spec)):
                    yield Rule.COMPLIANCE.reason(node=loadgen.host, what=what)
            except BadInput as error:
                yield Rule.FILES_WHOLE.reason(what=f"{loadgen.host}: {error}")


def _log_faults(loadgen: LoadGenRun, log: LoadGenLog, spec: Spec) -> Iterator[str]:
    for key, value, rule in other_settings(loadgen, spec, "compliance", log):
        yield f"{key} is {value}, the rule is {rule}"
    offline = spec.scenario is Scenario.OFFLINE
    for key, rule in {**EFFECTIVE_SEEDS, "effective_scenario": "Offline" if offline else "Server"}.items():
        if log.values.get(key) != rule:
            yield f"{key} is {log.values.get(key)}, the rule is {rule}"
    if log.loadgen_version != LOADGEN_VERSION:
        yield f"LoadGen's version is {log.loadgen_version}, the rule is {LOADGEN_VERSION}"
    if log.power_end is None:
        yield "LoadGen did not log its end (power_end)"
    if log.num_errors != sum(count for _, count in log.errors):
        yield f"num_errors is {log.num_errors}, the log has {sum(count for _, count in log.errors)}"
    for message, count in log.errors:
        yield f"LoadGen logged an error {count} times: {message}"


def _run_faults(loadgen: LoadGenRun, log: LoadGenLog) -> Iterator[str]:
    """Queries that failed, and numbers of journal, outcome and LoadGen's log that differ."""
    failed = [line for line in loadgen.journal.failed if line.mode == "compliance"]
    if failed:
        yield f"{len(failed)} queries failed, first sample {failed[0].qsl_idx}: {failed[0].reason}"
    rows, part = loadgen.journal.of("compliance"), loadgen.outcome.compliance
    if part is None:
        yield "outcome.json has no record of the run"
        return
    for name, count in (
        ("journal", len(rows)),
        ("outcome", part.samples),
        ("outcome", part.issued),
        ("log", log.samples),
    ):
        if count != test06.ANSWERS:
            yield f"the {name} has {count} queries, the rule is {test06.ANSWERS}"
    for name, value, rule in other_outcome(rows, part):
        yield f"{name}: {value} in the journal, {rule} in outcome.json"


def _answer_faults(loadgen: LoadGenRun, spec: Spec) -> Iterator[str]:
    folder = loadgen.path / "compliance"
    ends = test06.recorded_end_tokens(folder)
    if is_real(loadgen.manifest.model):
        ends |= test06.LLAMA_END_TOKENS
    result = test06.check(folder, spec.scenario is not Scenario.OFFLINE, ends)
    yield from result.failures()
    if result.answers != test06.ANSWERS:
        yield f"the log holds {result.answers} answers, the rule is {test06.ANSWERS}"
    record = read_json(folder / test06.RECORD, "record of the compliance test")
    for name, value in asdict(result).items():
        if name != "end_tokens" and record.get(name) != value:
            yield f"{test06.RECORD} says that {name} is {record.get(name)}; {value} follows from the log"
    if mllog.text(folder / test06.VERIFIED) != result.text():
        yield f"{test06.VERIFIED} does not say what follows from the log: {'; '.join(result.text().splitlines())}"
    lines = journal.read(loadgen.path / "journal.jsonl").answers
    received = Counter(
        (line["qsl_idx"], tuple(line.get("token_ids", ()))) for line in lines if line["mode"] == "compliance"
    )
    start, answers = spec.window.start, list(test06.read(folder / test06.LOG))
    logged = Counter((start + answer.qsl_idx, answer.token_ids) for answer in answers)
    if logged != received:
        other = sorted({index for index, _ in (logged - received) + (received - logged)})
        yield f"the journal has other answers than the log to samples {few(other)}"
    if len({answer.seq_id for answer in answers}) != len(answers):
        yield "the log has several answers to one query"
