# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Fetches what the module of the same name lists, and checks it. See plugins/modules/mlperf_collect.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.plugins.loader import action_loader

ATTEMPTS = 3
GROWTH_BYTES = 64 << 20
"""By which a file may grow between its hashing and the end of its transfer."""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Lists on the node, fetches what is new, compares."""

    def work(self, arguments):
        """All files, and those that were fetched."""
        path, directories = Path(arguments["path"]), list(_directories(arguments["directories"]))
        if arguments["command"]:
            files, fetched = self._collect_by_command(arguments["command"], path, directories)
        else:
            try:
                files, fetched = self._collect(path, directories)
            except AnsibleConnectionFailure as error:
                return self.became_unreachable("before its files were collected", error)
        would_look = self.check_mode and bool(arguments["command"])
        diff = {"before": "", "after": "".join(f"{name}\n" for name in fetched)}
        return {"changed": would_look or bool(fetched), "files": files, "fetched": fetched, "diff": diff}

    def _collect(self, path, directories):
        from harness import checksums
        from harness.collected import Offer
        from harness.errors import RunFailed

        fetched = []
        for _attempt in range(ATTEMPTS):
            files = self.run_module("mlperf_collect", directories=directories, path=str(path)).get("files")
            places = _places(files, directories, Offer(path))
            missing = [file for file in files if not _is_there(places[file["target"]], file)]
            fetched += [file["target"] for file in missing]
            if self.check_mode:
                break
            arrived = [self._fetch(file, places[file["target"]]) for file in missing]
            if all(arrived):
                if files:
                    checksums.add(path, {file["target"]: file["sha256"] for file in files})
                break
        else:
            names = ", ".join(file["target"] for file in missing)
            raise RunFailed(f"{names}: changed on the node during {ATTEMPTS} transfers; see what writes there")
        return [{key: file[key] for key in ("target", "size", "sha256")} for file in files], fetched

    def _fetch(self, file, place):
        """Fetch one file; whether it arrived as it was hashed. What a node sends beyond it is not taken."""
        from harness.collected import Refused
        from harness.errors import RunFailed
        from harness.files import sha256_file

        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.part")
        most_bytes = file["size"] + GROWTH_BYTES
        failure = None
        try:
            try:
                with self.receiving(most_bytes):
                    self._connection.fetch_file(file["source"], str(part))
            except AnsibleFileNotFound:
                return False
            except (AnsibleError, OSError, MemoryError) as error:
                failure = error
            length = part.stat().st_size if part.exists() else 0
            if length > file["size"]:
                os.truncate(part, file["size"])
            if length >= file["size"] and sha256_file(part) == file["sha256"]:
                part.replace(place)
                return True
            if length >= most_bytes or isinstance(failure, MemoryError):
                raise Refused(
                    f"{file['target']}: the node sends more than the {file['size']} bytes that it offers, and was "
                    "stopped; see what writes there"
                ) from None
            if isinstance(failure, OSError):
                raise RunFailed(f"{part} cannot be written: {failure.strerror}; free some space, or correct its owner")
            if failure:
                raise failure
            return False
        finally:
            part.unlink(missing_ok=True)

    def _collect_by_command(self, command, path, directories):
        """Through a cluster's API, which only the command can do."""
        from harness import checksums

        if self.check_mode:
            return [], []
        pairs = [f"{one['source']}={one['target']}" for one in directories]
        argv = [*command, "collect", *pairs, "--into", str(path), "--json"]
        done = subprocess.run(argv, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True)
        answer = self.read_answer(done.returncode, done.stdout, done.stderr)
        sums = checksums.read(path)
        files = [
            {"target": name, "size": (path / name).stat().st_size, "sha256": sums[name]} for name in answer["files"]
        ]
        return files, answer["fetched"]


def _directories(described):
    """Each directory with its target; where only some folders in it are wanted, each of those."""
    for directory in described:
        for name in [""] if directory["only"] is None else directory["only"]:
            source, target = (os.path.join(directory[key], name).rstrip("/") for key in ("source", "target"))
            yield {"source": source, "target": target}


def _places(files, directories, offer):
    """Where each file goes, by its name."""
    from harness.errors import RunFailed

    try:
        places = {file["target"]: offer.path(file["target"], file["size"]) for file in files}
        assert all(isinstance(file["sha256"], str) and _is_wanted(file, directories) for file in files)
        return places
    except (AssertionError, KeyError, TypeError):
        raise RunFailed(f"the node's list of files is damaged: {str(files)[:200]!a}") from None


def _is_wanted(file, directories):
    """Whether the file on the node is that of its name, below one of the directories."""
    return any(
        file["source"] == os.path.join(one["source"], os.path.relpath(file["target"], one["target"] or "."))
        for one in directories
    )


def _is_there(place, file):
    from harness import checksums

    return place.is_file() and place.stat().st_size == file["size"] and checksums.matches(place, file["sha256"])
