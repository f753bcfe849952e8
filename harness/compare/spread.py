"""How much the repeats of one run differ: medians, spread and interval of each figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.compare import statistics
from harness.compare.comparison import METRICS, values
from harness.report.work import Run, same_work


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over several runs: `values` in their order, `deviation_percent` the standard deviation between them,
    `low` and `high` the 95 % interval of their geometric mean."""

    metric: str
    unit: str
    values: tuple[float, ...]
    median: float
    deviation_percent: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Repeats:
    """The runs of one benchmark, their verdicts, and each figure's spread."""

    runs: tuple[str, ...]
    verdicts: tuple[str, ...]
    rows: tuple[Spread, ...]

    @property
    def sentence(self) -> str:
        """The first figure in words."""
        if not self.rows:
            return f"{len(self.runs)} runs without a figure that all of them have."
        row = self.rows[0]
        return (
            f"{len(self.runs)} runs: median {row.median:,.2f} {row.unit}, from {min(row.values):,.2f} to "
            f"{max(row.values):,.2f}; standard deviation between runs {row.deviation_percent:.2f} %."
        )

    def document(self) -> dict[str, Any]:
        """The content of repeats.json."""
        return {"schema": 1, "sentence": self.sentence, **asdict(self)}


def repeats(runs: Sequence[Run]) -> Repeats:
    """The spread between two or more runs of the same work. Raises BadInput where it is not the same."""
    same_work(runs)
    rows = []
    for metric in METRICS:
        found = values(metric, runs)
        if found and min(found) > 0:
            rows.append(Spread(metric.name, metric.unit, tuple(found), **asdict(statistics.spread(found))))
    return Repeats(tuple(run.run_id for run in runs), tuple(run.verdict.level for run in runs), tuple(rows))
