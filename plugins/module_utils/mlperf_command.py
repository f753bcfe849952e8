# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of the `harness` command from modules: one JSON object in, one JSON object out."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Tuple

COMMAND: Dict[str, Dict[str, Any]] = {
    "command": {"type": "list", "elements": "str", "required": True},
    "root": {"type": "path", "required": True},
    "launcher": {"type": "str", "choices": ["process", "kubernetes", "torchx"], "default": "process"},
}
"""What every module that calls the harness takes."""
NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""A shell's exit codes for a command that cannot be run."""


def call(module: Any, arguments: List[str], given: Any = None, accepted: Tuple[int, ...] = (0,)) -> Dict[str, Any]:
    """Run `harness ARGUMENTS --root ROOT --json` and return what it printed; a refusal ends the module with its words.

    Args:
        module: the AnsibleModule, or what stands for it in an action plugin.
        arguments: the words after the command.
        given: a value that the command reads as JSON from its standard input.
        accepted: exit codes whose output is an answer.
    """
    command = module.params["command"]
    argv = [*command, *arguments, "--root", module.params["root"], "--json"]
    data = None if given is None else json.dumps(given)
    try:
        code, out, err = module.run_command(argv, data=data, cwd="/", handle_exceptions=False)
    except OSError:
        code = NOT_FOUND
    if code in (NOT_EXECUTABLE, NOT_FOUND):
        module.fail_json(msg=f"{command[0]} is not on this host: the harness is not installed here; run site.yml first")
    answer = _answer(out)
    if code in accepted and answer is not None:
        return answer
    reason = (answer or {}).get("error") or _last_line(err) or _last_line(out) or "it printed nothing"
    module.fail_json(msg=str(reason), exit=code, cmd=argv)
    raise AssertionError("fail_json returned")


def on_cluster(module: Any) -> bool:
    """Whether the command works on a cluster, so that this machine's files tell nothing."""
    return bool(module.params["launcher"] != "process")


def tell(module: Any, result: Dict[str, Any]) -> None:
    """End a module with its result, which may be a failure."""
    if result.get("failed"):
        module.fail_json(**{key: value for key, value in result.items() if key != "failed"})
    module.exit_json(**result)


def _answer(out: str) -> Optional[Dict[str, Any]]:
    try:
        answer = json.loads(out)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
