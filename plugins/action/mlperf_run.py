# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Starts, stops or releases a run. See plugins/modules/mlperf_run.py for what users need."""

from __future__ import annotations

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Calls `harness start`, `stop` or `release`; a run that does not run is not stopped, which needs no harness."""

    def work(self, arguments):
        """The run's state afterwards, and that before with what was asked for as diff."""
        on_cluster = arguments["launcher"] != "process"
        if arguments["state"] == "released":
            changed, state, before = self._release(arguments, on_cluster)
        elif arguments["state"] == "stopped":
            changed, state, before = self._stop(arguments, on_cluster)
        else:
            keys = {"keys": arguments["api_keys"]} if arguments["api_keys"] else {}
            spec = {**arguments["spec"], "run_id": arguments["run_id"], **keys}
            words = ["start", "--spec", "-", *(["--check"] if self.check_mode else [])]
            # On a cluster the command itself looks: the Job of a failed run may be gone.
            if arguments["resume"] and (on_cluster or self._look(arguments) in ("failed", "stopped")):
                words.append("--resume")
            answer = self.call_harness(arguments, words, spec)
            if answer.get("diff"):
                return _refusal(arguments["run_id"], answer["diff"])
            changed = answer["would_change"] if self.check_mode else answer["changed"]
            state = answer.get("state") or self._look(arguments)
            before = "absent" if changed and not self.check_mode and "--resume" not in words else state
        return {
            "changed": bool(changed),
            "state": state,
            "file": f"{arguments['root']}/runs/{arguments['run_id']}/status.json",
            "diff": {"before": {"state": before}, "after": {"state": arguments["state"] if changed else before}},
        }

    def _stop(self, arguments, on_cluster):
        if on_cluster:
            words = ["stop", arguments["run_id"], *(["--check"] if self.check_mode else [])]
            answer = self.call_harness(arguments, words)
            return answer["changed"], answer["state"], "running" if answer["changed"] else answer["state"]
        from harness.state_file import RUNNING

        before = self._look(arguments)
        if before not in RUNNING or self.check_mode:
            return before in RUNNING, before, before
        answer = self.call_harness(arguments, ["stop", arguments["run_id"]])
        return answer["changed"], answer["state"], before

    def _release(self, arguments, on_cluster):
        words = ["release", *(["--check"] if self.check_mode else [])]
        changed = on_cluster and self.call_harness(arguments, words)["changed"]
        return changed, "released", "ended" if changed else "released"

    def _look(self, arguments):
        return self.run_module("mlperf_run_info", root=arguments["root"], run_id=arguments["run_id"])["state"]


def _refusal(run_id, diff):
    from harness.errors import BadInput
    from harness.files import describe_differences

    values = describe_differences(diff)
    before, after = ({key: pair[side] for key, pair in diff.items()} for side in (0, 1))
    return {
        "failed": True,
        "msg": f"run_id {run_id} exists with another spec ({values}); choose another run_id",
        "exit": BadInput.exit_code,
        "diff": {"before": before, "after": after},
    }
