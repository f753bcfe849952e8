"""Progress of engines, runs and jobs: as a line for a terminal or a CI log, and as lines of progress.jsonl."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import state_file
from harness.printable import printable
from harness.state_file import ENGINE_RUNNING, RUNNING, SILENT

Record = dict[str, Any]

MESSAGE_WIDTH = 100
FEW = 4
"""So many engines have a line each; of more only those with which something is amiss, beside a line for all."""
SILENT_ENGINE_S = 15.0
"""An engine that has not answered a run's telemetry for so long is asked on its node."""
SHOWN = "engines"
"""Kind of the lines of progress.jsonl that say when the engines or the runs of many nodes were last shown."""
_TAIL_BYTES = 1 << 17


def duration(seconds: float) -> str:
    """Seconds as people say them: 45s, 10m12s, 3h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def line(kind: str, record: Record, now: float) -> str:
    """A state file in one line; what was not measured is left out.

    Args:
        kind: job, engine, calibration or run.
        record: the file's content.
        now: unix seconds by the clock of the file's node.
    """
    if kind == "job":
        message = (record.get("progress") or "")[:MESSAGE_WIDTH]
        end = [] if record["state"] in RUNNING - {SILENT} else [record["state"], record.get("reason")]
        return _joined([record["name"], _age(record, now), *end, message])
    if kind == "engine":
        return _engine(record, now)
    if record["state"] not in RUNNING:
        return _joined([record["state"], duration(record.get("elapsed_s") or 0.0), record.get("reason")])
    return _run(record)


def attempt(record: Record) -> str:
    """An attempt that has ended, of a run's state file, in one line."""
    reason = f": {record['reason']}" if record.get("reason") else ""
    text = f"attempt {record['number']} at {record['target_qps']:g} samples/s: {record['verdict']}{reason}"
    return str(printable(text))


def engine_loss(record: Record) -> str:
    """A loss of an engine, of a run's state file, in one line."""
    moved = f"; {record['moved']} samples go to the other engines" if record["moved"] else ""
    after = f"engine {record['engine']} on {record['node']} lost after {duration(record['at_s'])}"
    return str(printable(f"{after}: {record['reason']}{moved}"))


def last_row(header: str, row: str) -> dict[str, float | None]:
    """The last line of a telemetry.csv by column; None where it holds no number."""
    return {
        name: _number(value) for name, value in zip(header.strip().split(","), row.strip().split(","), strict=False)
    }


def append(path: Path, host: str, kind: str, status: Record | None, lost: str | None) -> None:
    """Add a look at a host to progress.jsonl; `lost` says why there is no status."""
    path.parent.mkdir(parents=True, exist_ok=True)
    look = {"unix": time.time(), "host": host, "kind": kind, "status": status, "lost": lost}
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # One write a line: the watchers of several hosts append to the same file.
        os.write(handle, (json.dumps(look) + "\n").encode())
    finally:
        os.close(handle)


def last_look(path: Path, host: str) -> Record | None:
    """The newest look at a host's run in progress.jsonl; None when there is none yet."""
    return next((look for look in _last_looks(path) if look["host"] == host), None)


def engines_noted_lost(path: Path) -> set[str]:
    """Names of the engines that the runs in progress.jsonl have lost."""
    statuses = [look["status"] or {} for look in _last_looks(path)]
    return {loss["engine"] for status in statuses for loss in status.get("engine_losses") or ()}


def _last_looks(path: Path) -> Iterator[Record]:
    """The newest looks at runs, the newest first."""
    return filter(_is_look_at_run, _looks(path))


def _looks(path: Path) -> Iterator[Record]:
    """The newest lines, the newest first; a damaged one is left out."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return
    for text in reversed(tail):
        try:
            look: Record = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(look, dict):
            yield look


def _looks_to_show(path: Path, interval_s: float) -> list[Record]:
    """The newest lines, noting that they are shown now; none where some were in the last `interval_s`."""
    looks = list(_looks(path))
    now = time.time()
    if any(look.get("kind") == SHOWN and 0 <= now - _unix(look) < interval_s for look in looks):  # clocks may be set
        return []
    append(path, "", SHOWN, None, None)
    return looks


def _is_look_at_run(look: Record) -> bool:
    """Whether a line of progress.jsonl, which may be damaged, is a whole look at a run."""
    if look.get("kind") != "run" or "host" not in look or "lost" not in look:
        return False
    if look["lost"]:
        return look.get("status") is None
    return _is_state(look.get("status"), "status")


def _is_state(status: Any, path: str) -> bool:
    """Whether this is the content of a state file at such a path."""
    try:
        state_file.check(status, path)
    except ValueError:
        return False
    return True


def _unix(look: Record) -> float:
    unix = look.get("unix")
    return unix if isinstance(unix, int | float) else 0.0


def _run(record: Record) -> str:
    done, total = record.get("samples_done") or 0, record.get("samples_total")
    phase = record.get("phase") or record["state"]
    attempts = record.get("attempt") and phase in ("draining", "performance")
    return _joined(
        [
            f"silent: {record['reason']}" if record["state"] == SILENT else None,
            phase,
            _attempt(record) if attempts else None,
            f"{done}/{total}" if total else str(done) if done else None,
            f"{100 * done / total:.1f}%" if total else None,
            _format(record, "samples_per_s", "{:.1f} samples/s"),
            _format(record, "ttft_ms_p99", "TTFT p99 {:.0f} ms"),
            _format(record, "tpot_ms_p99", "TPOT p99 {:.1f} ms"),
            f"{record['samples_failed']} failed" if record.get("samples_failed") else None,
            engines_lost(record),
            f"ETA {duration(record['eta_s'])}" if record.get("eta_s") is not None else None,
        ]
    )


def _attempt(record: Record) -> str:
    most = record.get("attempts_most")
    return f"attempt {record['attempt']}" + (f" of {most}" if most else "")


def engines_lost(record: Record) -> str | None:
    """The engines that a run goes on without, of its state file; None when it has all."""
    lost = {loss["engine"]: loss["rejoined_unix"] is None for loss in record.get("engine_losses") or ()}
    names = [name for name, is_lost in lost.items() if is_lost]
    return f"without {', '.join(names)}" if names else None


def engines(records: Sequence[Record], now: float) -> list[str]:
    """The state files of engines, a line each where they are few, else one for all and for each with a failure."""
    if len(records) <= FEW:
        return [line("engine", record, now) for record in records]
    return [_of_all(records), *failed_engines(records, now)]


def failed_engines(records: Sequence[Record], now: float) -> list[str]:
    """A line for each engine that neither starts nor serves."""
    return [line("engine", record, now) for record in records if record["state"] not in ENGINE_RUNNING]


def engines_so_far(path: Path, nodes: int, interval_s: float) -> str | None:
    """How far the engines of all nodes are by progress.jsonl, to which a process of each node adds what it sees.

    None where one of them has shown that in the last `interval_s`.
    """
    newest: dict[tuple[str, str], Record] = {}
    for look in _looks_to_show(path, interval_s):
        status: Any = look.get("status")
        if look.get("kind") == "engine" and _is_state(status, "engine.json"):
            newest.setdefault((str(look.get("host")), status["name"]), status)
    hosts = len({host for host, _ in newest})
    return f"{hosts} of {nodes} nodes  {_of_all(list(newest.values()))}" if newest else None


def runs_so_far(path: Path, nodes: int, interval_s: float) -> str | None:
    """How far the runs of all nodes are by progress.jsonl, in a line; None as for `engines_so_far`."""
    newest: dict[str, Record | None] = {}
    for look in filter(_is_look_at_run, _looks_to_show(path, interval_s)):
        newest.setdefault(str(look["host"]), look["status"])
    if not newest:
        return None
    runs = {host: status for host, status in newest.items() if status}
    under_way = [status for status in runs.values() if status["state"] in RUNNING]
    phases = Counter(_phase(status) if status else "lost" for status in newest.values())
    last = max(runs, key=lambda host: runs[host].get("eta_s") or 0.0, default="")
    totals = {
        "state": "running",
        "phase": ", ".join(f"{count} {phase}" for phase, count in phases.most_common()),
        **{
            key: sum(status.get(key) or 0 for status in runs.values())
            for key in ("samples_done", "samples_total", "samples_failed")
        },
        "samples_per_s": sum(status.get("samples_per_s") or 0.0 for status in under_way) if under_way else None,
        "eta_s": runs[last].get("eta_s") if last else None,
    }
    of_last = f" ({last})" if totals["eta_s"] is not None else ""
    return f"{len(newest)} of {nodes} nodes  {_run(totals)}{printable(of_last)}"


def run_amiss(record: Record, now: float) -> list[str]:
    """What is wrong with one run of many: a line where it is silent or ended badly, and one for each silent engine."""
    is_well = record["state"] in RUNNING - {SILENT} or record["state"] == "finished"
    engines = record.get("engines") or () if record["state"] in RUNNING else ()
    silent = [_of_run(one) for one in engines if one["silent_s"] > SILENT_ENGINE_S]
    return [*([] if is_well else [line("run", record, now)]), *silent]


def _phase(record: Record) -> str:
    is_under_way = record["state"] in RUNNING - {SILENT}
    return str(record.get("phase") or record["state"]) if is_under_way else str(record["state"])


def _of_all(records: Sequence[Record]) -> str:
    """Engines that start in a line, with the one that was ready first and the one that took longest."""
    states = Counter(record["state"] for record in records)
    steps = Counter(record.get("progress") for record in records if record["state"] == "starting")
    took = sorted(
        (record["ready_unix"] - record["started_unix"], record["name"])
        for record in records
        if record["state"] == "ready" and record.get("ready_unix") and record.get("started_unix")
    )
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    step = steps.most_common(1)[0][0] if steps else None
    return _joined(
        [
            f"{len(records)} engines: {counts}",
            f"most are at: {step[:MESSAGE_WIDTH]}" if step else None,
            f"fastest {took[0][1]} {duration(took[0][0])}  slowest {took[-1][1]} {duration(took[-1][0])}"
            if len(took) > 1
            else None,
        ]
    )


def engines_of_run(record: Record) -> list[str]:
    """How the engines of a run's state file are, a line each where they are few, else one for all and for each that is
    silent, unless most are."""
    engines = record.get("engines") or ()
    if record["state"] not in RUNNING or not engines:
        return []
    if len(engines) <= FEW:
        return [_of_run(one) for one in engines]
    silent = [one for one in engines if one["silent_s"] > SILENT_ENGINE_S]
    return [_summary(engines), *(map(_of_run, silent) if 2 * len(silent) <= len(engines) else ())]


def _of_run(engine: Record) -> str:
    silent = engine["silent_s"] > SILENT_ENGINE_S
    state = f"silent for {duration(engine['silent_s'])}" if silent else "answers"
    return _joined([f"engine {engine['name']} {state}", *_queue(engine)])


def _summary(engines: Sequence[Record]) -> str:
    """All engines in a line, with the one that has answered least and the one that has answered most."""
    silent = sum(one["silent_s"] > SILENT_ENGINE_S for one in engines)
    totals = {key: sum(one.get(key) or 0 for one in engines) for key in ("running", "waiting")}
    usage = [one["kv_cache_percent"] for one in engines if one.get("kv_cache_percent") is not None]
    over = sorted((one["over"], one["name"]) for one in engines if one.get("over") is not None)
    return _joined(
        [
            f"{len(engines)} engines",
            f"{silent} silent" if silent else "all answer",
            *_queue({**totals, "kv_cache_percent": max(usage) if usage else None}),
            f"slowest {over[0][1]} ({over[0][0]} answers)  fastest {over[-1][1]} ({over[-1][0]})"
            if over and over[0][0] < over[-1][0]
            else None,
        ]
    )


def silent_engines(record: Record) -> set[str]:
    """The engines of a run's state file that do not answer it now."""
    return {one["name"] for one in record.get("engines") or () if one["silent_s"] > SILENT_ENGINE_S}


def answering(record: Record) -> frozenset[str]:
    """The engines of a run's state file that have answered to the last, and were never lost."""
    lost = {loss["engine"] for loss in record.get("engine_losses") or ()}
    engines = {one["name"] for one in record.get("engines") or ()}
    return frozenset(engines - silent_engines(record) - lost)


def _engine(record: Record, now: float) -> str:
    if record["state"] == "starting":
        return _joined(["starting engine", _age(record, now), record.get("progress")])
    queue = _queue(record.get("telemetry") or {})
    return _joined([f"engine {record['name']} {record['state']}", *queue, record.get("reason")])


def _queue(engine: Record) -> list[str | None]:
    return [
        _format(engine, "running", "{:.0f} running"),
        _format(engine, "waiting", "{:.0f} waiting"),
        _format(engine, "kv_cache_percent", "KV {:.0f}%"),
    ]


def _age(record: Record, now: float) -> str:
    """How long ago something was started: by its machine's uptime where that is known, else by the clock."""
    elapsed_s = record.get("elapsed_s")
    started_unix = record.get("started_unix") or now
    return duration(max(0.0, now - started_unix) if elapsed_s is None else elapsed_s)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _format(record: Record, key: str, form: str) -> str | None:
    value = record.get(key)
    return None if value is None else form.format(value)


def _joined(parts: Sequence[str | None]) -> str:
    return str(printable("  ".join(part for part in parts if part)))
