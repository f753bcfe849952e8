# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Fetches what the module of the same name lists, and checks it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess

from ansible.errors import AnsibleActionFail, AnsibleFileNotFound
from ansible.plugins.action import ActionBase

ATTEMPTS = 3
CHUNK = 1 << 20
SUMS = "SHA256SUMS"


class ActionModule(ActionBase):
    """List on the node, fetch what is new, compare."""

    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Collect the files; a file that keeps changing under the transfer is an error."""
        result = super().run(tmp, task_vars)
        path = self._task.args.get("path", "")
        if self._task.args.get("command"):
            return {**result, **self._through_the_api(path)}
        fetched = []
        for _attempt in range(ATTEMPTS):
            answer = self._execute_module("mlperf_collect", task_vars=task_vars)
            if answer.get("failed") or answer.get("unreachable"):
                return {**result, **answer}
            files = answer["files"]
            wanted = [file for file in files if not _is_there(os.path.join(path, file["target"]), file)]
            if self._task.check_mode:
                fetched = [file["target"] for file in wanted]
                break
            fetched += [file["target"] for file in wanted]
            arrived = [self._fetched(file, os.path.join(path, file["target"])) for file in wanted]
            if all(arrived):
                break
        else:
            names = ", ".join(file["target"] for file in wanted)
            raise AnsibleActionFail(f"{names}: changed on the node during {ATTEMPTS} transfers; see what writes there")
        if fetched and not self._task.check_mode:
            _write_sums(path, files)
        shown = [{key: file[key] for key in ("target", "size", "sha256")} for file in files]
        diff = {"before": "", "after": "".join(f"{name}\n" for name in fetched)}
        return {**result, "changed": bool(fetched), "files": shown, "fetched": fetched, "diff": diff}

    def _through_the_api(self, path):
        """What the command that is given says of its collecting."""
        pairs = [f"{one['source']}={one.get('target') or ''}" for one in self._task.args["directories"]]
        argv = [*self._task.args["command"], "collect", *pairs, "--into", path, "--json"]
        if self._task.check_mode:
            return {"changed": True, "files": [], "fetched": [], "diff": {"before": "", "after": ""}}
        done = subprocess.run(argv, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True)
        try:
            answer = json.loads(done.stdout)
            names, fetched = answer["files"], answer["fetched"]
        except (ValueError, KeyError):
            said = (done.stdout + done.stderr).strip().splitlines()
            reason = _reason(done.stdout) or (said[-1] if said else f"collecting ended with {done.returncode}")
            return {"failed": True, "msg": reason}
        diff = {"before": "", "after": "".join(f"{name}\n" for name in fetched)}
        return {"changed": bool(fetched), "files": _described(path, names), "fetched": fetched, "diff": diff}

    def _fetched(self, file, local):
        """Fetch one file; whether it arrived as it was hashed."""
        os.makedirs(os.path.dirname(local), exist_ok=True)
        part = f"{local}.part"
        try:
            self._connection.fetch_file(file["source"], part)
            if os.path.getsize(part) > file["size"]:
                os.truncate(part, file["size"])
            if _sha256(part) != file["sha256"]:
                return False
            os.replace(part, local)
            return True
        except AnsibleFileNotFound:
            return False
        finally:
            if os.path.exists(part):
                os.unlink(part)


def _reason(printed):
    try:
        return json.loads(printed)["error"]
    except (ValueError, KeyError, TypeError):
        return None


def _described(path, names):
    """Size and hash of files that have arrived, whose hashes were compared and written down."""
    sums = _read_sums(os.path.join(path, SUMS))
    return [{"target": name, "size": os.path.getsize(os.path.join(path, name)), "sha256": sums[name]} for name in names]


def _read_sums(file):
    if not os.path.exists(file):
        return {}
    with open(file, encoding="utf-8") as stream:
        return {name: digest for digest, name in (line.rstrip("\n").split("  ", 1) for line in stream)}


def _is_there(local, file):
    return os.path.isfile(local) and os.path.getsize(local) == file["size"] and _sha256(local) == file["sha256"]


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write_sums(path, files):
    """Add the hashes to those of earlier collections, in the form that sha256sum checks."""
    target = os.path.join(path, SUMS)
    sums = _read_sums(target)
    sums.update({file["target"]: file["sha256"] for file in files})
    with open(f"{target}.part", "w", encoding="utf-8") as stream:
        stream.writelines(f"{sums[name]}  {name}\n" for name in sorted(sums))
    os.replace(f"{target}.part", target)
