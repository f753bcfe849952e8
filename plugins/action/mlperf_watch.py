# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Shows live how far a node is, until it is done. See plugins/modules/mlperf_watch.py for what users need."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import select
import shlex
import subprocess
import tempfile
import time

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import module_utils_loader
from ansible.utils.display import Display


def _shared(name):
    """A module of plugins/module_utils: Ansible puts them into modules, but not on the controller's import path."""
    spec = importlib.util.spec_from_file_location(name, module_utils_loader.find_plugin(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


state = _shared("mlperf_state_file")
lines = _shared("mlperf_lines")
display = Display()

ENDED = {"finished", "failed", "stopped"}
GOOD = {"finished", "ready"}
ABSENT_LOOKS = 3
LOOK_PAUSE_S = 0.5
ENGINE_KEYS = ("name", "kind", "state", "reason", "progress", "url", "log", "started_unix", "ready_unix")
# One small shell call a look: a Python module would cost fifty times as much CPU on a node that is being measured. The
# call itself waits there, up to {waits} pauses, until one of the files has come to its end: no end is noticed late.
LOOK = """set -- {files}; left={waits}
going() {{ grep -ls '"state": *"\\(starting\\|running\\)"' "$@" | wc -l; }}
n=$(going "$@")
while [ "$left" -gt 0 ] && [ "$n" -gt 0 ] && [ "$(going "$@")" -eq "$n" ]; do sleep {pause}; left=$((left - 1)); done
date +%s; cat /proc/sys/kernel/random/boot_id
for f; do printf '\\036\\n'
p=$(sed -n 's/.*"pid": *\\([0-9][0-9]*\\).*/\\1/p' "$f" 2>/dev/null | head -n 1)
echo "$(tr '\\n' ' ' < "/proc/${{p:-none}}/stat" 2>/dev/null)"
t="${{f%/*}}/telemetry.csv"; echo "$(head -n 1 "$t" 2>/dev/null)"; echo "$(tail -n 1 "$t" 2>/dev/null)"
cat "$f" 2>/dev/null || true; done"""


class Lost(Exception):
    """The node has not answered for too long."""


class Looker:
    """A command that looks by itself and prints what it sees, a line of JSON each time."""

    def __init__(self, command):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        # Unbuffered, so that whatever has been said is seen by select.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, cwd="/", bufsize=0
        )

    def has_more(self, seconds):
        """Whether it says something, or ends, within so many seconds."""
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def next(self):
        """The next look; ConnectionError when it has ended."""
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        raise ConnectionError(said[-1] if said else f"looking ended with {self._process.returncode}")

    def end(self):
        """End it, if it still runs."""
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


class ActionModule(ActionBase):
    """Looks, shows, writes down, waits; until there is nothing more to wait for."""

    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Watch; the end of what is watched, whatever it was, is data."""
        result = super().run(tmp, task_vars)
        _, self._args = self.validate_argument_spec(
            {
                "kind": {"type": "str", "required": True, "choices": ["job", "engine", "calibration", "run"]},
                "files": {"type": "list", "elements": "path", "default": []},
                "command": {"type": "list", "elements": "str", "default": []},
                "interval_s": {"type": "float", "default": 10.0},
                "lost_after_s": {"type": "float", "default": 120.0},
                "progress": {"type": "path", "default": ""},
                "notice": {"type": "str", "default": ""},
                "until": {"type": "str", "default": ""},
            }
        )
        if self._task.check_mode:
            return {**result, "changed": False, "skipped": True, "msg": "nothing was started that could be watched"}
        self._host = task_vars["inventory_hostname"]
        self._width = max(map(len, task_vars.get("ansible_play_hosts_all", [self._host])))
        if self._args["notice"]:
            display.display(self._args["notice"])
        self._looker = self._seen = None
        try:
            found = self._watch()
        except Lost as lost:
            self._show(str(lost))
            self._note(None, lost=str(lost))
            found = {"state": "lost", "reason": str(lost)}
        finally:
            self._end_looker()
        good = found["state"] in GOOD
        reason = "" if good else found.get("reason") or f"it ended as {found['state']}"
        return {
            **result,
            "changed": False,
            "good": good,
            "state": found["state"],
            "reason": reason,
            "msg": reason,
            "log": found.get("log") or "",
            "status": {} if found["state"] in ("lost", "absent") else found,
        }

    def _watch(self):
        absent, patience = 0, 0.0
        self._begun = time.time()
        while True:
            now, records = self._look(patience)
            missing = [file for file, record in zip(self._args["files"], records) if record is None]
            for record in filter(None, records):
                self._show(lines.line(self._args["kind"], record, now))
                self._note(record)
            absent = absent + 1 if missing else 0
            if absent >= ABSENT_LOOKS:
                return {"state": "absent", "reason": f"{missing[0]} does not exist on {self._host}"}
            if not missing and (last := self._last(records)):
                return last
            patience = 0.0 if missing or self._args["until"] else self._args["interval_s"]
            if not patience and not self._args["command"]:
                self._wait(min(self._args["interval_s"], 1.0) if missing else self._args["interval_s"])

    def _last(self, records):
        """The record that ends the watching: the first bad one, or any when all are where they should be; else None."""
        bad = [record for record in records if record["state"] in ENDED - {"finished"}]
        if bad:
            return bad[0]
        if any(record["state"] not in GOOD for record in records):
            return None
        return records[0] if not self._args["until"] or self._has_ended(self._args["until"]) else None

    def _wait(self, seconds):
        """Sleep, but no longer than until the run that decides over this watching has ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._args["until"] and self._has_ended(self._args["until"]):
                return
            time.sleep(min(left, 0.2))

    def _has_ended(self, host):
        """Whether the run on another host has ended, by what its own watcher has written down."""
        look = _last_look(self._args["progress"], host)
        seen = look["unix"] if look else 0.0
        if look and look["lost"] is None and look["status"]["state"] in ENDED:
            return True
        if look and look["lost"] and seen >= self._begun:
            return True
        return time.time() - max(seen, self._begun) > self._args["lost_after_s"] + 60

    def _look(self, patience):
        """(unix seconds there, each judged state file or None), after at most `patience` s of waiting for an end there.

        Retries until the node counts as lost.
        """
        begun, pause = time.monotonic() + patience, 1.0
        while True:
            try:
                return self._read_looker() if self._args["command"] else self._look_there(patience)
            except (AnsibleConnectionFailure, AnsibleError, ConnectionError, ValueError, IndexError) as error:
                cause = " ".join(str(error).split())[:200]
            patience = 0.0
            silent = time.monotonic() - begun
            if silent + pause > self._args["lost_after_s"]:
                raise Lost(f"{self._host} has not answered for {lines.duration(silent)}: {cause}")
            self._show(f"no answer, trying again: {cause}")
            time.sleep(pause)
            pause = min(2 * pause, self._args["interval_s"])
            self._reset()

    def _look_there(self, patience):
        """One look on the node, after at most `patience` s of waiting there for an end."""
        answer = self._low_level_execute_command(_command(self._args["files"], patience))
        if answer["rc"] == 0:
            return self._judged(answer["stdout"])
        cause = (answer["stderr"] or answer["stdout"]).strip()[-200:]
        raise ConnectionError(cause or f"exit status {answer['rc']}")

    def _read_looker(self):
        """The next look of the command that looks, which is started where it does not run."""
        if self._looker is None:
            self._looker = Looker(self._args["command"])
        patience_s = self._args["interval_s"] + self._args["lost_after_s"]
        end = time.monotonic() + patience_s
        while not self._looker.has_more(0.2):
            if self._args["until"] and self._seen and self._has_ended(self._args["until"]):
                return self._seen
            if time.monotonic() > end:
                self._end_looker()
                raise ConnectionError(f"looking has said nothing for {patience_s:.0f} s")
        try:
            look = self._looker.next()
        except ConnectionError:
            self._end_looker()
            raise
        if look["records"] is None:
            raise ConnectionError(look["away"])
        self._seen = (look["unix"], look["records"])
        return self._seen

    def _end_looker(self):
        if self._looker is not None:
            self._looker.end()
            self._looker = None

    def _reset(self):
        if self._args["command"]:
            return
        try:
            self._connection.reset()
        except Exception as error:  # a broken connection may break in any way; the next look tells
            display.vv(f"{self._host}: resetting the connection: {error}")

    def _judged(self, output):
        clock, *files = output.replace("\r\n", "\n").split("\x1e\n")
        now, boot = clock.split()
        if len(files) != len(self._args["files"]):
            raise ValueError(f"half an answer: {output[-200:]!r}")
        return float(now), [self._judged_file(text, float(now), boot) for text in files]

    def _judged_file(self, text, now, boot):
        stat, header, row, content = text.split("\n", 3)
        if not content.strip():
            return None
        record = state.judge(json.loads(content), now=now, boot=boot, tick=state.start_tick_of(stat))
        if self._args["kind"] == "engine":
            kept = {key: record.get(key) for key in ENGINE_KEYS}
            record = {**kept, "telemetry": lines.last_row(header, row)}
        return record

    def _show(self, text):
        display.display(f"{self._host:<{self._width}}  {text}")

    def _note(self, record, lost=None):
        if not self._args["progress"]:
            return
        os.makedirs(os.path.dirname(self._args["progress"]), exist_ok=True)
        look = {"unix": time.time(), "host": self._host, "kind": self._args["kind"], "status": record, "lost": lost}
        data = (json.dumps(look) + "\n").encode()
        handle = os.open(self._args["progress"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # One write a line: the watchers of several hosts append to the same file.
            os.write(handle, data)
        finally:
            os.close(handle)


def _command(files, patience):
    pause = min(LOOK_PAUSE_S, patience) or LOOK_PAUSE_S
    return LOOK.format(files=shlex.join(files), waits=math.ceil(patience / pause), pause=pause)


def _last_look(path, host, tail_bytes=1 << 17):
    """The last thing that the watcher of a host's run wrote down; None when there is nothing yet."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.path.getsize(path) - tail_bytes))
            found = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for text in reversed(found):
        try:
            look = json.loads(text)
        except ValueError:
            continue
        if look["host"] == host and look["kind"] == "run":
            return look
    return None
