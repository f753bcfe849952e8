"""Of several attempts the last one counts, and each is marked with how it ended; so is each probe of a search."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import mllog
from harness.attempt_record import AttemptRecord, PeakRecord, ProbeRecord, bracket
from harness.errors import BadInput
from harness.percentiles import percentile
from harness.report import journals, logs
from harness.report.evidence.loadgen import DIGITS
from harness.report.load_inputs import Inputs, LoadGenRun, attempt_folders, numbered_folders, read_file
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.spec import Spec

CALL_MS = 600.0
"""How much later than in the journal the first token may count from which a run measured its time per token: after the
call of LoadGen, for which a client may wait for a processor."""


def reasons(inputs: Inputs, run: LoadGenRun) -> Iterator[Reason]:
    """Attempts and probes that are missing, unmarked, or marked otherwise than their own files and the outcome say."""
    for name, what in (*_attempts(run), *_probes(run)):
        yield Rule.ATTEMPTS_MARKED.reason(file=inputs.shown(run.path / name), what=what)


def _attempts(run: LoadGenRun) -> Iterator[tuple[str, str]]:
    """What is wrong, by the file's name."""
    folders = attempt_folders(run.path)
    numbers = sorted(folders)
    for entry in sorted((run.path / "attempts").glob("*")):
        if entry.is_dir() and entry.name not in map(str, numbers):
            yield f"attempts/{entry.name}", "is the folder of no attempt, which are called 1, 2, 3 and so on"
    if run.spec and run.finished and run.spec.has_attempts != bool(numbers):
        expected = "attempts at a performance run" if run.spec.has_attempts else "one performance run and no attempts"
        yield "spec.json", f"asks for {expected}, and {len(numbers)} attempts are there"
    if not numbers:
        return
    if numbers != list(range(1, len(numbers) + 1)):
        yield "attempts", f"holds attempts {', '.join(map(str, numbers))}, not 1 to {len(numbers)}"
    if (run.path / "performance").exists():
        yield "performance", "is there beside attempts, so there are two performance runs that might count"
    marked = {attempt.number: attempt for attempt in run.attempts}
    recorded = {attempt.number: attempt for attempt in run.outcome.attempts}
    for number in numbers:
        attempt, name = marked.get(number), f"attempts/{number}/attempt.json"
        if attempt is None:
            if run.finished:
                yield name, f"does not describe attempt {number}"
            continue
        if recorded.get(number) != attempt and run.finished:
            yield name, "is not the attempt that outcome.json records"
        elif attempt.held and number != numbers[-1] and not _goes_on(run):
            yield name, f"is VALID, yet attempt {numbers[-1]} follows, which nobody makes after a VALID one"
        yield from ((name, what) for what in _attempt(attempt, folders[number], run))
    last = run.last_attempt
    if last and run.finished and run.outcome.target_qps != last.target_qps:
        yield "outcome.json", f"says a target of {run.outcome.target_qps}, the last attempt {last.target_qps}"


def _goes_on(run: LoadGenRun) -> bool:
    """Whether more attempts may follow a VALID one: where all nodes repeat together, and in a search."""
    return run.spec is None or run.spec.attempts_together or run.spec.target_qps == "peak"


def _attempt(attempt: AttemptRecord, folder: Path, run: LoadGenRun) -> Iterator[str]:
    """What attempt.json has otherwise than the attempt's own files."""
    if run.spec is None or not run.finished:
        return
    yield from _measured(attempt, folder, run, run.spec)
    if attempt.partial != (attempt.verdict == "ENDED EARLY") and not run.losses_in(folder):
        yield f"says {attempt.verdict} and partial {attempt.partial}"
    if attempt.partial:
        return
    try:
        log = logs.read(folder / "performance")
    except BadInput as error:
        yield f"is of an attempt whose logs are damaged: {error}"
        return
    validity = "VALID" if log.validity == "VALID" else "INVALID"
    if attempt.verdict != validity and not run.losses_in(folder):
        yield f"says {attempt.verdict}, LoadGen's log {validity}"
    if attempt.planned_samples != attempt.samples:
        yield f"says {attempt.planned_samples} queries, {attempt.samples} of them answered"


def _probes(run: LoadGenRun) -> Iterator[tuple[str, str]]:
    peak, folders = run.outcome.peak, numbered_folders(run.path / "probes")
    if run.spec is None or not run.finished:
        return
    if (run.spec.target_qps == "peak") != bool(peak):
        yield "outcome.json", f"has {'a' if peak else 'no'} search, for a target of {run.spec.target_qps}"
    if peak is None:
        return
    runs: list[AttemptRecord | ProbeRecord] = list(run.attempts)
    for number in sorted({*folders, *range(1, len(peak.probes) + 1)}):
        name = f"probes/{number}/probe.json"
        try:
            probe = read_file(folders.get(number, run.path / "probes" / str(number)) / "probe.json", ProbeRecord)
        except BadInput as error:
            yield name, f"cannot be read: {error}"
            continue
        if number > len(peak.probes) or probe != peak.probes[number - 1]:
            yield name, "is not the probe that outcome.json records"
        yield from ((name, what) for what in _measured(probe, folders[number], run, run.spec))
        runs.append(probe)
    yield from (("outcome.json", what) for what in _bracket(peak, runs))


def _bracket(peak: PeakRecord, runs: Sequence[AttemptRecord | ProbeRecord]) -> Iterator[str]:
    """What a search says of its result otherwise than its runs."""
    valid, failed = bracket(runs)
    rates = valid and valid.target_qps, failed and failed.target_qps
    if (peak.highest_valid_qps, peak.lowest_failed_qps) != rates:
        recorded = f"{peak.highest_valid_qps} and {peak.lowest_failed_qps}, not {rates[0]} and {rates[1]}"
        yield f"says that the highest VALID rate and the lowest that failed are {recorded}"
    distance = 100 * (rates[1] / rates[0] - 1) if rates[0] and rates[1] else None
    if not math.isclose(peak.distance_percent or 0, distance or 0, abs_tol=0.01):
        yield f"says that these are {peak.distance_percent} % apart, not {distance}"
    stated = re.search(r"VALID rate ([\d,.]*\d)", peak.sentence or "")
    highest = float(stated[1].replace(",", "")) if stated else 0.0
    if not math.isclose(highest, rates[0] or 0.0, rel_tol=0.01, abs_tol=0.006):
        yield f"says of the search {peak.sentence!r}; the highest VALID rate of its runs is {rates[0]}"


def _measured(record: AttemptRecord | ProbeRecord, folder: Path, run: LoadGenRun, spec: Spec) -> Iterator[str]:
    """What a record has otherwise than the journal and LoadGen's log beside it, and the losses of engines."""
    if record.engine_lost and not run.losses_in(folder):
        yield "says that an engine was lost, outcome.json none there"
    journal, problems = journals.read([folder / "journal.jsonl"])
    rows = journal.of("performance")
    if problems or len(rows) != record.samples:
        yield f"says {record.samples} answers, journal.jsonl beside it has {len(rows)} whole lines"
        return
    more = rows["n_tokens"] - 1
    ttft = (rows["first_s"] - rows["issued_s"]) * 1e3
    tpot = (rows["last_s"] - rows["first_s"])[more > 0] * 1e3 / more[more > 0]
    ttft_limit, tpot_limit = spec.scenario.ttft_limit_ms or math.inf, spec.scenario.tpot_limit_ms or math.inf
    for name, p99, count, times, over in (
        ("TTFT", record.ttft_ms_p99, record.over_ttft, ttft, ttft > ttft_limit + 1),
        ("TPOT", record.tpot_ms_p99, record.over_tpot, tpot, tpot > tpot_limit + CALL_MS / more[more > 0]),
    ):
        own = percentile(times, 99)
        if (p99 is None) != (own is None) or not math.isclose(p99 or 0, own or 0, rel_tol=1e-4, abs_tol=0.01):
            yield f"says {name} p99 {p99} ms, journal.jsonl {own}"
        if count < over.sum():
            yield f"says that {count} queries were over the {name} limit, journal.jsonl {over.sum()}"
    rate = _logged(folder).get("requested_server_target_qps")
    if not isinstance(rate, int | float) or not math.isclose(rate, record.target_qps, rel_tol=DIGITS):
        yield f"says a target of {record.target_qps} samples/s, LoadGen's log {rate}"


def _logged(folder: Path) -> dict[str, Any]:
    """The values of LoadGen's log; none where it cannot be read."""
    try:
        return mllog.read(folder / "performance" / "mlperf_log_detail.txt", cut=True)[0]
    except BadInput:
        return {}
