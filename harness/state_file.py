# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""State files of engines, runs and background jobs: where they are, and whether the process that keeps one is alive.

Nodes get this file with their modules, as `mlperf_state_file`: it needs the standard library of Python 3.9 only.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, List, Optional

STALE_AFTER_S = 30.0
"""A heartbeat older than this means that its process hangs."""
START_TIMEOUT_S = 60.0
"""Between a request to start a process and its first own entry in the file."""
WAITING = "waiting"
"""State of a run that is alive and has to be told whether to repeat its last attempt."""
RUNNING = frozenset({"starting", "running", WAITING})
ENDED = frozenset({"finished", "failed", "stopped"})

Record = Dict[str, Any]


def engine_file(root: str, name: str) -> str:
    """Path of an engine's state file."""
    return os.path.join(root, "engines", name, "engine.json")


def run_file(root: str, run_id: str) -> str:
    """Path of a run's state file."""
    return os.path.join(root, "runs", run_id, "status.json")


def read(path: str) -> Optional[Record]:
    """A JSON object from `path`; None when there is no such file.

    Raises:
        ValueError: the file is not a JSON object.
        OSError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object")
    return content


def write_json(path: str, record: Record) -> None:
    """Write a state file so that a reader sees the old one or the whole new one."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def boot_id() -> str:
    """The kernel's identity of this boot; process ids from before it are stale."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def start_tick(pid: int) -> Optional[int]:
    """The clock tick since boot at which a live process was started; None when there is none (a zombie is none).

    Process id, boot and start tick name one process for good; an id alone may be another's by now.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return start_tick_of(stream.read())
    except OSError:
        return None


def start_tick_of(stat: str) -> Optional[int]:
    """The start tick in the content of a /proc/PID/stat; None for a zombie, or when there is none."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in ("Z", "X") else None


def is_alive(record: Record, boot: str, tick: Optional[int]) -> bool:
    """Whether the very process that keeps a state file is alive.

    Args:
        record: the file's content, with `pid`, `boot_id` and, where its writer knew it, `pid_born`.
        boot: the boot id of the file's machine now.
        tick: the start tick of process `pid` there now, None when there is none.
    """
    return record.get("boot_id") == boot and tick is not None and record.get("pid_born") in (None, tick)


def judge(record: Record, *, now: float, boot: str, tick: Optional[int]) -> Record:
    """A state file's content, corrected when the process that kept it is gone or silent.

    Args:
        record, boot, tick: as `is_alive` takes them.
        now: unix seconds by the clock of the file's machine.
    """
    if record.get("state") not in RUNNING | {"ready"} or record.get("kind") == "endpoint":
        return record
    thing = "engine" if "kind" in record else "run" if "run_id" in record else "job"
    who = {"engine": "engine's supervisor", "run": "harness", "job": "process"}[thing]
    reason = None
    if record.get("boot_id") != boot:
        reason = f"the machine was restarted while the {thing} was {record['state']}"
    elif record.get("pid") is None:
        if now - float(record.get("started_unix") or now) > START_TIMEOUT_S:
            reason = f"{who} did not start"
    elif not is_alive(record, boot, tick):
        reason = f"{who} died (process {record['pid']} is gone)"
    elif "updated_unix" in record and now - float(record["updated_unix"]) > STALE_AFTER_S:
        reason = f"{who} hangs: no heartbeat for {now - float(record['updated_unix']):.0f} s"
    return {**record, "state": "failed", "reason": reason} if reason else record


def judge_here(record: Record) -> Record:
    """`judge` on the machine of the file."""
    return judge(record, now=time.time(), boot=boot_id(), tick=start_tick(int(record.get("pid") or 0)))


def look(path: str) -> Optional[Record]:
    """A state file's content as it is on this machine; None when there is none. Raises as `read` does."""
    record = read(path)
    return None if record is None else judge_here(record)


def look_all(root: str, kind: str, file: str) -> List[Record]:
    """All engines (`kind` engines) or runs (`kind` runs) under `root`, oldest first."""
    folder = os.path.join(root, kind)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    records = [look(os.path.join(folder, name, file)) for name in names]
    return sorted((record for record in records if record), key=lambda record: float(record.get("started_unix") or 0))


def summary(runs: List[Record], run_id: str) -> Record:
    """The state of one run (`absent` when there is none), its record, and the names of all that are running."""
    run: Record = next((run for run in runs if run["run_id"] == run_id), {})
    running = [each["run_id"] for each in runs if each["state"] in RUNNING]
    return {"state": run.get("state", "absent"), "run": run, "running": running}
