# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Base of this project's action plugins, which run in Ansible's own process on the controller.

A plugin is a class with one method, `work`. It uses the package `harness`, which the controller's environment has, and
acts on the node by calling the command there. Its arguments are those that the module of the same name documents; what
is a mere step of this project's playbooks has no module, and documents them itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import sys
from pathlib import Path

import yaml
from ansible import constants as C
from ansible import context
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader, fragment_loader, module_loader
from ansible.utils.plugin_docs import get_docstring
from ansible.utils.vars import load_extra_vars

try:
    from pydantic import ValidationError

    # Here, because Ansible loads this file once and then forks for each task.
    from harness.benchmark import plan, request  # noqa: F401
    from harness.errors import BadInput, HarnessError, NotReady, RunFailed
    from harness.printable import printable
    from harness.spec import explain

    MISSING = ""
except ImportError as error:
    MISSING = (
        f"{error}: the Python that runs Ansible ({sys.executable}) lacks this project's package. Run "
        "`make .venv/controller` in the checkout, then call .venv/bin/ansible-playbook"
    )
    HarnessError = ValidationError = ()

MEMORY_BYTES = 1 << 30
"""Of Ansible, ssh and their libraries."""
NOT_EXECUTABLE = 126
"""A shell's exit code for a file that it may not execute."""
NOT_FOUND = 127
"""A shell's exit code for a command that does not exist."""


class ActionModule(ActionBase):
    """Checks the task's arguments, does its work, and turns the package's errors into the task's failure."""

    _supports_check_mode = True
    options = ""
    """The arguments as YAML, in the form of a module's documentation; empty where there is such a module."""

    def run(self, tmp=None, task_vars=None):
        """The result of `work`; an error keeps its exit code, by which `harness.ci` knows who must act."""
        result = super().run(tmp, task_vars)
        if MISSING:
            return {**result, "failed": True, "msg": MISSING}
        self._variables = task_vars or {}
        name = self._task.action.rpartition(".")[2]
        _, arguments = self.validate_argument_spec(
            _argument_spec(yaml.safe_load(self.options)) if self.options else documented_options(name)
        )
        try:
            # Plain values: Ansible's own carry tags.
            return {**result, **self.work(json.loads(json.dumps(arguments)))}
        except HarnessError as error:
            return {**result, "failed": True, "msg": printable(str(error)), "exit": error.exit_code}
        except ValidationError as error:
            return {**result, "failed": True, "msg": printable(explain(error)), "exit": BadInput.exit_code}

    def work(self, arguments):
        """What the task does; returns its result.

        Raises:
            HarnessError: it cannot be done.
        """
        raise NotImplementedError

    @property
    def check_mode(self):
        """Whether nothing may be changed."""
        return self._task.check_mode

    def call_harness(self, arguments, words, value=None, accepted=(0,)):
        """Run `harness WORDS --root ROOT --json` where the task runs, and return what it printed.

        Args:
            arguments: the task's, of which `command` and `root` are used.
            words: the words after the command.
            value: what the command reads as JSON from its standard input.
            accepted: exit codes whose output is an answer.

        Raises:
            HarnessError: the command refused; its words, and the error that its exit code stands for.
        """
        argv = [*arguments["command"], *words, "--root", arguments["root"], "--json"]
        data = None if value is None else json.dumps(value).encode()
        result = self._low_level_execute_command(shlex.join(argv), in_data=data, chdir="/")
        if result["rc"] in (NOT_EXECUTABLE, NOT_FOUND):
            raise RunFailed(f"{argv[0]} is not on this host: the harness is not installed here; run site.yml first")
        return self.read_answer(result["rc"], result["stdout"], result["stderr"], accepted)

    @staticmethod
    def read_answer(code, stdout, stderr, accepted=(0,)):
        """What a `harness` command printed as JSON; a failure is the error that its exit code stands for."""
        answer = _json_object(stdout)
        if code in accepted and answer is not None:
            return answer
        kind = {error.exit_code: error for error in (BadInput, NotReady)}.get(code, RunFailed)
        reason = (answer or {}).get("error") or _last_line(stderr) or _last_line(stdout)
        raise kind(str(reason or "the command printed nothing"))

    @staticmethod
    def keyed(engine):
        """An engine's settings, with the API key of an environment variable here: for standard input only.

        Raises:
            BadInput: there is no such variable.
        """
        if not engine.get("api_key_env"):
            return engine
        variable = engine["api_key_env"]
        if not os.environ.get(variable):
            raise BadInput(
                f"engine {engine.get('name')}: environment variable {variable} (api_key_env) is not set where "
                "ansible-playbook runs; set it, or name a file with api_key_file"
            )
        return {**engine, "api_key": os.environ[variable]}

    def origin(self):
        """What this ansible-playbook was given; an inventory that is the default need not be typed."""
        from harness.benchmark.origin import Origin, typed

        checkout = Path(__file__).resolve().parents[2]
        given, default = (
            typed(paths, checkout) for paths in (context.CLIARGS.get("inventory") or (), C.DEFAULT_HOST_LIST)
        )
        extra = load_extra_vars(self._loader)
        return Origin(
            inventory=() if given == default else given,
            limit=context.CLIARGS.get("subset") or "",
            results=str(extra.get("harness_results", "")),
        )

    @contextlib.contextmanager
    def unlogged(self):
        """Let the connection print nothing of what is sent and answered, with whatever verbosity."""
        before, self._play_context.no_log = self._play_context.no_log, True
        try:
            yield
        finally:
            self._play_context.no_log = before

    @staticmethod
    @contextlib.contextmanager
    def receiving(most_bytes):
        """Let this process, and those that it starts, write no file longer than that, nor hold much more in memory.

        A node may send without end. The kernel then stops sftp and scp, which would write it all; Ansible's last
        resort, `piped`, holds a file in memory, and copies it there. The transfer fails by an OSError, an AnsibleError
        or a MemoryError.
        """
        limits = {resource.RLIMIT_FSIZE: most_bytes}
        with contextlib.suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + 3 * most_bytes + MEMORY_BYTES
        before = {kind: resource.getrlimit(kind) for kind in limits}
        try:
            for kind, limit in limits.items():
                bounds = (limit, *(bound for bound in before[kind] if bound != resource.RLIM_INFINITY))
                resource.setrlimit(kind, (min(bounds), before[kind][1]))
            yield
        finally:
            for kind, values in before.items():
                resource.setrlimit(kind, values)

    def run_action(self, name, arguments):
        """The result of another action plugin of this project on the same host, a failure included."""
        task = self._task.copy()
        task.action, task.args = name, arguments
        action = action_loader.get(
            name,
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        return action.run(task_vars=self._variables)

    @staticmethod
    def joined_diff(results):
        """The diff of several results of mlperf_engine, by the engines' names."""
        return {
            side: {name: one["diff"][side]["state"] for name, one in results.items()} for side in ("before", "after")
        }

    def became_unreachable(self, when, error):
        """The failure that a lost connection is: recorded like any other, while Ansible would leave the host out."""
        host = self._variables["inventory_hostname"]
        return {"failed": True, "state": "lost", "msg": f"{host} became unreachable {when}: {error}"}

    def run_module(self, name, /, **arguments):
        """The result of a module on the node; a failure ends the task."""
        result = self._execute_module(name, module_args=arguments, task_vars=self._variables)
        if result.get("failed") or result.get("unreachable"):
            raise RunFailed(result.get("msg", f"{name} failed"))
        return result


def documented_options(name):
    """The argument spec of a module, from its documentation."""
    documentation, *_ = get_docstring(module_loader.find_plugin(name), fragment_loader, is_module=True)
    return _argument_spec(documentation["options"])


def _argument_spec(options):
    kept = ("type", "elements", "choices", "default", "required")
    spec = {name: {key: option[key] for key in kept if key in option} for name, option in options.items()}
    for name, option in options.items():
        if "suboptions" in option:
            spec[name]["options"] = _argument_spec(option["suboptions"])
    return spec


def _json_object(text):
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _last_line(text):
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
