# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Base of this project's action plugins, which run in Ansible's own process on the controller.

A plugin is a class with one method, `work`. Its arguments are those that the module of the same name documents. It
uses the package `harness`, which the controller's environment has, and acts on the node by calling the command there.
"""

from __future__ import annotations

import json
import shlex
import sys

from ansible.parsing.plugin_docs import read_docstring
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import module_loader

try:
    from pydantic import ValidationError

    # Here, because Ansible loads this file once and then forks for each task.
    from harness.benchmark import plan, request  # noqa: F401
    from harness.errors import BadInput, HarnessError, NotReady, RunFailed
    from harness.spec import explain

    MISSING = ""
except ImportError as error:
    MISSING = (
        f"{error}: the Python that runs Ansible ({sys.executable}) lacks this project's package. Run "
        "`make .venv/controller` in the checkout, then call .venv/bin/ansible-playbook"
    )
    HarnessError = ValidationError = ()

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""A shell's exit codes for a command that cannot be run."""


class ActionModule(ActionBase):
    """Checks the task's arguments, does its work, and turns the package's errors into the task's failure."""

    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """The result of `work`; an error keeps its exit code, by which `harness.ci` knows who must act."""
        result = super().run(tmp, task_vars)
        if MISSING:
            return {**result, "failed": True, "msg": MISSING}
        self._variables = task_vars or {}
        _, arguments = self.validate_argument_spec(documented_options(self._task.action.rpartition(".")[2]))
        try:
            # Plain values: Ansible's own carry tags.
            return {**result, **self.work(json.loads(json.dumps(arguments)))}
        except HarnessError as error:
            return {**result, "failed": True, "msg": str(error), "exit": error.exit_code}
        except ValidationError as error:
            return {**result, "failed": True, "msg": explain(error), "exit": BadInput.exit_code}

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

    def call_harness(self, arguments, words, given=None, accepted=(0,)):
        """Run `harness WORDS --root ROOT --json` where the task runs, and return what it printed.

        Args:
            arguments: the task's, of which `command` and `root` are used.
            words: the words after the command.
            given: a value that the command reads as JSON from its standard input.
            accepted: exit codes whose output is an answer.

        Raises:
            HarnessError: the command refused; its words, and the error that its exit code stands for.
        """
        argv = [*arguments["command"], *words, "--root", arguments["root"], "--json"]
        data = None if given is None else json.dumps(given).encode()
        done = self._low_level_execute_command(shlex.join(argv), in_data=data, chdir="/")
        if done["rc"] in (NOT_EXECUTABLE, NOT_FOUND):
            raise RunFailed(f"{argv[0]} is not on this host: the harness is not installed here; run site.yml first")
        return self.read_answer(done["rc"], done["stdout"], done["stderr"], accepted)

    @staticmethod
    def read_answer(code, stdout, stderr, accepted=(0,)):
        """What a `harness` command printed as JSON; a failure is the error that its exit code stands for."""
        answer = _json_object(stdout)
        if code in accepted and answer is not None:
            return answer
        kind = {error.exit_code: error for error in (BadInput, NotReady)}.get(code, RunFailed)
        reason = (answer or {}).get("error") or _last_line(stderr) or _last_line(stdout)
        raise kind(str(reason or "the command printed nothing"))

    def run_module(self, name, **arguments):
        """The result of a module on the node; a failure ends the task."""
        result = self._execute_module(name, module_args=arguments, task_vars=self._variables)
        if result.get("failed") or result.get("unreachable"):
            raise RunFailed(result.get("msg", f"{name} failed"))
        return result


def documented_options(name):
    """The argument spec of a module, from its documentation."""
    return _argument_spec(read_docstring(module_loader.find_plugin(name))["doc"]["options"])


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
