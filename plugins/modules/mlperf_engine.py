#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Brings an engine up or takes it down."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_engine
short_description: Bring an inference engine up or take it down
description:
  - Starts a server that makes tokens (O(config.kind=vllm) or O(config.kind=deepspeed)), attaches to a running one
    (O(config.kind=endpoint)), or stops it with all its children.
  - Starting returns at once. Watch the engine with M(mlperf_watch), look at it with M(mlperf_engine_info).
  - An engine that runs under the same name with another configuration is refused, both values named.
options:
  command:
    description: The C(harness) command as a list of words.
    type: list
    elements: str
    required: true
  root:
    description: Folder of this node's engines and runs.
    type: path
    required: true
  launcher:
    description:
      - What starts engines and runs. With another one than V(process) O(command) is C(harness cluster), which works on
        a cluster from wherever it is called, and O(root) is the folder that pods have their claims in.
    type: str
    choices: [process, kubernetes, torchx]
    default: process
  name:
    description: Name of the engine.
    type: str
    required: true
  state:
    description: Whether it shall run.
    type: str
    choices: [up, down]
    default: up
  config:
    description: The engine's settings, without its name; needed with O(state=up).
    type: dict
    default: {}
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description:
      - Starts and stops nothing, and says whether it would. Settings, model, port and disk are judged as a start would.
  diff_mode:
    support: full
    description: Shows state and settings before and after.
"""

EXAMPLES = r"""
- name: Start an engine on the second core
  mlperf_engine:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    name: node2
    config:
      model: /srv/mlperf/model
      port: 8102
      cpu_cores: "1"

- name: Stop it
  mlperf_engine:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    name: node2
    state: down
"""

RETURN = r"""
engine:
  description: The content of engine.json; in check mode as it is now, empty if there never was such an engine.
  returned: success
  type: dict
  sample: {name: node2, state: starting, url: "http://127.0.0.1:8102"}
state:
  description: State of the engine, V(absent) when there never was one.
  returned: success
  type: str
  sample: starting
reference:
  description:
    - How runs refer to it beyond its name, how many requests they may keep at it (C(max_in_flight)), and on a cluster
      its address (C(url)). Empty until it was started once.
  returned: success
  type: dict
  sample: {max_in_flight: 72}
file:
  description: Path of engine.json.
  returned: success
  type: str
"""

import hashlib
import os
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_command import COMMAND, call, on_cluster, tell
from ansible.module_utils.mlperf_state import Record, engine_file, look

BAD_INPUT = 2
UP = ("starting", "ready")
ARGUMENTS: Dict[str, Dict[str, Any]] = {
    **COMMAND,
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["up", "down"], "default": "up"},
    "config": {"type": "dict", "default": {}},
}


def differing(config: Dict[str, Any], current: Record) -> Dict[str, Any]:
    """The settings asked for that the running engine was not given."""
    given = current.get("config") or {}
    asked = public(config)
    return {key: given.get(key) for key, value in asked.items() if given.get(key) != value}


def public(config: Dict[str, Any]) -> Dict[str, Any]:
    """The settings as engine.json has them: of the values of env, which may be secrets, only hashes."""
    if not isinstance(config.get("env"), dict):
        return config
    hashed = {
        key: f"sha256:{hashlib.sha256(str(value).encode()).hexdigest()[:12]}" for key, value in config["env"].items()
    }
    return {**config, "env": hashed}


def checkable(params: Dict[str, Any]) -> bool:
    """Whether the host is prepared so far that the command can judge a server that shall be started."""
    config = params["config"]
    return (
        params["state"] == "up"
        and config.get("kind", "vllm") != "endpoint"
        and os.access(params["command"][0], os.X_OK)
        and os.path.isdir(str(config.get("model")))
    )


def change(params: Dict[str, Any], current: Record) -> bool:
    """Whether anything must be done; ValueError when it cannot be."""
    running = current.get("state") in UP
    if params["state"] == "down":
        return running
    other = differing(params["config"], current) if running else {}
    asked = public(params["config"])
    if other:
        values = "; ".join(f"{key}: it has {old!r}, you ask {asked[key]!r}" for key, old in other.items())
        raise ValueError(f"engine {params['name']} runs with other settings ({values}); take it down first")
    return not running


def act(module: Any) -> Dict[str, Any]:
    """Bring the engine up or take it down; the result of the module. `module` is what `call` takes."""
    params = module.params
    if module.check_mode:
        return check_on_cluster(module)
    if params["state"] == "up":
        engine = call(module, ["engine", "up", "--no-wait"], {**params["config"], "name": params["name"]})
        before = "down"
    else:
        engine, before = call(module, ["engine", "down", params["name"]]), "up"
    changed = bool(engine.pop("changed"))
    return told(params, changed, before if changed else engine["state"], engine)


def check_on_cluster(module: Any) -> Dict[str, Any]:
    """Say what would be done, by what the cluster's API says."""
    params = module.params
    if params["state"] == "up":
        config = {**params["config"], "name": params["name"]}
        changed = bool(call(module, ["engine", "up", "--check"], config)["would_change"])
        return told(params, changed, "absent" if changed else "ready", {})
    changed = bool(call(module, ["engine", "down", params["name"], "--check"])["changed"])
    return told(params, changed, "ready" if changed else "absent", {})


def check(module: Any) -> Dict[str, Any]:
    """Say what would be done."""
    params = module.params
    try:
        engine = look(engine_file(params["root"], params["name"])) or {}
        changed = change(params, engine)
    except (OSError, ValueError) as error:
        return {"failed": True, "msg": str(error), "exit": BAD_INPUT}
    if changed and checkable(params):
        config = {**params["config"], "name": params["name"]}
        changed = bool(call(module, ["engine", "up", "--check"], config)["would_change"])
    return told(params, changed, engine.get("state", "absent"), engine)


def told(params: Dict[str, Any], changed: bool, before: str, engine: Record) -> Dict[str, Any]:
    """The module's result: the engine now, and in its diff the state before with what was asked for."""
    known = ("max_in_flight",) if params["launcher"] == "process" else ("max_in_flight", "url")
    return {
        "changed": changed,
        "state": engine.get("state", "absent"),
        "engine": engine,
        "reference": {key: engine[key] for key in known if key in engine},
        "file": engine_file(params["root"], params["name"]),
        "diff": {"before": {"state": before}, "after": {"state": params["state"] if changed else before}},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    tell(module, check(module) if module.check_mode and not on_cluster(module) else act(module))


if __name__ == "__main__":
    main()
