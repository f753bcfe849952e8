# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""State files of engines, runs and background jobs: where they are, and whether the process that keeps one is alive.

Nodes get this file with their modules, as `mlperf_state_file`: it needs the standard library of Python 3.9 only.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

CALIBRATION_SUFFIX = ".calibration"
"""A benchmark's calibration is a run of its own, which has the benchmark's name with this suffix."""
SHARE_SUFFIX = ".share"
"""A node answers another one's accuracy share in a further run, whose name has this suffix and a number."""
SILENT_AFTER_S = 30.0
"""A live process whose heartbeat is older than this is silent: suspended, or waiting for a disk or file server."""
START_TIMEOUT_S = 60.0
"""Between a request to start a process and its first own entry in the file."""
WAITING = "waiting"
"""State of a run that waits for the decision whether to repeat its last attempt."""
SILENT = "silent"
"""State of a run or job that is alive without a recent heartbeat; readers work it out, no file says so."""
RUNNING = frozenset({"starting", "running", WAITING, SILENT})
READY = "ready"
"""State of an engine that serves."""
ENGINE_RUNNING = frozenset({"starting", READY})
"""States of an engine that starts or serves."""
ENDED = frozenset({"finished", "failed", "stopped"})
ENGINE_KEYS = (
    *("name", "kind", "state", "reason", "progress", "url", "log", "started_unix", "ready_unix", "elapsed_s"),
    "telemetry",
)
"""What watchers record and show of an engine: neither its settings nor what it runs on."""

Record = Dict[str, Any]

_REQUIRED = {"status.json": ("run_id",), "engine.json": ("name", "kind"), "job.json": ("name",)}
_LARGEST = 1e11  # of any number in a state file: a time in the year 5138
# What readers rely on. A key may be missing or null, but not be of another type.
_TYPES = {
    **dict.fromkeys(("run_id", "name", "kind", "phase", "reason", "log", "boot_id", "progress", "url", "model"), str),
    **dict.fromkeys(("pid", "pid_born", "engine_pid", "attempt", "attempts_most", "max_in_flight"), int),
    **dict.fromkeys(("started_unix", "updated_unix", "ready_unix", "stopped_unix", "elapsed_s", "eta_s"), float),
    **dict.fromkeys(("started_uptime_s", "updated_uptime_s", "samples_per_s", "ttft_ms_p99", "tpot_ms_p99"), float),
    **dict.fromkeys(("samples_done", "samples_total", "samples_failed", "tokens_per_s", "in_flight"), float),
    **dict.fromkeys(("config", "asked", "verified", "version", "environment", "telemetry", "machine"), dict),
    **{key: [str] for key in ("command", "unverified", "done", "warnings", "probes")},
    "steps": [{"digest": str}],
    "attempts": [{"number": int, "target_qps": float, "verdict": str, "repeatable": bool}],
    "engine_losses": [
        {
            "engine": str,
            "node": str,
            "at_s": float,
            "reason": str,
            "moved": int,
            "rejoined_unix": object,
            "mode?": str,
            "folder?": str,
        }
    ],
    "engines": [{"name": str, "silent_s": float, "over?": object, **dict.fromkeys(("running?", "waiting?"), float)}],
    "phases": [{"phase": str}],
    "calibration": {
        "samples_per_s": float,
        "target_qps": float,
        "by_engine": (float,),
        "slowest_s?": (float,),
        "uncertainty_percent?": float,
    },
}  # type: Dict[str, Any]


class Process(NamedTuple):
    """A live process, which a zombie is not: its parent and its session by id, and the clock tick of its start."""

    parent: int
    session: int
    start_tick: int


def engine_file(root: str, name: str) -> str:
    """Path of an engine's state file."""
    return os.path.join(root, "engines", name, "engine.json")


def run_file(root: str, run_id: str) -> str:
    """Path of a run's state file."""
    return os.path.join(root, "runs", run_id, "status.json")


def read(path: str) -> Optional[Record]:
    """The content of a state file; None when there is no such file.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return parse(stream.read(), path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse(text: Any, path: str) -> Record:
    """The content of a state file from its text or bytes; `path` says which kind of state file it is.

    Raises:
        ValueError: it is no JSON object, or a key that readers rely on is missing or of another type.
    """
    try:
        content = json.loads(text)
        # Not everything that Python reads can be printed: lone surrogates, infinities, a thousand brackets.
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return check(content, path)


def check(content: Any, path: str) -> Record:
    """The content of a state file, or of a copy of one at another `path`. ValueError as `parse`, but for the text."""
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object")
    missing = [key for key in ("state", *_REQUIRED.get(os.path.basename(path), ())) if content.get(key) is None]
    if missing:
        raise ValueError(f"{path} is damaged: it has no {missing[0]}")
    wrong = [key for key, kind in _TYPES.items() if content.get(key) is not None and not _fits(content[key], kind)]
    if wrong or content["state"] not in (*RUNNING, READY, *ENDED):
        key = wrong[0] if wrong else "state"
        raise ValueError(f"{path} is damaged: {key} is {str(content[key])[:80]!r}")
    return content


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of this type.

    `kind` is a list for one whose items are all of its type, a tuple for a dictionary with such values, and a
    dictionary for one with at least its keys, of which those that end with a question mark may be missing.
    """
    if kind in (int, float):
        numbers = (int,) if kind is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool) and abs(value) < _LARGEST
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(item, kind[0]) for item in value)
    if isinstance(kind, tuple):
        return isinstance(value, dict) and all(_fits(item, kind[0]) for item in value.values())
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(
            _fits(value[key.rstrip("?")], kind[key]) if key.rstrip("?") in value else key.endswith("?") for key in kind
        )
    return isinstance(value, kind)


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
    """The clock tick since boot at which a live process was started; None when there is none.

    Process id, boot and start tick name one process for good; an id alone may be another's by now.
    """
    process = read_process(pid)
    return process.start_tick if process else None


def read_process(pid: int) -> Optional[Process]:
    """The live process with this id; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return parse_process(stream.read())
    except OSError:
        return None


def parse_process(stat: str) -> Optional[Process]:
    """The process in the content of a /proc/PID/stat; None for a zombie, or where the file was empty."""
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return None
    return Process(parent=int(fields[1]), session=int(fields[3]), start_tick=int(fields[19]))


def is_alive(record: Record, boot: str, tick: Optional[int]) -> bool:
    """Whether the very process that keeps a state file is alive.

    Args:
        record: the file's content, with `pid`, `boot_id` and, where its writer knew it, `pid_born`.
        boot: the boot id of the file's machine now.
        tick: the start tick of process `pid` there now, None when there is none.
    """
    return record.get("boot_id") == boot and tick is not None and record.get("pid_born") in (None, tick)


def uptime_s() -> float:
    """Seconds since this machine was booted, which no step of its clock changes."""
    with open("/proc/uptime", encoding="ascii") as stream:
        return float(stream.read().split()[0])


def judge(record: Record, *, uptime: float, boot: str, tick: Optional[int]) -> Record:
    """A state file's content, corrected when the process that kept it is gone or silent.

    Args:
        record, boot, tick: as `is_alive` takes them.
        uptime: seconds since the file's machine was booted.
    """
    if record["state"] not in RUNNING | {READY} or record.get("kind") == "endpoint":
        return record
    thing = "engine" if "kind" in record else "run" if "run_id" in record else "job"
    who = {"engine": "engine's supervisor", "run": "harness", "job": "process"}[thing]
    reason = None
    if record.get("boot_id") != boot:
        reason = f"the machine was restarted while the {thing} was {record['state']}"
    elif record.get("pid") is None:
        if _age_s(record, "started_uptime_s", uptime, START_TIMEOUT_S) >= START_TIMEOUT_S:
            reason = f"{who} did not start"
    elif not is_alive(record, boot, tick):
        reason = f"{who} died (process {record['pid']} is gone)"
    if reason:
        return {**record, "state": "failed", "reason": reason}
    silent_s = _age_s(record, "updated_uptime_s", uptime, 0.0)
    if record.get("pid") is None or silent_s <= SILENT_AFTER_S:
        return record
    reason = f"no heartbeat for {silent_s:.0f} s, though process {record['pid']} lives"
    return {**record, "state": SILENT, "reason": reason, "silent_s": silent_s}


def _age_s(record: Record, key: str, uptime: float, unknown: float) -> float:
    """Seconds since the uptime at `key`; `unknown` for a record without it, of an earlier version."""
    since = record.get(key)
    return unknown if since is None else uptime - float(since)


def judge_here(record: Record) -> Record:
    """`judge` on the machine of the file."""
    return judge(record, uptime=uptime_s(), boot=boot_id(), tick=start_tick(int(record.get("pid") or 0)))


def look(path: str) -> Optional[Record]:
    """A state file's content as it is on this machine; None when there is none. Raises as `read` does."""
    record = read(path)
    return None if record is None else judge_here(record)


def look_all(root: str, kind: str, file: str) -> Tuple[List[Record], Dict[str, str]]:
    """All engines (`kind` engines) or runs (`kind` runs) under `root`, oldest first.

    Also, by the name of their folder, those whose state file cannot be read: what is wrong, and where to look.
    """
    folder = os.path.join(root, kind)
    records, unreadable = [], {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        try:
            record = look(os.path.join(folder, name, file))
        except (OSError, ValueError) as error:
            unreadable[name] = f"{error}; it is skipped: look into {os.path.join(folder, name)}"
        else:
            records += [record] if record else []
    return sorted(records, key=lambda record: float(record.get("started_unix") or 0)), unreadable


def summary(runs: List[Record], run_id: str, unreadable: Optional[Dict[str, str]] = None) -> Record:
    """The state of one run (`absent` when there is none), its record, and the names of all that are running.

    A calibration or a share that runs counts as the run that it is for, because people pick up and stop all of them by
    that name. A run whose state file cannot be read has failed: one that runs writes it every second.
    """
    run = next((run for run in runs if run["run_id"] == run_id), {})  # type: Record
    if run_id in (unreadable or {}):
        run = {"run_id": run_id, "state": "failed", "reason": (unreadable or {})[run_id]}
    part = re.compile(f"({re.escape(CALIBRATION_SUFFIX)}|{re.escape(SHARE_SUFFIX)}[0-9]+)$")
    running = [part.sub("", each["run_id"]) for each in runs if each["state"] in RUNNING]
    return {"state": run.get("state", "absent"), "run": run, "running": list(dict.fromkeys(running))}
