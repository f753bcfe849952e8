"""Unix time that no step of the machine's clock changes: the clock when this process began, and what has passed since.

The processes of a run share the clock of the first one: what `hand_down` gives there is given to `take_over`.
"""

import time

_at_boot_unix = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def unix() -> float:
    """The time now, in unix seconds."""
    return _at_boot_unix + time.clock_gettime(time.CLOCK_BOOTTIME)


def hand_down() -> float:
    """What another process of this machine needs to have the same clock."""
    return _at_boot_unix


def take_over(at_boot_unix: float) -> None:
    """Have the clock of the process from which this value was handed down."""
    global _at_boot_unix
    _at_boot_unix = at_boot_unix
