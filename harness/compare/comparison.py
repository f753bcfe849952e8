"""Two sets of runs of the same work: what changed between them, and whether it shows."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from harness.compare import statistics
from harness.errors import BadInput
from harness.report.work import UNKNOWN, Run, conditions, same_work, weights_known

SIGNIFICANT = 1 - statistics.CONFIDENCE
_SAME_RATE = 0.01
"""Offered rates that differ by less may be taken as one."""
RATE = "target_qps"
_NAMED = 3
_SHOWN = 2
"""Figures that the sentence names where nothing is decided."""
_FEW = 3
"""Runs a side that are suggested where there is one only."""


class Word(StrEnum):
    """What a comparison says of one metric."""

    FASTER = "faster"
    SLOWER = "slower"
    HIGHER = "higher"
    LOWER = "lower"
    NO_DIFFERENCE = "no difference shown"
    NOT_DECIDED = "not decided"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that is compared: its unit, how it is read from a run, and which way is better.

    `better` is 1 where more is faster, -1 where less is faster, 0 where it is no speed.
    """

    name: str
    unit: str
    value: Callable[[Run], float | None]
    better: int


def _percentile(latency: str, percent: int) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        percentiles = getattr(run.together, latency)
        return getattr(percentiles, f"p{percent}_ms") if percentiles else None

    return value


def _rouge(name: str) -> Callable[[Run], float | None]:
    return lambda run: (run.together.rouge or {}).get(name)


SPEEDS = (
    Metric("samples/s", "samples/s", lambda run: run.together.samples_per_s, 1),
    Metric("tokens/s", "tokens/s", lambda run: run.together.tokens_per_s, 1),
)
LATENCIES = tuple(
    Metric(f"{title} p{percent}", "ms", _percentile(latency, percent), -1)
    for title, latency in (("TTFT", "ttft"), ("TPOT", "tpot"), ("end to end", "end_to_end"))
    for percent in (50, 99)
)
ACCURACY = tuple(
    Metric(title, "", _rouge(name), 0)
    for title, name in (
        ("ROUGE-1", "rouge1"),
        ("ROUGE-2", "rouge2"),
        ("ROUGE-L", "rougeL"),
        ("ROUGE-Lsum", "rougeLsum"),
    )
)
ENERGY = (
    Metric("joules per sample", "J", lambda run: run.energy.joules_per_sample, 0),
    Metric("tokens per joule", "1/J", lambda run: run.energy.tokens_per_joule, 0),
)
METRICS = (*SPEEDS, *LATENCIES, *ACCURACY, *ENERGY)


@dataclass(frozen=True, slots=True)
class Row:
    """One metric compared; medians, and percentages of the base.

    Attributes:
        metric, unit: which.
        base, new: medians over the runs of each side.
        difference_percent, low_percent, high_percent: the difference and its 95 % interval.
        p: corrected for the number of metrics (Holm).
        word: what that says.
        smallest_percent: the smallest difference that this comparison would have found in 80 of 100 cases.
        repeats: runs a side by which the difference that is shown would be found; None where more than 100 would be
            needed, or nothing is known of the variance between runs.
        judged: whether it says which side is faster, see `meaningful`.
    """

    metric: str
    unit: str
    base: float
    new: float
    difference_percent: float
    low_percent: float | None
    high_percent: float | None
    p: float | None
    word: Word
    smallest_percent: float | None
    repeats: int | None
    judged: bool


@dataclass(frozen=True, slots=True)
class Change:
    """Something that the two sides do not have in common."""

    what: str
    base: str
    new: str


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether the new side is slower by more than was allowed. `certain` is false where repeats would tell more."""

    percent: float
    failed: bool
    certain: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of runs compared."""

    sentence: str
    base: tuple[str, ...]
    new: tuple[str, ...]
    meaningful: str
    rows: tuple[Row, ...]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    gate: Gate | None

    def document(self) -> dict[str, Any]:
        """The content of compare.json."""
        return {"schema": 1, **asdict(self)}


def compare(base: Sequence[Run], new: Sequence[Run], regression_percent: float | None = None) -> Comparison:
    """Compare runs of the same work.

    Raises:
        BadInput: a run is on both sides, or they are not the same work, or nobody knows of which weights.
    """
    names = [run.run_id for run in (*base, *new)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"run {', '.join(twice)} is given twice; a run has nothing to say about its own variance")
    same_work([*base, *new])
    if unknown := [run.run_id for run in (*base, *new) if not weights_known(run)]:
        raise BadInput(
            f"the weights of {', '.join(unknown)} are not known, so nothing says that the runs are the same work; "
            "compare runs of nodes that have the model's files"
        )
    judged, meaningful = _meaningful([*base, *new])
    rows = _rows(base, new, judged)
    return Comparison(
        sentence=_sentence(rows, base, new),
        base=tuple(run.run_id for run in base),
        new=tuple(run.run_id for run in new),
        meaningful=meaningful,
        rows=rows,
        changes=tuple(change for change in changes(base, new) if not judged or change.what != RATE),
        warnings=tuple(_warnings(base, new)),
        gate=None if regression_percent is None else _gate(base, new, rows, judged, regression_percent),
    )


def _meaningful(runs: Sequence[Run]) -> tuple[tuple[Metric, ...], str]:
    """The metrics that say which side is faster, and why these."""
    if runs[0].asked.scenario == "offline":
        return SPEEDS, "Offline sends everything at once: samples/s and tokens/s are the engines' own."
    if all(run.asked.target_qps == "peak" for run in runs):
        return SPEEDS, "Each run searched for the highest rate that holds the latency limits: samples/s says how high."
    given = [run.asked.target_qps for run in runs if isinstance(run.asked.target_qps, float)]
    sent = [run.together.scheduled_samples_per_s or run.together.samples_per_s or 0.0 for run in runs]
    # Of several LoadGens only the rate that was asked for is known of all together.
    rates = given if len(given) == len(runs) else sent
    if min(rates) > 0 and max(rates) / min(rates) - 1 < _SAME_RATE:
        return LATENCIES, "All runs were offered the same rate: the latencies say which side is faster."
    return (), (
        f"The runs were offered different rates ({min(rates):.4g} to {max(rates):.4g} samples/s): neither speed nor "
        f"latency says which side is faster. Give all runs one rate (-e target_qps={min(rates):.4g}), or use "
        "target_qps=peak or offline."
    )


def _rows(base: Sequence[Run], new: Sequence[Run], judged: Sequence[Metric]) -> tuple[Row, ...]:
    tests = []
    for metric in METRICS:
        sides = values(metric, base), values(metric, new)
        if result := statistics.test(*sides):
            tests.append((metric, sides, result))
    measured = max(len(base), len(new)) > 1
    corrected = iter(statistics.holm([result.p for _, _, result in tests if result.p is not None]))
    rows = []
    for metric, sides, result in tests:
        p = next(corrected) if result.p is not None else None
        known = p is not None
        rows.append(
            Row(
                metric=metric.name,
                unit=metric.unit,
                base=result.base,
                new=result.new,
                difference_percent=result.difference_percent,
                low_percent=result.low_percent,
                high_percent=result.high_percent,
                p=p,
                word=_word(metric, result.difference_percent, p),
                smallest_percent=statistics.smallest_percent(*sides, len(tests)) if known else None,
                repeats=statistics.repeats_for(*sides, result.difference_percent, len(tests)) if measured else None,
                judged=metric in judged,
            )
        )
    return tuple(rows)


def values(metric: Metric, runs: Sequence[Run]) -> list[float]:
    """One value a run of a metric; none where a run lacks it, since a side is compared whole."""
    all_values = [metric.value(run) for run in runs]
    return [] if None in all_values else [value for value in all_values if value is not None]


def _word(metric: Metric, difference: float, p: float | None) -> Word:
    if p is None:
        return Word.NOT_DECIDED
    if p >= SIGNIFICANT:
        return Word.NO_DIFFERENCE
    if metric.better:
        return Word.FASTER if difference * metric.better > 0 else Word.SLOWER
    return Word.HIGHER if difference > 0 else Word.LOWER


def _sentence(all_rows: Sequence[Row], base: Sequence[Run], new: Sequence[Run]) -> str:
    rows = [row for row in all_rows if row.judged]
    if min(len(base), len(new)) < 2:
        shown = ", ".join(f"{row.metric} {row.difference_percent:+.1f} %" for row in rows[:_SHOWN])
        return (
            "Not decided: one run on a side says nothing about how much runs differ by themselves"
            f"{f' ({shown})' if shown else ''}. {_would_find(rows, base, new, len(all_rows))}"
        )
    if not rows:
        return "Not decided: the runs were offered different rates."
    decided = [row for row in rows if row.word in (Word.FASTER, Word.SLOWER)]
    words = {row.word for row in decided}
    # The largest three say it; the table has them all.
    largest = sorted(decided or rows, key=lambda row: -abs(row.difference_percent))[:_NAMED]
    listed = ", ".join(f"{row.metric} {row.difference_percent:+.1f} %" for row in largest)
    if len(words) == 2:
        return f"The new side is faster by some figures and slower by others: {listed}."
    if words:
        return f"The new side is {words.pop()}: {listed}."
    smallest = max(row.smallest_percent or 0.0 for row in rows)
    detectable = f"{smallest:.1f} %" if smallest < 100 else "a doubling"
    return f"No difference shown ({listed}). This comparison would have found {detectable} or more."


def _would_find(rows: Sequence[Row], base: Sequence[Run], new: Sequence[Run], tests: int) -> str:
    """How many runs a side would tell, and what a few would find, by how much the runs of one side differ."""
    names = [row.metric for row in rows]
    sides = [(values(metric, base), values(metric, new)) for metric in METRICS if metric.name in names]
    if sides and max(len(base), len(new)) > 1:
        smallest = max(statistics.smallest_percent(*both, tests, _FEW) for both in sides)
        which = "base" if len(base) > 1 else "new"
        needed = ", ".join(f"{needed_runs(row)} for {row.metric}" for row in rows[:_SHOWN])
        return (
            f"If they differ as those of the {which} side do, so many runs on each side would tell: {needed}; "
            f"{_FEW} runs on each side would find {smallest:.1f} %."
        )
    return (
        "Nothing is known of that here; of runs that differ by 0.5 % (standard deviation), three on each side find "
        "3 % in 179 of 200 cases."
    )


def needed_runs(row: Row) -> str:
    """Runs a side by which a row's difference would be found, where it is known how much runs differ."""
    return str(row.repeats or f"more than {statistics.MOST_REPEATS}")


def changes(base: Sequence[Run], new: Sequence[Run]) -> tuple[Change, ...]:
    """What changed between two sets of runs; also where runs of one set differ among themselves."""
    sides = [[conditions(run) for run in runs] for runs in (base, new)]
    names = sorted({what for side in sides for one in side for what in one})
    texts = [
        (what, *(" or ".join(sorted({one.get(what, UNKNOWN) for one in side})) for side in sides)) for what in names
    ]
    return tuple(Change(what, old, now) for what, old, now in texts if old != now or " or " in old)


def _warnings(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    invalid = [run.run_id for run in (*base, *new) if run.verdict.level == "INVALID"]
    warnings = [f"{', '.join(invalid)}: the verdict is INVALID, so its figures may be wrong"] if invalid else []
    for side, runs in (("base", base), ("new", new)):
        # Repeats are sent at the rate that their first run has found.
        if len({str({**conditions(run), RATE: None}) for run in runs}) > 1:
            warnings.append(
                f"hardware, software or settings differ among the runs of the {side} side; see what changed"
            )
    return warnings


def _gate(
    base: Sequence[Run], new: Sequence[Run], rows: Sequence[Row], judged: Sequence[Metric], percent: float
) -> Gate:
    """Fails only where a judged metric is slower by more than `percent` with certainty."""
    by_name = {row.metric: row for row in rows}
    named = [metric for metric in judged if metric.name in by_name]
    if not named:
        return Gate(
            percent, False, False, f"slower by more than {percent:g} %: not judged, since no figure says what is faster"
        )
    if len(base) == len(new) == 1:
        return Gate(
            percent, False, False, f"slower by more than {percent:g} %: not known; give at least two runs on each side"
        )
    sides = {metric.name: (values(metric, base), values(metric, new)) for metric in named}
    # Slower by 3 % is 3 % less speed, or 3 % more latency.
    limits = {metric.name: -percent * metric.better for metric in named}
    if min(len(base), len(new)) > 1:
        ps = [statistics.p_beyond(*sides[name], limit) for name, limit in limits.items()]
        certain = [name for name, p in zip(limits, statistics.holm(ps), strict=True) if p < SIGNIFICANT]
        if certain:
            return Gate(percent, True, True, f"slower by more than {percent:g} % in {', '.join(certain)}")
    unsure = [metric for metric in named if _may_be_slower(by_name[metric.name], metric.better, percent)]
    if not unsure:
        return Gate(percent, False, True, f"not slower by more than {percent:g} %")
    needed = [statistics.repeats_beyond(*sides[m.name], limits[m.name], len(named)) for m in unsure]
    advice = f"{max(filter(None, needed), default=0)} runs on each side" if all(needed) else "more than 100 runs"
    names = ", ".join(metric.name for metric in unsure)
    return Gate(
        percent,
        False,
        False,
        f"whether {names} is slower by more than {percent:g} % is not certain; {advice} would tell",
    )


def _may_be_slower(row: Row, better: int, percent: float) -> bool:
    worst = row.low_percent if better > 0 else row.high_percent
    return worst is None or -better * worst > percent
