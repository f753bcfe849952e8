# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""A host's engines and run, as the harness takes them. See plugins/modules/mlperf_settings.py for what users need."""

from __future__ import annotations

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Works out the settings; looks at nothing and changes nothing."""

    def work(self, arguments):
        """Settings of the engines, how runs refer to them, and the run that the host may drive."""
        from harness.benchmark import engines
        from harness.benchmark.public_settings import Launcher
        from harness.benchmark.request import Request
        from harness.cluster.settings import parse_cluster
        from harness.files import sha256_json

        request = Request.of(arguments["request"])
        described, common = arguments["engines"], arguments["engine_settings"]
        model, host = arguments["model"], self._variables["inventory_hostname"]
        if request.asked.launcher is Launcher.PROCESS:
            cluster = None
            configs = engines.on_host(described, common, model=model, bind=arguments["bind"])
            references = [engines.reference(config, node=host, address=arguments["address"]) for config in configs]
        else:
            cluster = parse_cluster(arguments["cluster"])
            configs = engines.on_cluster(described, common, model=model, gpus=arguments["gpus"])
            references = [
                engines.reference_on_cluster(config, node=host, cluster=cluster, run_id=request.run_id)
                for config in configs
            ]
        return {
            "changed": False,
            # Values of an engine's environment may be secrets: -v does not print them.
            "_ansible_verbose_override": True,
            "engines": configs,
            "references": [reference.model_dump(mode="json") for reference in references],
            "speed_depends_on": sha256_json([configs, arguments["dataset"]]),
            "spec": request.spec(
                node=host,
                model=model,
                dataset=arguments["dataset"],
                reference_ids=arguments["reference_ids"] or None,
                # The node image brings its own.
                punkt=None if cluster else arguments["punkt"] or None,
                limits=arguments["limits"],
                seed=arguments["seed"],
                metrics_port=arguments["metrics_port"] or (cluster.metrics_port if cluster else None),
            ),
        }
