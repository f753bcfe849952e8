# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Shows live how far a node is, until it is done. See plugins/modules/mlperf_watch.py for what users need."""

from __future__ import annotations

import functools
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.loader import action_loader
from ansible.utils.display import Display

display = Display()


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Watches over the task's connection; the end of what is watched, whatever it was, is data."""

    def work(self, arguments):
        """The last state, and why it is not a good one."""
        if self.check_mode:
            return {"changed": False, "skipped": True, "msg": "nothing was started that could be watched"}
        from harness.benchmark import watch

        host = self._variables["inventory_hostname"]
        width = max(map(len, self._variables.get("ansible_play_hosts_all", [host])))
        notice = arguments.pop("notice")
        if notice:
            display.display(notice)
        node = watch.Node(
            host,
            self._execute,
            self._reset,
            lambda line: display.display(f"{host:<{width}}  {line}"),
            functools.partial(self._decide, arguments),
        )
        options = watch.Options(
            kind=arguments["kind"],
            interval_s=arguments["interval_s"],
            lost_after_s=arguments["lost_after_s"],
            progress=Path(arguments["progress"]) if arguments["progress"] else None,
            until=arguments["until"],
            together=arguments["together"],
            **_places(arguments, host),
        )
        record = watch.Watch(node, options).run()
        good = record["state"] in watch.GOOD
        reason = "" if good else record.get("reason") or f"it ended as {record['state']}"
        return {
            "changed": False,
            "good": good,
            "state": record["state"],
            "reason": reason,
            "msg": reason,
            "log": record.get("log") or "",
            "status": {} if record["state"] in ("lost", "absent") else record,
        }

    def _decide(self, arguments, number, repeat):
        """Tell the run on the node; where that fails it decides alone after a while."""
        from harness.errors import HarnessError

        words = ["decide", arguments["run_id"], str(number), "--repeat" if repeat else "--accept"]
        try:
            self.call_harness(arguments, words)
        except HarnessError as error:
            display.display(f"attempt {number}: {error}")

    def _execute(self, command):
        """Output of a command on the node."""
        try:
            answer = self._low_level_execute_command(command)
        except AnsibleError as error:
            raise ConnectionError(str(error)) from error
        if answer["rc"] == 0:
            return answer["stdout"]
        cause = (answer["stderr"] or answer["stdout"]).strip()[-200:]
        raise ConnectionError(cause or f"exit status {answer['rc']}")

    def _reset(self):
        try:
            self._connection.reset()
        except Exception as error:  # a broken connection may break in any way; the next look tells
            display.vv(f"resetting the connection: {error}")


def _places(arguments, host):
    """Where to look: state files on the node, or a command of the controller that looks at a cluster."""
    from harness.state_file import engine_file, run_file

    kind, root, run_id, engines = (arguments[name] for name in ("kind", "root", "run_id", "engines"))
    if kind == "job":
        return {"files": arguments["files"]}
    if arguments["launcher"] == "process":
        return {
            "files": [engine_file(root, name) for name in engines] if kind == "engine" else [run_file(root, run_id)]
        }
    interval = ["watch", "--interval", str(arguments["interval_s"])]
    if kind == "engine":
        return {"command": [*arguments["command"], *interval, "engine", *engines]}
    return {"command": [*arguments["command"], "--run-id", run_id, *interval, "run", host]}
