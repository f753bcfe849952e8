import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from harness.errors import RunFailed
from harness.scoring.pool import spread


class Tenfold:
    def __init__(self, factor: int) -> None:
        self.factor, self.made_in = factor, os.getpid()

    def __call__(self, chunk: int) -> tuple[int, int]:
        if chunk < 0:
            raise ValueError(f"chunk {chunk}")
        return chunk * self.factor, self.made_in


class Deadly:
    def __call__(self, chunk: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return chunk


@pytest.mark.parametrize("workers", [1, 2])
def test_every_chunk_is_returned_under_its_number(workers: int) -> None:
    results = dict(spread(partial(Tenfold, 10), [5, 6, 7, 8, 9], workers))
    assert {number: value for number, (value, _) in results.items()} == {0: 50, 1: 60, 2: 70, 3: 80, 4: 90}
    makers = {maker for _, maker in results.values()}
    assert (makers == {os.getpid()}) == (workers == 1)
    assert len(makers) <= workers


@pytest.mark.parametrize("workers", [1, 2])
def test_exceptions_of_the_work_are_raised(workers: int) -> None:
    with pytest.raises(ValueError, match="chunk -1"):
        list(spread(partial(Tenfold, 10), [1, -1, 2], workers))


def test_death_of_a_worker_is_reported() -> None:
    with pytest.raises(RunFailed, match="one of 2 worker processes died"):
        list(spread(Deadly, [1, 2, 3], 2))


PARENT = """
import sys, time
from harness.scoring.pool import spread
class Sleep:
    def __call__(self, folder):
        import os, time
        open(f"{folder}/{os.getpid()}", "w").close()
        time.sleep(60)
if __name__ == "__main__":
    list(spread(Sleep, [sys.argv[1]] * 4, 2))
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    folder = tmp_path / "pids"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(program), str(folder)], env=environment)
    try:
        deadline = time.monotonic() + 30
        while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = [int(path.name) for path in folder.iterdir()]
        assert len(workers) == 2
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while any(map(running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running, workers))
