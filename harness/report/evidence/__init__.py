"""Whether the raw files of a benchmark agree with each other: one family of rules, each reason with the file named.

`disagreements` is the only entrance. Files that cannot be read are not its business: they are problems of the inputs.
"""

from collections.abc import Iterator

from harness.report.evidence import (
    accuracy,
    answers,
    attempts,
    engines,
    identity,
    journal,
    loadgen,
    models,
    same_run,
    sums,
    telemetry,
)
from harness.report.load_inputs import Inputs
from harness.report.record import Reason

__all__ = ["disagreements"]


def disagreements(inputs: Inputs) -> Iterator[Reason]:
    """A reason for everything that does not agree."""
    yield from sums.reasons(inputs)
    yield from engines.reasons(inputs)
    yield from identity.reasons(inputs)
    yield from models.reasons(inputs)
    yield from telemetry.reasons(inputs)
    for run in inputs.loadgens:
        for part in (same_run, attempts, loadgen, journal, accuracy, answers):
            yield from part.reasons(inputs, run)
