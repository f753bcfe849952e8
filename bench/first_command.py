"""Whether the first command ends well on any machine: `make benchmark`, beside noise and idle.

Each run must end with 0 and a verdict of UNOFFICIAL for the tiny model, the duration and the sample count alone. Beside
eight of the runs each core has a process of normal priority pinned to it that is busy and idle in turn, for uniform 0.2
to 5 s; four runs are left alone, and each of these must take less than four minutes. `make site` must have run before.
A run that has ended is not made again, so that the script can be interrupted and resumed: its results are lines of a
file, all of the same commit, from which no tracked file may differ.

    python bench/first_command.py [--noisy 8] [--idle 4] [--seed 1] [--file first_command.jsonl]
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import pairs

REPOSITORY = Path(__file__).resolve().parents[1]
EXPECTED = {"TINY_MODEL", "SHORT", "SUBSET"}
SHORTEST_S, LONGEST_S = 0.2, 5.0
RUN_TIMEOUT_S = 1800.0
IDLE_LONGEST_S = 240.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noisy", type=int, default=8, help="runs beside the noise")
    parser.add_argument("--idle", type=int, default=4, help="runs without it")
    parser.add_argument("--seed", type=int, default=1, help="of the first noisy run; each further one has the next")
    parser.add_argument("--file", type=Path, default=REPOSITORY / "bench" / "first_command.jsonl")
    options = parser.parse_args()
    names = [f"noise, seed {options.seed + number}" for number in range(options.noisy)]
    names += [f"idle {number + 1}" for number in range(options.idle)]
    commit = _commit()
    rows = _rows(options.file, commit)
    for name in names:
        if name in rows:
            print(f"{name}: has run already")
            continue
        seed = re.fullmatch(r"noise, seed (\d+)", name)
        with noise(int(seed[1])) if seed else contextlib.nullcontext():
            rows[name] = {"run": name, "commit": commit, **measure()}
        with options.file.open("a") as file:
            file.write(json.dumps(rows[name]) + "\n")
        print(json.dumps(rows[name]), flush=True)
    selected = [rows[name] for name in names]
    pairs.table([("run", "exit", "verdict", "attempts", "samples/s", "TTFT p99 ms", "s"), *map(_cells, selected)])
    failed = [row["run"] for row in selected if not _ended_well(row)]
    print(
        f"{len(selected) - len(failed)} of {len(selected)} ended well",
        *(f"not so: {name}" for name in failed),
        sep="\n",
    )
    sys.exit(bool(failed))


def _ended_well(row: dict[str, Any]) -> bool:
    in_time = not row["run"].startswith("idle") or row["seconds"] < IDLE_LONGEST_S
    return in_time and (row["exit"], row["verdict"], set(row["reasons"])) == (0, "UNOFFICIAL", EXPECTED)


def _commit(repository: Path = REPOSITORY) -> str:
    """The commit that is checked out; ends the program where a tracked file differs from it."""
    if changed := _git(repository, "status", "--porcelain", "--untracked-files=no"):
        sys.exit(f"{repository}: tracked files differ from the commit, so commit or undo these first:\n{changed}")
    return _git(repository, "rev-parse", "HEAD")


def _git(repository: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True, check=True).stdout.strip()


def _rows(file: Path, commit: str) -> dict[str, dict[str, Any]]:
    """The runs in the file by name; ends the program where one is of another commit."""
    lines = file.read_text().splitlines() if file.exists() else []
    rows = {row["run"]: row for row in map(json.loads, lines)}
    for name, row in rows.items():
        if row.get("commit") != commit:
            sys.exit(
                f"{file}: {name} ran at commit {row.get('commit') or 'unknown'}, and this is {commit}; "
                "name another --file, or check that commit out"
            )
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    words = ("run", "exit", "verdict", "attempts", "samples_per_s", "ttft_p99_ms", "seconds")
    return tuple(f"{row[key]:,.1f}" if isinstance(row[key], float) else str(row[key]) for key in words)


@contextlib.contextmanager
def noise(seed: int) -> Iterator[None]:
    """A process for each core that is busy and idle in turn."""
    cores = sorted(os.sched_getaffinity(0))
    processes = [
        multiprocessing.Process(target=_busy_and_idle, args=(core, seed * 1000 + core), daemon=True) for core in cores
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _busy_and_idle(core: int, seed: int) -> None:
    os.sched_setaffinity(0, {core})
    source, parent = random.Random(seed), os.getppid()
    while os.getppid() == parent:
        end = time.perf_counter() + source.uniform(SHORTEST_S, LONGEST_S)
        while time.perf_counter() < end:
            pass
        time.sleep(source.uniform(SHORTEST_S, LONGEST_S))


def measure() -> dict[str, Any]:
    """One `make benchmark`: exit code, verdict and reasons, figures, seconds."""
    start = time.monotonic()
    exit_code, output = _call(["make", "benchmark"], RUN_TIMEOUT_S)
    row: dict[str, Any] = {"exit": exit_code, "seconds": time.monotonic() - start}
    report = re.search(r"^.*Report: (\S+)/report\.md", output, re.MULTILINE)
    nothing = {"verdict": None, "reasons": [], "attempts": None, "samples_per_s": None, "ttft_p99_ms": None}
    if report is None:
        return {**row, **nothing, "output": output[-2000:]}
    result = json.loads((Path(report[1]) / "result.json").read_text())
    together = result["together"]
    return {
        **row,
        "verdict": result["verdict"]["level"],
        "reasons": sorted({reason["code"] for reason in result["verdict"]["reasons"]}),
        "attempts": max((attempt["number"] for attempt in result["attempts"]), default=1),
        "samples_per_s": together["samples_per_s"],
        "ttft_p99_ms": together["ttft"]["p99_ms"] if together["ttft"] else None,
        "run_id": result["run_id"],
    }


def _call(command: list[str], timeout_s: float) -> tuple[int | None, str]:
    """Exit code and output of a command; after its time its processes are killed, and the exit code is None."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            exit_code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return exit_code, output.read()


if __name__ == "__main__":
    main()
