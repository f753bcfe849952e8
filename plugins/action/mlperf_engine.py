# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Creates or stops an engine. See plugins/modules/mlperf_engine.py for what users need."""

from __future__ import annotations

import shlex

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Calls `harness engine`; in check mode it looks at the engine's state file first, which needs no harness."""

    def work(self, arguments):
        """The engine as it is afterwards; in check mode as it is now."""
        on_cluster = arguments["launcher"] != "process"
        if self.check_mode:
            changed, engine = (self._check_cluster if on_cluster else self._check_node)(arguments)
            before = engine.get("state", "absent")
        else:
            engine = self._act(arguments)
            changed = bool(engine.pop("changed"))
            before = {"up": "down", "down": "up"}[arguments["state"]] if changed else engine["state"]
        return {
            "changed": changed,
            "state": engine.get("state", "absent"),
            "engine": engine,
            "file": f"{arguments['root']}/engines/{arguments['name']}/engine.json",
            "diff": {"before": {"state": before}, "after": {"state": arguments["state"] if changed else before}},
        }

    def _act(self, arguments):
        if arguments["state"] == "down":
            return self.call_harness(arguments, ["engine", "down", arguments["name"]])
        return self.call_harness(arguments, ["engine", "up", "--no-wait"], self._config(arguments))

    def _check_cluster(self, arguments):
        if arguments["state"] == "down":
            changed = self.call_harness(arguments, ["engine", "down", arguments["name"], "--check"])["changed"]
        else:
            changed = self.call_harness(arguments, ["engine", "up", "--check"], self._config(arguments))["would_change"]
        there = bool(changed) is (arguments["state"] == "down")
        return bool(changed), {"state": "ready"} if there else {}

    def _check_node(self, arguments):
        from harness.engine.config import parse_config, reject_different_settings
        from harness.state_file import ENGINE_RUNNING

        engines = self.run_module("mlperf_engine_info", root=arguments["root"])["engines"]
        engine = next((engine for engine in engines if engine["name"] == arguments["name"]), {})
        running = engine.get("state") in ENGINE_RUNNING
        if arguments["state"] == "down":
            return running, engine
        config = parse_config(self._config(arguments))
        if running:
            reject_different_settings(config, engine["state"], engine.get("config") or {})
            return False, engine
        changed = True
        if config.kind != "endpoint" and self._is_prepared(arguments["command"][0], config.model):
            changed = self.call_harness(arguments, ["engine", "up", "--check"], self._config(arguments))["would_change"]
        return bool(changed), engine

    def _is_prepared(self, program, model):
        """Whether harness and model are on the node, so that the command can judge a server that is to be started."""
        test = f"test -x {shlex.quote(program)} && test -d {shlex.quote(str(model))}"
        return self._low_level_execute_command(test)["rc"] == 0

    def _config(self, arguments):
        return self.keyed({**arguments["config"], "name": arguments["name"]})
