"""docs/reliability.md, made from the table of faults."""

import signal

from tests.conftest import REPOSITORY
from tests.faults.ending import BUSY_S, Expected, Fault
from tests.faults.table import FAULTS

PAGE = REPOSITORY / "docs" / "reliability.md"
HEAD = f"""# Reliability

What can go wrong, and what comes of it. Each row is a test (`tests/faults/`) that makes the fault happen over fake
servers, and checks the verdict, the words, that no process is left running, and that the next start in the same place
works. What else it checks depends on what the fault comes into:

- A run with the real LoadGen. Every answer in the journal is the one that the engine gives to that sample, and is there
  once; every answer that had come 2 s before the fault is there; where LoadGen came to its end, its accuracy log has
  the same answers sample for sample, and its performance log as many samples.
- An engine with its real supervisor: how it ends, and that it can be started again.
- benchmark.yml on two nodes: the same of the journals and logs that are collected, but for answers just before the
  fault; every sample of a node that did not fail is answered; the checksums are right; and the playbook and the report
  show every failure.

The faults are real where a test can make them: processes get signals, servers end or make the mistakes that they are
told to make, a file system in memory fills. Two are made by a stand-in: nodes are folders of one machine, reached
through a program in the place of `ssh` that refuses connections while the line is cut; and a step of the clock is one
of Python's `time.time` in all processes of the run, since the clock of the machine is not the test's to set.

*Meant to be noticed within* is what is meant to hold on a machine that is not busy, from the fault until the command in
which a person sees it reports it. It was not measured: what the test asserts is this time plus {BUSY_S:.0f} s, as its
machine may be busy. Where it is a limit that can be set, the test sets a short one, and the row names it. A fault that
is not noticed fails its test; *not applicable* means that there is nothing to notice, since the run goes on as if
nothing had happened. Rows marked \\* run in `make test-all` only.

`python -m tests.faults` writes this page.

| fault | what the product does | verdict, exit code | meant to be noticed within | lost |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(map(_row, FAULTS))


def _row(fault: Fault) -> str:
    expected = fault.expected
    at_the_end = "not applicable" if expected.level != "INVALID" else "when it is judged"
    within = at_the_end if expected.within_s is None else f"{expected.within_s:g} s"
    cells = (fault.what + " \\*" * fault.long, fault.response, _verdict(expected), within, expected.lost)
    return f"| {' | '.join(cells)} |\n"


def _verdict(expected: Expected) -> str:
    rules = ", ".join(f"`{rule}`" for rule in expected.broken)
    level = f"{expected.level} ({rules})" if rules else expected.level or "–"
    code = expected.exit_code
    if level.startswith("engine") and not code:
        return level  # there is no command that ends with it
    return f"{level}, {signal.Signals(-code).name if code < 0 else code}"
