# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Shows a node's progress until it has ended. See plugins/modules/mlperf_watch.py for what users need."""

from __future__ import annotations

import functools
import os
import subprocess
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
        from harness.printable import printable

        host = self._variables["inventory_hostname"]
        width = max(map(len, self._variables.get("ansible_play_hosts_all", [host])))
        notice = arguments.pop("notice")
        if notice:
            display.display(notice)
        node = watch.Node(
            host,
            self._execute,
            self._reset,
            lambda line: display.display(printable(f"{host:<{width}}  {line}")),
            functools.partial(self._decide, arguments),
            functools.partial(self._stop, arguments),
            functools.partial(self._endpoint, arguments),
            functools.partial(self._ask, arguments),
        )
        options = watch.Options(
            kind=arguments["kind"],
            interval_s=arguments["interval_s"],
            lost_after_s=arguments["lost_after_s"],
            silent_after_s=arguments["silent_after_s"],
            progress=Path(arguments["progress"]) if arguments["progress"] else None,
            together=arguments["together"],
            hosts=arguments["hosts"],
            **_places(arguments, host),
        )
        record = printable(watch.Watch(node, options).run())
        good = record["state"] in watch.GOOD or record.get("noted", False)
        reason = "" if good else record.get("reason") or f"it ended as {record['state']}"
        result = {"changed": False, "host": host, "good": good, "state": record["state"], "msg": reason}
        if options.kind == "job":  # all of its record would be printed where it fails
            return result
        status = {} if record["state"] in ("lost", "absent") else record
        return {**result, "reason": reason, "log": record.get("log") or "", "status": status}

    def _decide(self, arguments, number, repeat):
        """Tell the run whether to repeat its attempt; where that fails it decides alone after a while."""
        words = ["decide", arguments["run_id"], str(number), "--repeat" if repeat else "--accept"]
        if problem := self._tell(arguments, words):
            display.display(f"attempt {number}: {problem}")

    def _stop(self, arguments):
        """Stop the run and wait for its end; why it did not end, empty if it did."""
        return self._tell(arguments, ["stop", arguments["run_id"]])

    def _tell(self, arguments, words):
        """Call the harness on the node, or through the cluster's API; why it refused, empty if it did not."""
        from harness.errors import HarnessError
        from harness.printable import printable

        try:
            if arguments["launcher"] == "process":
                self.call_harness(arguments, words)
            else:
                command = [*arguments["command"], *words, "--json"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                self.read_answer(done.returncode, done.stdout, done.stderr)
        except (HarnessError, AnsibleError) as error:
            return printable(str(error))
        return ""

    def _endpoint(self, arguments, name):
        """Why the server of an endpoint has failed, empty if it has not; a cluster's engines are no endpoints."""
        from harness.errors import HarnessError
        from harness.printable import printable

        if arguments["launcher"] != "process" or not arguments["command"]:
            return ""
        try:
            engine = self.call_harness(arguments, ["engine", "status", name])
        except (HarnessError, AnsibleError) as error:
            display.display(printable(f"endpoint {name} cannot be looked at: {error}"))
            return ""
        return engine["reason"] if engine["state"] == "failed" else ""

    def _ask(self, arguments, name):
        """What another host says of its engine, in a line; why it says nothing."""
        from harness.benchmark import looks, progress

        if name not in arguments["engine_files"]:
            return ""
        host, file = (arguments["engine_files"][name][key] for key in ("host", "file"))
        try:
            if arguments["launcher"] != "process":
                node = self._variables["hostvars"][host].get("harness_node", host)
                [record] = looks.one_look([*arguments["command"], "watch", "engine", f"{name}@{node}"])
                return f"{host}: {progress.line('engine', record, record['started_unix'])}"
            code, out, error = self._connection_to(host).exec_command(looks.shell_command([file], 0.0), sudoable=False)
            if code:
                return f"{host} cannot be asked about engine {name}: {error.decode(errors='replace').strip()[-200:]}"
            now, (record,) = looks.read(out.decode(errors="replace"), [file], "engine")
        except (AnsibleError, ValueError, OSError) as error:
            return f"{host} cannot be asked about engine {name}: {error}"
        return f"{host}: {progress.line('engine', record, now) if record else f'engine {name} has no state file'}"

    def _connection_to(self, host):
        """A connection to another host of the inventory, as its variables have it."""
        variables = self._variables["hostvars"][host]
        connection = self._shared_loader_obj.connection_loader.get(
            variables.get("ansible_connection", "ssh"), self._play_context, ansible_playbook_pid=str(os.getppid())
        )
        keys = {"timeout": self._play_context.timeout, "password": self._play_context.password}
        options = connection._resolve_option_variables(variables, self._templar)
        connection.set_options(task_keys=keys, var_options=options)
        return connection

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
