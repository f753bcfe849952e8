"""A benchmark as objects of a cluster: valid for the API, within level restricted, and the commands that they start."""

import json
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness import engine, jobs
from harness.cli import cli
from harness.cli.engines import serve
from harness.cli.runs import start
from harness.errors import BadInput
from harness.spec import parse_spec
from tests.unit.role_vars import breaches_of_restricted, pod_specs, validate

IMAGE = "registry.example.org/mlperf-node@sha256:" + "a" * 64
Object = dict[str, Any]


def render(*words: str, nodes: tuple[str, ...] = ("jw2", "jw3")) -> list[Object]:
    """What `harness manifests` prints, parsed."""
    named = [word for node in nodes for word in ("--node", node)]
    done = CliRunner().invoke(cli, ["manifests", *named, "--image", IMAGE, "--run-id", "June.1", *words])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.stdout))


def only(objects: list[Object], kind: str, component: str | None = None) -> list[Object]:
    return [
        item
        for item in objects
        if item["kind"] == kind and component in (None, item["metadata"]["labels"]["app.kubernetes.io/component"])
    ]


def container(job: Object) -> Object:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_objects_are_valid_and_restricted() -> None:
    objects = render()
    validate(objects)
    specs = list(pod_specs(objects))
    assert len(specs) == 3
    for spec in specs:
        assert breaches_of_restricted(spec) == []
        assert spec["automountServiceAccountToken"] is False
        assert spec["restartPolicy"] == "Never"
        assert "nodeName" not in spec
        (one,) = spec["containers"]
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["image"] == IMAGE
        mounted = {mount["name"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        writable = {mount["mountPath"] for mount in one["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/var/lib/mlperf/runs", "/tmp", "/dev/shm"}


def test_a_restarted_run_is_no_result() -> None:
    for job in only(render(), "Job"):
        assert job["spec"]["backoffLimit"] == 0
        assert {rule["action"] for rule in job["spec"]["podFailurePolicy"]["rules"]} == {"FailJob"}
        # Results are fetched first: nothing removes a Job by itself.
        assert "ttlSecondsAfterFinished" not in job["spec"]


def test_each_engine_is_on_its_node_with_its_gpu_and_its_claims() -> None:
    for job, node in zip(only(render(), "Job", "engine"), ("jw2", "jw3"), strict=True):
        spec = job["spec"]["template"]["spec"]
        wanted = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert wanted == {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
        }
        claims = {volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"][:3]}
        assert claims == {f"runs-{node}", f"model-{node}", f"dataset-{node}"}
        assert spec["runtimeClassName"] == "nvidia"
        resources = container(job)["resources"]
        assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == 1
        assert job["metadata"]["labels"]["mlperf/node"] == node
    (run,) = only(render(), "Job", "run")
    assert "runtimeClassName" not in run["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in container(run)["resources"]["limits"]


def test_what_is_asked_is_what_the_commands_read() -> None:
    objects = render("--samples", "600", "--scenario", "offline")
    (owner,) = only(objects, "ConfigMap")
    services = {item["metadata"]["name"]: item for item in only(objects, "Service")}
    for job in only(objects, "Job"):
        spec, one = job["spec"]["template"]["spec"], container(job)
        assert {"name": "asked", "configMap": {"name": owner["metadata"]["name"]}} in spec["volumes"]
        command, *words = one["args"] if one["args"][0] == "start" else one["args"][1:]
        # The words are those that the command takes today.
        parsed = {"start": start, "serve": serve}[command].make_context(command, list(words)).params
        file = str(parsed.get("source") or parsed["config"]).removeprefix("/etc/mlperf/")
        values = json.loads(owner["data"][file])
        if command == "serve":
            config = engine.parse_config(values)
            assert config.port == one["ports"][0]["containerPort"]
            assert str(config.model) == "/var/lib/mlperf/model"
        else:
            asked = parse_spec(values)
            assert (asked.run_id, asked.samples, asked.scenario) == ("June.1", 600, "offline")
            assert asked.metrics_port == one["ports"][0]["containerPort"]
            # Each engine's address is that of a Service whose pods are those of its Job.
            for reference in asked.engines:
                host = reference.url.removeprefix("http://").split(":")[0]
                service = services[host.removesuffix(".mlperf.svc")]
                (engine_job,) = [
                    item
                    for item in only(objects, "Job", "engine")
                    if item["metadata"]["name"] == service["metadata"]["name"]
                ]
                labels = engine_job["spec"]["template"]["metadata"]["labels"]
                assert service["spec"]["selector"].items() <= labels.items()
                assert labels["mlperf/node"] == reference.node
                assert reference.url.endswith(f":{service['spec']['ports'][0]['port']}")


def test_one_owner_takes_all_with_it() -> None:
    cluster = jobs.parse_cluster({"image": IMAGE})
    config = engine.parse_config({"name": "jw2", "model": "/m", "port": 8000})
    owner = jobs.asked(cluster, "a", {"jw2": config}, {})
    owner["metadata"]["uid"] = "0-1"
    objects = [*jobs.engine_objects(cluster, "a", "jw2", "jw2", owner), jobs.run_job(cluster, "a", "jw2", owner)]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": "0-1"}
    assert [item["metadata"]["ownerReferences"] for item in objects] == [[reference]] * 3
    validate(objects)


@pytest.mark.parametrize("parts", [("run", "20261124-065433-server-600"), ("run", "A" * 88), ("run", "a.b_c", "jw2")])
def test_names_are_labels_of_dns_and_differ(parts: tuple[str, ...]) -> None:
    import re

    found = jobs.slug(*parts)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", found)
    assert found != jobs.slug(*parts[:-1], parts[-1].swapcase())


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(BadInput, match=r"cluster: memory = '32 GB'"):
        jobs.parse_cluster({"image": IMAGE, "memory": "32 GB"})
    done = CliRunner().invoke(cli, ["manifests", "--node", "a", "--node", "a", "--image", IMAGE])
    assert isinstance(done.exception, BadInput)
    assert "name each node once" in str(done.exception)
