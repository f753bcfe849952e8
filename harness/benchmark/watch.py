"""Watching a node's state files from the controller, until what they describe has ended or the node is lost."""

import json
import math
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import state_file
from harness.benchmark import attempts, progress

Record = dict[str, Any]
Look = tuple[float, list[Record | None]]
"""Unix seconds by the node's clock, and each state file judged; None for one that is not there."""

GOOD = frozenset({"finished", "ready"})
_BAD = state_file.ENDED - GOOD
_ABSENT_LOOKS = 3
_LOOK_PAUSE_S = 0.5
_ENGINE_KEYS = ("name", "kind", "state", "reason", "progress", "url", "log", "started_unix", "ready_unix")
# One small shell call a look: a Python module would cost fifty times as much CPU on a node that is being measured. The
# call itself waits there, up to {waits} pauses, until a state has changed: no end is noticed late.
_LOOK = """set -- {files}; left={waits}
going() {{ grep -ohs '"state": *"\\(starting\\|running\\|waiting\\)"' "$@"; }}
n=$(going "$@")
while [ "$left" -gt 0 ] && [ "$n" ] && [ "$(going "$@")" = "$n" ]; do sleep {pause}; left=$((left - 1)); done
date +%s; cat /proc/sys/kernel/random/boot_id
for f; do printf '\\036\\n'
p=$(sed -n 's/.*"pid": *\\([0-9][0-9]*\\).*/\\1/p' "$f" 2>/dev/null | head -n 1)
echo "$(tr '\\n' ' ' 2>/dev/null < "/proc/${{p:-none}}/stat")"
t="${{f%/*}}/telemetry.csv"; echo "$(head -n 1 "$t" 2>/dev/null)"; echo "$(tail -n 1 "$t" 2>/dev/null)"
cat "$f" 2>/dev/null || true; done"""


class Lost(Exception):
    """The node has not answered for too long."""


@dataclass(frozen=True, slots=True)
class Node:
    """The node that is watched.

    `execute` runs a shell command there and returns its output; ConnectionError when there is no answer. `reset` makes
    its connection anew. `show` prints a line. `decide` tells the run there whether to repeat an attempt.
    """

    host: str
    execute: Callable[[str], str]
    reset: Callable[[], None]
    show: Callable[[str], None]
    decide: Callable[[int, bool], None] = lambda number, repeat: None


@dataclass(frozen=True, slots=True)
class Options:
    """What is watched, and how; see the module `mlperf_watch`. `together` are the hosts of all LoadGens, where there
    are several and they repeat their attempts together."""

    kind: str
    files: Sequence[str] = ()
    command: Sequence[str] = ()
    interval_s: float = 10.0
    lost_after_s: float = 120.0
    progress: Path | None = None
    until: str = ""
    together: Sequence[str] = ()


class Watch:
    """Looks, shows, records, waits; until there is nothing more to wait for."""

    def __init__(self, node: Node, options: Options) -> None:
        self._node, self._options = node, options
        self._command: _LookCommand | None = None
        self._last_look: Look | None = None
        self._started_unix = time.time()
        self._decided: set[int] = set()
        self._attempts_shown = 0

    def run(self) -> Record:
        """The last record seen; state `lost` or `absent`, with a reason, where there is none."""
        try:
            return self._watch()
        except Lost as lost:
            self._node.show(str(lost))
            self._record(None, lost=str(lost))
            return {"state": "lost", "reason": str(lost)}
        finally:
            self._end_command()

    def _watch(self) -> Record:
        options = self._options
        absent, patience_s = 0, 0.0
        while True:
            now, records = self._look(patience_s)
            missing = [file for file, record in zip(options.files, records, strict=False) if record is None]
            for record in filter(None, records):
                self._show_attempts(record)
                self._node.show(progress.line(options.kind, record, now))
                self._record(record)
                self._decide(record)
            absent = absent + 1 if missing else 0
            if absent >= _ABSENT_LOOKS:
                return {"state": "absent", "reason": f"{missing[0]} does not exist on {self._node.host}"}
            if not missing and (last := self._final(records)):
                return last
            patience_s = 0.0 if missing or options.until else options.interval_s
            if not patience_s and not options.command:
                self._wait(min(options.interval_s, 1.0) if missing else options.interval_s)

    def _show_attempts(self, record: Record) -> None:
        """Show the attempts that have ended since the last look."""
        ended = record.get("attempts") or ()
        for attempt in ended[self._attempts_shown :]:
            self._node.show(progress.attempt(attempt))
        self._attempts_shown = max(self._attempts_shown, len(ended))

    def _decide(self, record: Record) -> None:
        """Tell a run that waits for the others, once it is known, whether all repeat their attempts."""
        path, number = self._options.progress, record.get("attempt")
        if record["state"] != state_file.WAITING or path is None or number is None or number in self._decided:
            return
        looks = [progress.last_look(path, host) for host in self._options.together]
        if None in looks and time.time() - self._started_unix > self._options.lost_after_s:
            repeat: bool | None = False  # a run that nobody watches was not started
        else:
            repeat = attempts.repeat(number, looks)
        if repeat is not None:
            self._node.decide(number, repeat)
            self._decided.add(number)

    def _final(self, records: Sequence[Record | None]) -> Record | None:
        """The record that ends the watching: the first bad one, or any when all are where they should be; else None."""
        known = [record for record in records if record is not None]
        bad = [record for record in known if record["state"] in _BAD]
        if bad:
            return bad[0]
        if any(record["state"] not in GOOD for record in known):
            return None
        return known[0] if not self._options.until or self._other_run_has_ended() else None

    def _wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the run that decides over this watching has ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._options.until and self._other_run_has_ended():
                return
            time.sleep(min(left, 0.2))

    def _other_run_has_ended(self) -> bool:
        """Whether the run on host `until` has ended, by what its own watcher has recorded."""
        look = progress.last_look(self._options.progress, self._options.until) if self._options.progress else None
        seen = look["unix"] if look else 0.0
        if look and look["lost"] is None and look["status"]["state"] in state_file.ENDED:
            return True
        if look and look["lost"] and seen >= self._started_unix:
            return True
        return bool(time.time() - max(seen, self._started_unix) > self._options.lost_after_s + 60)

    def _look(self, patience_s: float) -> Look:
        """A look, after at most `patience_s` of waiting for an end there. Retries until the node counts as lost."""
        start, pause_s = time.monotonic() + patience_s, 1.0
        while True:
            try:
                return self._look_by_command() if self._options.command else self._look_there(patience_s)
            except (ConnectionError, ValueError, IndexError) as error:
                cause = " ".join(str(error).split())[:200]
            patience_s = 0.0
            silent_s = time.monotonic() - start
            if silent_s + pause_s > self._options.lost_after_s:
                raise Lost(f"{self._node.host} has not answered for {progress.duration(silent_s)}: {cause}")
            self._node.show(f"no answer, trying again: {cause}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, self._options.interval_s)
            if not self._options.command:
                self._node.reset()

    def _look_there(self, patience_s: float) -> Look:
        output = self._node.execute(look_command(self._options.files, patience_s))
        clock, *files = output.replace("\r\n", "\n").split("\x1e\n")
        now, boot = clock.split()
        if len(files) != len(self._options.files):
            raise ValueError(f"half an answer: {output[-200:]!r}")
        return float(now), [self._judged(text, float(now), boot) for text in files]

    def _judged(self, text: str, now: float, boot: str) -> Record | None:
        stat, header, row, content = text.split("\n", 3)
        if not content.strip():
            return None
        tick = state_file.start_tick_of(stat)
        record = state_file.judge(json.loads(content), now=now, boot=boot, tick=tick)
        if self._options.kind == "engine":
            return {**{key: record.get(key) for key in _ENGINE_KEYS}, "telemetry": progress.last_row(header, row)}
        return record

    def _look_by_command(self) -> Look:
        """The next look of the command that looks, which is started where it does not run."""
        if self._command is None:
            self._command = _LookCommand(self._options.command)
        patience_s = self._options.interval_s + self._options.lost_after_s
        end = time.monotonic() + patience_s
        while not self._command.has_more(0.2):
            if self._options.until and self._last_look and self._other_run_has_ended():
                return self._last_look
            if time.monotonic() > end:
                self._end_command()
                raise ConnectionError(f"the command has printed nothing for {patience_s:.0f} s")
        try:
            look = self._command.next()
        except ConnectionError:
            self._end_command()
            raise
        if look["records"] is None:
            raise ConnectionError(look["away"])
        self._last_look = (look["unix"], look["records"])
        return self._last_look

    def _end_command(self) -> None:
        if self._command is not None:
            self._command.end()
            self._command = None

    def _record(self, status: Record | None, lost: str | None = None) -> None:
        if self._options.progress:
            progress.append(self._options.progress, self._node.host, self._options.kind, status, lost)


class _LookCommand:
    """A command that looks by itself and prints what it sees, a line of JSON each time."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        # Unbuffered, so that whatever has been printed is seen by select.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, cwd="/", bufsize=0
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout

    def has_more(self, seconds: float) -> bool:
        """Whether it prints something, or ends, within so many seconds."""
        return bool(select.select([self._output], [], [], seconds)[0])

    def next(self) -> Record:
        """The next look; ConnectionError when the command has ended."""
        line = self._output.readline()
        if line:
            look: Record = json.loads(line)
            return look
        self._process.wait()
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace").strip().splitlines()
        raise ConnectionError(errors[-1] if errors else f"looking ended with {self._process.returncode}")

    def end(self) -> None:
        """End it, if it still runs."""
        self._process.terminate()
        self._process.wait()
        self._output.close()
        self._errors.close()


def look_command(files: Sequence[str], patience_s: float) -> str:
    """The shell command that prints each state file with what is needed to judge it."""
    pause_s = min(_LOOK_PAUSE_S, patience_s) or _LOOK_PAUSE_S
    return _LOOK.format(files=shlex.join(files), waits=math.ceil(patience_s / pause_s), pause=pause_s)
