"""A benchmark as objects of a cluster: valid for the API, within level restricted, and the commands that they start."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness import engine
from harness.cli import cli
from harness.cli.common import with_env
from harness.cli.engines import serve
from harness.cli.runs import run, start
from harness.cluster import objects as cluster_objects
from harness.cluster.settings import parse_cluster, slug
from harness.errors import BadInput
from harness.spec import parse_spec
from tests.cluster.security import breaches
from tests.conftest import REPOSITORY
from tests.unit.role_values import pod_specs, validate

IMAGE = "registry.example.org/mlperf-node@sha256:" + "a" * 64
Object = dict[str, Any]


def render(*words: str, nodes: tuple[str, ...] = ("jw2", "jw3")) -> list[Object]:
    """What `harness manifests` prints, parsed."""
    node_options = [word for node in nodes for word in ("--node", node)]
    result = CliRunner().invoke(cli, ["manifests", *node_options, "--image", IMAGE, "--run-id", "June.1", *words])
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def only(objects: list[Object], kind: str, component: str | None = None) -> list[Object]:
    return [
        item
        for item in objects
        if item["kind"] == kind and component in (None, item["metadata"]["labels"]["app.kubernetes.io/component"])
    ]


def container(job: Object) -> Object:
    (result,) = job["spec"]["template"]["spec"]["containers"]
    return dict(result)


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
        # Remembered on the claim of the node's runs, not in the engine's own root, which is new in each run.
        cache = {"name": "HARNESS_WEIGHTS_CACHE", "value": "/var/lib/mlperf/runs/.weights.sha256.json"}
        assert cache in one["env"]
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
        affinity = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert affinity == {
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
    assets = yaml.safe_load((REPOSITORY / "roles" / "assets" / "defaults" / "main.yml").read_text())
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
            assert str(config.api_key_file) == f"/etc/mlperf-secrets/{job['metadata']['name']}"
            assert config.port == one["ports"][0]["containerPort"]
            # Where role assets puts it.
            assert str(config.model) == assets["assets_model_path"].replace("{{ assets_root }}", assets["assets_root"])
        else:
            parsed_spec = parse_spec(values)
            assert (parsed_spec.run_id, parsed_spec.samples, parsed_spec.scenario) == ("June.1", 600, "offline")
            assert parsed_spec.metrics_port == one["ports"][0]["containerPort"]
            # Each engine's address is that of a Service whose pods are those of its Job.
            for reference in parsed_spec.engines:
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
    (engine_json,) = [item["data"]["engine.json"] for item in only(objects, "ConfigMap") if "data" in item]
    assert engine.parse_config(json.loads(engine_json)).name == "jw2"
    assert parsed["engine_config"] == "/etc/mlperf/engine.json"
    assert (parsed["run_id"], parsed["samples"], parsed["target_qps"]) == ("June.1", 600, "auto")
    assert str(parsed["root"]).startswith("/var/lib/mlperf/runs/")
    # Its engine makes the key itself: the Secret has nothing that no pod mounts.
    (secret,) = only(objects, "Secret")
    sources = [volume["projected"]["sources"] for volume in spec["volumes"] if "projected" in volume]
    mounted = {item["key"] for source in sources[0] for item in source["secret"]["items"]}
    assert (len(sources), mounted) == (1, {"env"}) and secret["data"].keys() == mounted


def test_every_gpu_of_a_node_has_an_engine_or_a_rank(tmp_path: Path) -> None:
    several = only(render("--engines-per-node", "2"), "Job", "engine")
    assert [job["metadata"]["labels"]["mlperf/node"] for job in several] == ["jw2", "jw2", "jw3", "jw3"]
    settings = tmp_path / "engine.json"
    settings.write_text(json.dumps({"tensor_parallel": 2}))
    for job in only(render("--engine", str(settings)), "Job", "engine"):
        assert container(job)["resources"]["limits"]["nvidia.com/gpu"] == 2


def test_keys_and_values_of_env_are_in_secrets_which_just_their_readers_mount(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text('{"env": {"TOKEN": "hunter2"}}')
    objects, again = (render("--engine", str(tmp_path / "engine.json")) for _ in range(2))
    secrets = {item["metadata"]["name"]: item for item in only(objects, "Secret")}
    keys = [base64.b64decode(one["data"]["api-key"]) for one in [*secrets.values(), *only(again, "Secret")]]
    assert len(set(keys)) == 4
    assert min(map(len, keys)) >= 32
    assert [json.loads(base64.b64decode(one["data"]["env"])) for one in secrets.values()] == [{"TOKEN": "hunter2"}] * 2
    others = json.dumps([item for item in objects if item["kind"] != "Secret"])
    assert "hunter2" not in others
    assert not any(key.decode() in others for key in keys)
    mounted = {
        job["metadata"]["name"]: [
            (source["secret"]["name"], item["key"])
            for volume in job["spec"]["template"]["spec"]["volumes"]
            if "projected" in volume
            for source in volume["projected"]["sources"]
            for item in source["secret"]["items"]
        ]
        for job in only(objects, "Job")
    }
    run = next(name for name in mounted if name.startswith("run-"))
    assert mounted.pop(run) == [(name, "api-key") for name in secrets]
    assert mounted == {name: [(name, "api-key"), (name, "env")] for name in secrets}


def test_an_engine_takes_its_env_from_the_file_of_its_secret(tmp_path: Path) -> None:
    (tmp_path / "env").write_text('{"TOKEN": "hunter2"}')
    values = with_env({"name": "a", "model": "/m", "port": 1, "env": {"TOKEN": "sha256:1"}}, tmp_path / "env")
    assert engine.parse_config(values).env == {"TOKEN": "hunter2"}


def test_all_objects_have_one_owner() -> None:
    cluster = parse_cluster({"image": IMAGE})
    config = engine.parse_config({"name": "jw2", "model": "/m", "port": 8000})
    spec = parse_spec(
        {"run_id": "a", "model": "/m", "dataset": "/d", "samples": 1, "engines": [{"name": "x", "url": "http://x"}]}
    )
    owner = cluster_objects.owner(cluster, "a")
    owner["metadata"]["uid"] = "0-1"
    objects = [
        *cluster_objects.engine_objects(cluster, "a", "jw2", config, owner),
        *cluster_objects.run_objects(cluster, spec, "jw2", owner),
        cluster_objects.collector(cluster, "a", "jw2", owner, lifetime_s=60),
    ]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": "0-1"}
    assert [item["metadata"]["ownerReferences"] for item in objects] == [[reference]] * 7
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

    label = slug(*parts)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label)
    assert label != slug(*parts[:-1], parts[-1].swapcase())


def test_a_wrong_setting_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cluster: memory = '32 GB'"):
        parse_cluster({"image": IMAGE, "memory": "32 GB"})
    engine_file = tmp_path / "engine.json"
    engine_file.write_text('{"kind": "endpoint", "url": "https://llm.example.org"}')
    result = CliRunner().invoke(cli, ["manifests", "--node", "a", "--image", IMAGE, "--engine", str(engine_file)])
    assert "kind endpoint needs launcher=process (or `harness run --endpoint`)" in str(result.exception)
    result = CliRunner().invoke(cli, ["manifests", "--node", "a", "--node", "a", "--image", IMAGE])
    assert isinstance(result.exception, BadInput)
    assert "name each node once" in str(result.exception)


@pytest.mark.parametrize(("scenario", "most"), [("server", 4), ("offline", 1)])
def test_a_run_may_repeat_its_performance_run_on_one_node_as_on_several(scenario: str, most: int) -> None:
    several = render("--samples", "600", "--scenario", scenario)
    (spec,) = [
        parse_spec(json.loads(item["data"]["spec.json"])) for item in several if "spec.json" in item.get("data", {})
    ]
    assert spec.rate_attempts == most
    (job,) = only(render("--samples", "600", "--scenario", scenario, nodes=("jw2",)), "Job")
    assert run.make_context("run", list(container(job)["args"][1:])).params["rate_attempts"] == most
