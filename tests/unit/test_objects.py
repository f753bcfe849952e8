"""A benchmark as objects of a cluster: valid for the API, within level restricted, and the commands that they start."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness import engine
from harness.cli import cli
from harness.cli.engines import serve
from harness.cli.runs import run, start
from harness.cluster import objects as made
from harness.cluster.settings import parse_cluster, slug
from harness.errors import BadInput
from harness.spec import parse_spec
from tests.cluster.security import breaches
from tests.unit.role_vars import pod_specs, validate

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
        assert breaches(spec, "restricted") == ""
        assert spec["automountServiceAccountToken"] is False
        assert spec["restartPolicy"] == "Never"
        assert "nodeName" not in spec
        (one,) = spec["containers"]
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["image"] == IMAGE
        mounted = {mount["name"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        writable = {mount["mountPath"] for mount in one["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/var/lib/mlperf/runs", "/var/cache/mlperf", "/tmp", "/dev/shm"}


def test_a_job_never_restarts_its_run() -> None:
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
        claims = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in spec["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert claims == {f"runs-{node}", f"model-{node}", f"dataset-{node}"}
        assert spec["runtimeClassName"] == "nvidia"
        resources = container(job)["resources"]
        assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == 1
        assert job["metadata"]["labels"]["mlperf/node"] == node
    (run,) = only(render(), "Job", "run")
    assert "runtimeClassName" not in run["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in container(run)["resources"]["limits"]


def test_each_job_reads_its_settings_from_its_config_map() -> None:
    objects = render("--samples", "600", "--scenario", "offline")
    maps = {item["metadata"]["name"]: item for item in only(objects, "ConfigMap")}
    services = {item["metadata"]["name"]: item for item in only(objects, "Service")}
    for job in only(objects, "Job"):
        spec, one = job["spec"]["template"]["spec"], container(job)
        assert {"name": "settings", "configMap": {"name": job["metadata"]["name"]}} in spec["volumes"]
        assert maps[job["metadata"]["name"]]["immutable"] is True
        command, *words = one["args"] if one["args"][0] == "start" else one["args"][1:]
        # The words are those that the command takes today.
        parsed = {"start": start, "serve": serve}[command].make_context(command, list(words)).params
        file = str(parsed.get("source") or parsed["config"]).removeprefix("/etc/mlperf/")
        values = json.loads(maps[job["metadata"]["name"]]["data"][file])
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


def test_a_single_engine_is_one_job() -> None:
    objects = render("--samples", "600", nodes=("jw2",))
    validate(objects)
    (job,) = only(objects, "Job")
    (spec,) = pod_specs([job])
    assert breaches(spec, "restricted") == ""
    assert spec["runtimeClassName"] == "nvidia"
    command, *words = container(job)["args"]
    assert command == "run"
    parsed = run.make_context(command, list(words)).params
    (asked,) = [item["data"]["engine.json"] for item in only(objects, "ConfigMap") if "data" in item]
    assert engine.parse_config(json.loads(asked)).name == "jw2"
    assert parsed["engine_config"] == "/etc/mlperf/engine.json"
    assert (parsed["run_id"], parsed["samples"], parsed["target_qps"]) == ("June.1", 600, "auto")
    assert str(parsed["root"]).startswith("/var/lib/mlperf/runs/")


def test_every_gpu_of_a_node_has_an_engine_or_a_rank(tmp_path: Path) -> None:
    several = only(render("--engines-per-node", "2"), "Job", "engine")
    assert [job["metadata"]["labels"]["mlperf/node"] for job in several] == ["jw2", "jw2", "jw3", "jw3"]
    settings = tmp_path / "engine.json"
    settings.write_text(json.dumps({"tensor_parallel": 2}))
    for job in only(render("--engine", str(settings)), "Job", "engine"):
        assert container(job)["resources"]["limits"]["nvidia.com/gpu"] == 2


def test_all_objects_have_one_owner() -> None:
    cluster = parse_cluster({"image": IMAGE})
    config = engine.parse_config({"name": "jw2", "model": "/m", "port": 8000})
    spec = parse_spec(
        {"run_id": "a", "model": "/m", "dataset": "/d", "samples": 1, "engines": [{"name": "x", "url": "http://x"}]}
    )
    owner = made.owner(cluster, "a")
    owner["metadata"]["uid"] = "0-1"
    objects = [
        *made.engine_objects(cluster, "a", "jw2", config, owner),
        *made.run_objects(cluster, spec, "jw2", owner),
        made.collector(cluster, "a", "jw2", owner, lifetime_s=60),
    ]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": "0-1"}
    assert [item["metadata"]["ownerReferences"] for item in objects] == [[reference]] * 6
    validate(objects)
    assert all(breaches(one, "restricted") == "" for one in pod_specs(objects))


def test_a_shared_claim_is_one_volume(tmp_path: Path) -> None:
    settings = tmp_path / "cluster.json"
    settings.write_text(json.dumps(dict.fromkeys(("runs_claim", "model_claim", "dataset_claim"), "all-{node}")))
    for spec in pod_specs(render("--cluster", str(settings))):
        claims = [one["persistentVolumeClaim"] for one in spec["volumes"] if "persistentVolumeClaim" in one]
        assert [claim["claimName"][:4] for claim in claims] == ["all-"]
        mounts = {one["mountPath"]: one for one in spec["containers"][0]["volumeMounts"]}
        assert {mounts[f"/var/lib/mlperf/{place}"]["name"] for place in ("runs", "model", "dataset")} == {"runs"}
        assert mounts["/var/lib/mlperf/model"]["readOnly"] is True
        assert "readOnly" not in mounts["/var/lib/mlperf/runs"]


def test_pods_have_annotations_for_metrics(tmp_path: Path) -> None:
    settings = tmp_path / "cluster.json"
    settings.write_text(
        json.dumps({"pod_annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "{port}"}})
    )
    ports = {
        job["metadata"]["labels"]["app.kubernetes.io/component"]: job["spec"]["template"]["metadata"]["annotations"]
        for job in only(render("--cluster", str(settings)), "Job")
    }
    assert ports["engine"]["prometheus.io/port"] == "8000"
    assert ports["run"]["prometheus.io/port"] == "9101"


@pytest.mark.parametrize("parts", [("run", "20261124-065433-server-600"), ("run", "A" * 88), ("run", "a.b_c", "jw2")])
def test_names_are_unique_dns_labels(parts: tuple[str, ...]) -> None:
    import re

    found = slug(*parts)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", found)
    assert found != slug(*parts[:-1], parts[-1].swapcase())


def test_a_wrong_setting_is_reported() -> None:
    with pytest.raises(BadInput, match=r"cluster: memory = '32 GB'"):
        parse_cluster({"image": IMAGE, "memory": "32 GB"})
    done = CliRunner().invoke(cli, ["manifests", "--node", "a", "--node", "a", "--image", IMAGE])
    assert isinstance(done.exception, BadInput)
    assert "name each node once" in str(done.exception)
