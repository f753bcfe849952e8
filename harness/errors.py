"""Errors sorted by who must act. Messages say what was wrong with its value, where, and what to do next."""


class HarnessError(Exception):
    """Base of every error a person may see; `exit_code` is the process's exit status."""

    exit_code = 4


class BadInput(HarnessError):
    """The asker must act: a value, file or option is wrong. Nothing was started."""

    exit_code = 2


class NotReady(HarnessError):
    """The machine's owner must act: a port, disk, driver or package is missing. Nothing was started."""

    exit_code = 3


class RunFailed(HarnessError):
    """Something broke while a run or an engine was under way."""

    exit_code = 4


class Stopped(HarnessError):
    """Somebody asked it to end, by a signal."""


FINISHED_BUT_INVALID = 5
