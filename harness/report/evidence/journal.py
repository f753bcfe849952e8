"""The journal, LoadGen's log and the outcome tell the same of each LoadGen run."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.compliance import LLAMA_END_TOKENS
from harness.early_stopping import forgiven
from harness.percentiles import percentile
from harness.report import figures, tables
from harness.report.accuracy_rules import few, is_real
from harness.report.evidence.loadgen import LATENCIES, LATENCY, PERCENTILES, percentiles_over
from harness.report.input_models import ModelFacts, Part
from harness.report.journals import MODES, Table
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.logs import LoadGenLog
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.spec import MAX_NEW_TOKENS, Scenario, Spec

RATE = 1e-3
"""How near durations are, as a part: both are between the same two events."""
MOMENT_S = 0.5
"""How much earlier a query may have been due than the client's call, in seconds: LoadGen waits for a processor."""
CLOCKS_S = 2.0
"""How much later the outcome may say that a run began than the journal, and how much earlier that it ended."""
AROUND = (60.0, 0.1)
"""In seconds and as a part of the run, how much longer the outcome may say that it took, before the first query and
after the last answer: LoadGen prepares its queries and writes its logs then."""
LATER = (0.25, 500.0)
"""LoadGen counts latency from the time a query was due, the client from its call: in part and milliseconds, how much
longer LoadGen's percentiles may be. A LoadGen that waits for a processor loses so much."""
FEW = 5
"""A percentile with fewer queries above it may be longer by any time, as the 99.9th may: one moment of waiting delays
so many."""
SAME = (0.02, 1.0)
"""The same in both directions for the time per token, which such a delay does not change."""


def reasons(inputs: Inputs, run: LoadGenRun) -> Iterator[Reason]:
    """Where the journal differs from log and outcome."""
    spec = run.spec
    if spec is None or not run.finished:
        return
    for mode in MODES:
        part, log = figures.part_of(run, mode), run.log_of(mode)
        rows = run.journal.of(mode)
        if part is None and log is None and not len(rows):
            continue
        source = run.judged if mode == "performance" else run.path
        file = inputs.shown(source / "journal.jsonl")
        yield from _failed(run, mode)
        for what in _impossible(rows, spec, run.manifest.model):
            yield Rule.JOURNAL_TIMES.reason(file=file, mode=mode, what=what)
        partial = mode == "performance" and run.last_attempt and run.last_attempt.ended_early
        resumed = mode == "accuracy" and bool(run.accuracy_resumed)
        lost = any(loss.mode == mode for loss in run.judged_losses)
        if (moved := int((rows["moved"] > 0).sum())) and not lost:
            yield Rule.JOURNAL_OUTCOME.reason(
                file=file, mode=mode, what="samples that moved from a lost engine", value=moved, rule="no loss"
            )
        if part is None and not run.unreadable("outcome.json"):
            yield Rule.JOURNAL_OUTCOME.reason(file=file, mode=mode, what="rows", value=len(rows), rule="no such run")
        elif part and not resumed:
            for what, value, rule in other_outcome(rows, part, partial=bool(partial)):
                yield Rule.JOURNAL_OUTCOME.reason(file=file, mode=mode, what=what, value=value, rule=rule)
        if log and not partial:
            for what, value, rule in _log(rows, log, spec, whole=not resumed):
                yield Rule.JOURNAL_LOG.reason(file=file, mode=mode, what=what, value=value, rule=rule)


def _failed(run: LoadGenRun, mode: str) -> Iterator[Reason]:
    """Samples that failed, unless a resumed accuracy run answered them later."""
    resumed = mode == "accuracy" and any(one.phase == mode for one in run.outcome.resumed)
    answered = set(run.journal.of(mode)["qsl_idx"]) if resumed else set()
    failed = [line for line in run.journal.failed if line.mode == mode and line.qsl_idx not in answered]
    if failed and not run.outcome.failures:
        yield Rule.NO_FAILED_SAMPLES.reason(
            node=run.host, count=len(failed), mode=mode, first=failed[0].qsl_idx, why=failed[0].reason
        )


def _impossible(rows: Table, spec: Spec, model: ModelFacts) -> Iterator[str]:
    """What no run can have done, in words."""
    stamps = [rows[name] for name in ("issued_s", "sent_s", "first_s", "last_s", "last_logged_s")]
    order = [*pairwise(stamps), (rows["first_s"], rows["first_logged_s"])]
    disordered = ~np.logical_and.reduce([before <= after for before, after in order])
    lengths = np.array([len(ids) // 4 for ids in rows["ids"]], dtype=int)
    tokens = np.frombuffer(b"".join(rows["ids"]), np.dtype("<i4"))
    line = np.repeat(np.arange(len(rows)), lengths)
    ends = np.isin(tokens, sorted(LLAMA_END_TOKENS) if is_real(model) else ())
    goes_on = np.diff(line, append=-1) == 0
    known = {engine.name for engine in spec.engines}
    foreign = (rows["qsl_idx"] < spec.window.start) | (rows["qsl_idx"] >= spec.window.stop)

    def among(lines: NDArray[np.intp]) -> NDArray[np.bool_]:
        return np.isin(np.arange(len(rows)), lines)

    checks = (
        ("issued, sent, first and last token in another order", disordered),
        ("n_tokens that is not the number of token ids", rows["n_tokens"] != lengths),
        (f"fewer than 1 or more than {MAX_NEW_TOKENS} tokens", (lengths < 1) | (lengths > MAX_NEW_TOKENS)),
        ("a sample that is not of the share", foreign),
        ("a token that the model does not have", among(line[(tokens < 0) | (tokens >= (model.vocab_size or np.inf))])),
        ("a token after an end token", among(line[ends & goes_on])),
        ("an engine that is not of the run", np.array([name not in known for name in rows["engine"]], dtype=bool)),
    )
    for what, mask in checks:
        if mask.any():
            yield f"{int(mask.sum())} lines have {what}: samples {few(rows['qsl_idx'][mask].tolist())}"


def other_outcome(rows: Table, part: Part, *, partial: bool = False) -> Iterator[tuple[str, object, object]]:
    """Differences from outcome.json: name, the journal's value, the outcome's."""
    one = sorted({int(index) for index in rows["qsl_idx"][rows["n_tokens"] == 1]})
    pairs = [
        ("rows", len(rows), part.samples),
        ("queries", len(rows), part.issued),
        ("tokens", int(rows["n_tokens"].sum()), part.tokens),
        ("one-token answers", one, list(part.one_token_answers)),
    ]
    if partial:  # LoadGen had issued more when it was ended
        del pairs[1]
    yield from (pair for pair in pairs if pair[1] != pair[2])
    if len(rows):
        first, last = float(rows["issued_unix"].min()), float(tables.done_unix(rows).max())
        around = AROUND[0] + AROUND[1] * (last - first)
        if not -CLOCKS_S <= first - part.started_unix <= around or not -CLOCKS_S <= part.finished_unix - last <= around:
            times = f"{part.started_unix:.1f} to {part.finished_unix:.1f}"
            yield "time from the first issue to the last answer", f"{first:.1f} to {last:.1f}", times
        shift = rows["issued_unix"] - rows["issued_s"]
        if float(np.ptp(shift)) > 1e-3:
            yield "difference between issued_unix and issued_s", f"not constant (by {np.ptp(shift):.3f} s)", "constant"


def _log(rows: Table, log: LoadGenLog, spec: Spec, *, whole: bool) -> Iterator[tuple[str, object, object]]:
    """Differences from LoadGen's log: name, the journal's value, the log's."""
    size = spec.window.stop - spec.window.start
    if whole and len(rows) != log.samples:
        yield "rows", len(rows), log.samples
        return
    inside = (rows["qsl_idx"] >= spec.window.start) & (rows["qsl_idx"] < spec.window.stop)
    counts = np.bincount(rows["qsl_idx"][inside] - spec.window.start, minlength=size)
    passes = len(rows) // size
    uneven = np.flatnonzero(counts != passes)
    if len(uneven):
        which = few([int(index) + spec.window.start for index in uneven])
        yield "lines of each sample", f"not {passes} for samples {which}", f"{passes} passes"
    if log.mode == "performance" and len(rows):
        yield from _speed(rows, log, offline=spec.scenario is Scenario.OFFLINE)
        yield from _latencies(rows, log)
        if spec.scenario.ttft_limit_ms:
            yield from _early_stopping(rows, log, spec)


def _speed(rows: Table, log: LoadGenLog, *, offline: bool) -> Iterator[tuple[str, object, object]]:
    """Rates and durations, worked out from the journal as LoadGen does."""
    start, last = float(rows["issued_s"].min()), int(np.argmax(rows["issued_s"]))
    ends = rows["last_logged_s"] - start
    done, number = float(ends.max() if offline else ends[last]), len(rows)
    counted = number if offline else number - 1
    pairs = [
        ("samples/s", counted, done, log.samples_per_s),
        ("tokens/s", int(rows["n_tokens"].sum()), done, log.tokens_per_s),
    ]
    if not offline:
        pairs.append(
            ("samples/s scheduled", counted, float(rows["issued_s"].max()) - start, log.scheduled_samples_per_s)
        )
    for what, count, seconds, rate in pairs:
        if not rate or abs(count / rate - seconds) > RATE * seconds + MOMENT_S:
            yield what, f"{count / max(seconds, 1e-9):.6g}", rate


def _latencies(rows: Table, log: LoadGenLog) -> Iterator[tuple[str, object, object]]:
    more = rows["n_tokens"] - 1
    several = more > 0
    issued, first, last = rows["issued_s"], rows["first_logged_s"], rows["last_logged_s"]
    per_token = (last - first)[several] / more[several]
    # The least that LoadGen can have measured, and what the most is measured from.
    times = {
        "TTFT": (first - issued, rows["first_s"] - issued, LATENCIES["TTFT"], (0.0, 1.0), LATER),
        "TPOT": (per_token, per_token, LATENCIES["TPOT"], SAME, SAME),
        "end to end": (last - issued, rows["last_s"] - issued, LATENCY, (0.0, 1.0), LATER),
    }
    for name, (shortest, seconds, key, below, above) in times.items():
        for percent in PERCENTILES:
            logged = log.values.get(key.format(percent))
            if not isinstance(logged, int | float) or not len(seconds):
                continue
            least, own = ((percentile(those, float(percent)) or 0.0) * 1e3 for those in (shortest, seconds))
            value, most = logged / 1e6, own + above[0] * own + above[1]
            few_above = percent == PERCENTILES[-1] or len(seconds) * (100 - float(percent)) < FEW * 100
            if value < least - below[0] * least - below[1]:
                yield f"{float(percent):g}th percentile of {name}", f"{least:.3f} ms", f"{value:.3f} ms"
            elif value > most and not (few_above and above is LATER):
                yield f"{float(percent):g}th percentile of {name}", f"{own:.3f} ms", f"{value:.3f} ms"


def _early_stopping(rows: Table, log: LoadGenLog, spec: Spec) -> Iterator[tuple[str, object, object]]:
    """Queries over each limit, counted here and bounded by LoadGen's percentiles.

    LoadGen's TTFT is never shorter than the journal's; a time per token within `SAME` of its limit may be on either
    side of it.
    """
    more = np.maximum(rows["n_tokens"] - 1, 1)
    tpot = (rows["last_logged_s"] - rows["first_logged_s"]) * 1e3 / more
    ttft_limit, tpot_limit = spec.scenario.ttft_limit_ms or 0, spec.scenario.tpot_limit_ms or 0
    counts = {
        "TTFT": ((rows["first_s"] - rows["issued_s"]) * 1e3 > ttft_limit, ttft_limit),
        "TPOT": (tpot > tpot_limit * (1 + SAME[0]) + SAME[1], tpot_limit),
    }
    for name, (mask, limit) in counts.items():
        count, bounds = int(mask.sum()), percentiles_over(log, name, limit)
        if bounds and count > bounds[1]:
            yield f"queries over the {name} limit", count, f"at most {bounds[1]} by its percentiles"
        if count > forgiven(len(rows)) and log.early_stopping_met:
            yield f"queries over the {name} limit", count, f"early_stopping_met, which forgives {forgiven(len(rows))}"
