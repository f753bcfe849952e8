"""Looks at the state files of a node: the shell command that makes one, what it printed, and commands that look."""

import json
import math
import select
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from harness import state_file
from harness.benchmark import progress

Record = dict[str, Any]
Look = tuple[float, list[Record | None]]
"""Unix seconds by the node's clock, and each state file judged; None for one that is not there."""

_PAUSE_S = 0.5
# One small shell call a look: a Python module would cost fifty times as much CPU on a node that is being measured. The
# call itself waits there, up to {waits} pauses, while what is under way keeps its state: no end is noticed late.
_LOOK = """set -- {files}; left={waits}
going() {{ grep -ohs '"state": *"\\({states}\\)"' "$@"; }}
n=$(going "$@")
while [ "$left" -gt 0 ] && [ "$n" ] && [ "$(going "$@")" = "$n" ]; do sleep {pause}; left=$((left - 1)); done
read up rest < /proc/uptime
echo "$(date +%s) $up"; cat /proc/sys/kernel/random/boot_id
for f; do printf '\\036\\n'
p=$(sed -n 's/.*"pid": *\\([0-9][0-9]*\\).*/\\1/p' "$f" 2>/dev/null | head -n 1)
echo "$(tr '\\n' ' ' 2>/dev/null < "/proc/${{p:-none}}/stat")"
t="${{f%/*}}/telemetry.csv"; echo "$(head -n 1 "$t" 2>/dev/null)"; echo "$(tail -n 1 "$t" 2>/dev/null)"
cat "$f" 2>/dev/null || true; done"""


def shell_command(files: Sequence[str], patience_s: float) -> str:
    """The shell command that prints each state file with what is needed to judge it."""
    pause_s = min(_PAUSE_S, patience_s) or _PAUSE_S
    return _LOOK.format(
        states="\\|".join(sorted(state_file.RUNNING)),
        files=shlex.join(files),
        waits=math.ceil(patience_s / pause_s),
        pause=pause_s,
    )


def read(output: str, files: Sequence[str], kind: str) -> Look:
    """The look that the shell command has printed; of engines ENGINE_KEYS, with the last row of their telemetry.

    Raises:
        ValueError: it is cut, or a state file is damaged.
    """
    clock, *parts = output.replace("\r\n", "\n").split("\x1e\n")
    now, uptime, boot = clock.split()
    if len(parts) != len(files):
        raise ValueError(f"half an answer: {output[-200:]!r}")
    return float(now), [_judged(*pair, kind, float(uptime), boot) for pair in zip(files, parts, strict=True)]


def _judged(file: str, text: str, kind: str, uptime: float, boot: str) -> Record | None:
    stat, header, row, content = text.split("\n", 3)
    if not content.strip():
        return None
    process = state_file.parse_process(stat)
    tick = process.start_tick if process else None
    record = state_file.judge(state_file.parse(content, file), uptime=uptime, boot=boot, tick=tick)
    if record.get("started_uptime_s") is not None:
        record = {"elapsed_s": max(0.0, uptime - record["started_uptime_s"]), **record}
    if kind == "engine":
        return {key: record.get(key) for key in state_file.ENGINE_KEYS} | {"telemetry": progress.last_row(header, row)}
    return record


def one_look(command: Sequence[str], patience_s: float = 30.0) -> list[Record]:
    """The first look of a command that looks.

    Raises:
        ConnectionError: there is none within `patience_s`.
    """
    looker = LookCommand(command)
    try:
        look = (
            looker.next()
            if looker.has_more(patience_s)
            else {"records": None, "away": f"no look in {patience_s:.0f} s"}
        )
    finally:
        looker.end()
    if look["records"] is None:
        raise ConnectionError(look["away"])
    return list(look["records"])


class LookCommand:
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
