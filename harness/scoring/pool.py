"""Work spread over worker processes that end with their parent."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from harness.errors import RunFailed
from harness.linux import die_with_parent

_T = TypeVar("_T")
_R = TypeVar("_R")
_task: Callable[[Any], Any]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def spread(make: Callable[[], Callable[[_T], _R]], chunks: Sequence[_T], workers: int) -> Iterator[tuple[int, _R]]:
    """Yield (chunk number, result) as chunks are done.

    Args:
        make: called once in every worker for the function that handles a chunk; must be picklable.
        chunks: what is handed out, one at a time.
        workers: how many processes; 1 works in this process.

    Raises:
        RunFailed: a worker died. What the function itself raises comes through as it is.
    """
    if workers == 1:
        task = make()
        yield from ((number, task(chunk)) for number, chunk in enumerate(chunks))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (make, os.getpid())) as pool:
        numbers = {pool.submit(_work, chunk): number for number, chunk in enumerate(chunks)}
        try:
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        except BrokenProcessPool:
            raise RunFailed(
                f"one of {workers} worker processes died, probably OOM-killed; see its last lines above, free memory "
                "and run again"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(make: Callable[[], Callable[[Any], Any]], parent: int) -> None:
    global _task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    die_with_parent(parent)
    _task = make()


def _work(chunk: Any) -> Any:
    return _task(chunk)
