# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""How a reader judges the state files that engines, runs and steps leave on a node. Standard library, Python 3.9."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, List, Optional

STALE_AFTER_S = 30.0
BIRTH_S = 60.0
RUNNING = frozenset({"starting", "running"})

Record = Dict[str, Any]


def engine_file(root: str, name: str) -> str:
    """Where an engine says how it is."""
    return os.path.join(root, "engines", name, "engine.json")


def run_file(root: str, run_id: str) -> str:
    """Where a run says how it is."""
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


def boot_id() -> str:
    """The kernel's identity of this boot; with a pid it names one process for good."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


def write_whole(path: str, content: str) -> None:
    """Write a text file, in a folder made where it is missing, so that a reader sees all of it or nothing."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.part", "w", encoding="utf-8") as stream:
        stream.write(content)
    os.replace(f"{path}.part", path)


def judge(record: Record, *, now: float, boot: str, pid_alive: bool) -> Record:
    """A state file's content, set right when the process that kept it is gone or silent.

    Args:
        record: what engine.json, status.json or job.json says.
        now: unix seconds by the clock of the file's node.
        boot: the boot id of that node now.
        pid_alive: whether process record["pid"] lives there.
    """
    if record.get("state") not in RUNNING | {"ready"}:
        return record
    if record.get("kind") == "endpoint":
        return record
    who = "engine's supervisor" if "kind" in record else "harness" if "run_id" in record else "process"
    reason = None
    if record.get("boot_id") != boot:
        reason = f"{who} died: the machine was restarted"
    elif record.get("pid") is None:
        if now - float(record.get("started_unix") or now) > BIRTH_S:
            reason = f"{who} never came to life"
    elif not pid_alive:
        reason = f"{who} died (process {record['pid']} is gone)"
    elif "updated_unix" in record and now - float(record["updated_unix"]) > STALE_AFTER_S:
        reason = f"{who} hangs: no heartbeat for {now - float(record['updated_unix']):.0f} s"
    return {**record, "state": "failed", "reason": reason} if reason else record


def look(path: str) -> Optional[Record]:
    """A state file as it is on this machine; None when there is none."""
    record = read(path)
    if record is None:
        return None
    pid = int(record.get("pid") or 0)
    return judge(record, now=time.time(), boot=boot_id(), pid_alive=alive(pid))


def look_all(root: str, kind: str, file: str) -> List[Record]:
    """All engines (`kind` engines) or runs (`kind` runs) under `root`, oldest first."""
    folder = os.path.join(root, kind)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [look(os.path.join(folder, name, file)) for name in names]
    return sorted((record for record in found if record), key=lambda record: float(record.get("started_unix") or 0))
