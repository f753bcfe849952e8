"""Errors, by who can fix them. A message names the bad value, where it is, and what to do next."""


class HarnessError(Exception):
    """Base of all errors shown to users; `exit_code` is the exit status of the process."""

    exit_code = 4


class BadInput(HarnessError):
    """For the user to fix: a value, file or option is invalid. Nothing was started."""

    exit_code = 2


class NotReady(HarnessError):
    """For the machine's administrator to fix: a port, disk, driver or package is not available. Nothing was started."""

    exit_code = 3


class RunFailed(HarnessError):
    """A run or an engine failed after it had been started."""

    exit_code = 4


class Stopped(HarnessError):
    """A signal stopped the process."""


FINISHED_BUT_INVALID = 5
SLOWER = 6
"""Exit code where a run is slower than its baseline by more than was allowed."""
