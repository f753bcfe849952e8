"""Objects that the roles create: valid for the API, and pods that a restricted namespace admits."""

import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import gpu_checks, host_facts
from harness.benchmark import engines
from harness.cluster import doctor
from harness.cluster.api import Api
from harness.cluster.rbac import access_objects
from harness.cluster.settings import parse_cluster
from tests.cluster.scheduler import tolerates
from tests.cluster.security import breaches
from tests.unit.role_values import pod_specs, validate, value
from tests.unit.test_host_survey import A30

NODE: dict[str, Any] = {
    "os": {"id": "ubuntu", "version": "24.04"}, "kernel": "6.8.0-50-generic", "architecture": "x86_64",
    "secure_boot": False, "pci_gpus": [{"address": "0000:65:00.0", "device": "0x20b7"}], "nouveau": False,
    "driver_loaded": None, "smi": {"path": None, "error": None, "mismatch": False, "gpus": [], "processes": []},
    "packages": {},
}  # fmt: skip


def host(name: str = "jw2", drivers: dict[str, str] | None = None, **node: Any) -> dict[str, Any]:
    """Variables of a host after the role's first tasks."""
    drivers = {name: "", **(drivers or {})}
    return {
        "inventory_hostname": name,
        "groups": {"controller": ["jw1"], "gpu_nodes": list(drivers), "cluster": ["jw1", *drivers]},
        "ansible_play_hosts": list(drivers),
        "ansible_play_hosts_all": list(drivers),
        "hostvars": {one: {"__nvidia_driver": version, "__nvidia_name": one} for one, version in drivers.items()},
        "__nvidia_facts_before": {"facts": NODE | node},
    }


def package(version: str, is_held: bool = True) -> dict[str, Any]:
    return {"nvidia-open-580": {"version": version, "held": is_held}}


def nvidia(name: str, **variables: Any) -> Any:
    return value("nvidia", name, **variables)


def test_objects_of_the_gpu_nodes_are_valid() -> None:
    objects = nvidia("__nvidia_manifests", **host(drivers={"jw2": "", "jw3": ""}))
    validate([item for item in objects if item["kind"] != "Node"])
    assert [item["metadata"]["name"] for item in objects if item["kind"] == "Node"] == ["jw2", "jw3"]
    kinds = {item["kind"] for item in objects}
    assert kinds == {"Namespace", "RuntimeClass", "Node", "DaemonSet", "Service"}


def test_every_gpu_pod_runs_under_the_runtime_class_and_is_pinned_by_digest() -> None:
    facts = host()
    objects = [*nvidia("__nvidia_manifests", **facts), nvidia("__nvidia_proof", **facts)]
    specs = list(pod_specs(objects))
    assert len(specs) == 3
    for spec in specs:
        assert spec["runtimeClassName"] == "nvidia"
        assert "@sha256:" in spec["containers"][0]["image"]


def test_gpu_pods_and_engines_tolerate_the_taint_of_a_control_plane_with_gpus() -> None:
    facts, key = host(), "node-role.kubernetes.io/control-plane"
    taint = {"key": key, "effect": "NoSchedule"}
    for spec in pod_specs([*nvidia("__nvidia_manifests", **facts), nvidia("__nvidia_proof", **facts)]):
        assert any(tolerates(one, taint) for one in spec["tolerations"])
    assert key in parse_cluster({"image": "node"}).tolerated_taints


def test_the_proof_is_valid_restricted_and_pinned_to_its_node() -> None:
    proof = nvidia("__nvidia_proof", **host("jw3"))
    validate([proof])
    (spec,) = pod_specs([proof])
    assert breaches(spec, "restricted") == ""
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["jw3"]}]}]
    other_driver = nvidia("__nvidia_proof", **host("jw3", packages=package("580.95.05-1ubuntu1")))
    assert proof["metadata"]["name"] != other_driver["metadata"]["name"]


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (14, 0), (15, 15), (9, 9)])
def test_a_corrupted_inforom_does_not_fail_the_proof(tmp_path: Path, code: int, expected: int) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (spec,) = pod_specs([nvidia("__nvidia_proof", **host("jw3"))])
    assert spec["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"
    path = {"PATH": f"{tmp_path}:{os.defpath}"}
    assert subprocess.run(spec["containers"][0]["command"], env=path, check=False, timeout=30).returncode == expected


def test_a_bundle_brings_images_by_tag() -> None:
    images = nvidia("__nvidia_images", bundle="/media/bundle")
    assert not [image for image in images.values() if "@" in image]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"pci_gpus": []}, "no NVIDIA GPU on its PCI bus"),
        ({"os": {"id": "debian", "version": "11"}}, "runs debian 11"),
        ({"secure_boot": True}, "Secure Boot on"),
        ({"packages": {}, "driver_loaded": "570.86.15"}, "older than the branch 580"),
        ({"drivers": {"jw3": "580.95.05"}, "packages": package("580.126.09-1")}, "drivers differ"),
    ],
)
def test_unsuitable_gpu_nodes_are_refused_with_the_reason(variables: dict[str, Any], words: str) -> None:
    drivers = variables.pop("drivers", {})
    facts = host(drivers=drivers, **variables)
    own = nvidia("__nvidia_current_driver", **facts)
    (refusal,) = nvidia("__nvidia_errors", **host(drivers={"jw2": own, **drivers}, **variables))
    assert words in refusal
    assert "\n" not in refusal


def test_an_archive_without_the_headers_of_the_running_kernel_is_named_at_once() -> None:
    headers = "linux-headers-6.8.0-50-generic"
    rows = {
        name: f"{name} | 1.2 | http://archive.example.org noble/main amd64 Packages\n" for name in ("dpkg", headers)
    }
    rows["dpkg"] = f"      {rows['dpkg']}"
    cases = (("", 0), (rows["dpkg"], 1), (rows["dpkg"] + rows[headers], 0))
    for listed, count in cases:
        errors = nvidia("__nvidia_errors", **host(), __nvidia_headers={"stdout": listed})
        assert ["no package archive that it knows has linux-headers-6.8.0-50" in one for one in errors] == [
            True
        ] * count
    assert nvidia("__nvidia_errors", **host(), __nvidia_headers={"skipped": True}) == []
    assert len(nvidia("__nvidia_errors", **host(), __nvidia_headers={"stdout": ""}, bundle="/media/bundle")) == 1


def test_the_oldest_branch_of_the_driver_is_the_same_in_python_and_in_the_role() -> None:
    oldest, refused = gpu_checks.CUDA_13_BRANCH, "CUDA 13 needs"
    errors = {
        branch: nvidia("__nvidia_errors", **host(), nvidia_driver_branch=branch) for branch in (oldest, oldest - 1)
    }
    assert errors[oldest] == [] and refused in errors[oldest - 1][0] and f"{refused} {oldest}" in errors[oldest - 1][0]


POLICY = (
    "500 http://debian.example.org/debian bookworm/{0} amd64 Packages\n  release v=12,o=Debian,l=Debian,c={0},b=amd64\n"
)


@pytest.mark.parametrize(("components", "refused"), [(["main"], True), (["main", "contrib"], False), ([], False)])
def test_debian_needs_contrib_and_gets_the_persistence_daemon(components: list[str], refused: bool) -> None:
    facts = host(os={"id": "debian", "version": "12"})
    facts["__nvidia_archive"] = {"stdout": "".join(map(POLICY.format, components))}
    errors = nvidia("__nvidia_errors", **facts)
    assert ["component contrib not enabled" in error for error in errors] == [True] * refused
    assert nvidia("__nvidia_packages_to_install", **facts)["nvidia-persistenced"] == ""
    assert "nvidia-persistenced" not in nvidia("__nvidia_packages_to_install", **host())


def test_daemon_sets_name_their_nodes_themselves() -> None:
    sets = [item for item in nvidia("__nvidia_manifests", **host()) if item["kind"] == "DaemonSet"]
    selectors = [item["spec"]["template"]["spec"]["nodeSelector"] for item in sets]
    assert selectors == [{"mlperf.io/gpu": "true"}] * 2


def test_bare_hosts_are_not_refused_and_take_the_newest_of_the_branch() -> None:
    facts = host(drivers={"jw2": "", "jw3": ""})
    assert nvidia("__nvidia_errors", **facts) == []
    assert nvidia("__nvidia_packages_to_install", **facts)["nvidia-open-580"] == ""
    assert nvidia("__nvidia_uri", **facts).endswith("/cuda/repos/ubuntu2404/x86_64/")
    assert nvidia("__nvidia_key", **facts).endswith("/ubuntu2404/x86_64/3bf863cc.pub")


def test_a_new_node_takes_the_driver_of_the_others() -> None:
    expected = nvidia("__nvidia_packages_to_install", **host("jw3", drivers={"jw2": "580.95.05", "jw3": ""}))
    assert expected["nvidia-open-580"] == "580.95.05-*"


def test_a_version_makes_differing_drivers_equal() -> None:
    facts = host(drivers={"jw2": "580.126.09", "jw3": "580.95.05"}, packages=package("580.126.09-1"))
    assert nvidia("__nvidia_errors", **facts, nvidia_driver_version="580.95.05") == []
    assert (
        nvidia("__nvidia_packages_to_install", **facts, nvidia_driver_version="580.95.05")["nvidia-open-580"]
        == "580.95.05-*"
    )


def test_a_new_node_alone_is_refused_without_facts_of_the_others() -> None:
    facts = host("jw3") | {"groups": {"gpu_nodes": ["jw2", "jw3"], "cluster": ["jw1", "jw2", "jw3"]}}
    (refusal,) = nvidia("__nvidia_errors", **facts)
    assert "--limit excludes jw2, whose" in refusal
    assert nvidia("__nvidia_errors", **facts, nvidia_driver_version="580.95.05") == []
    configured = facts | {"__nvidia_facts_before": {"facts": NODE | {"packages": package("580.95.05-1")}}}
    assert nvidia("__nvidia_errors", **configured) == []


def test_from_branch_590_on_packages_have_no_branch_in_their_names() -> None:
    facts = host(drivers={"jw2": "", "jw3": ""})
    assert nvidia("__nvidia_packages_to_install", **facts, nvidia_driver_branch=595)["nvidia-open"] == ""
    assert nvidia("nvidia_pinning_packages", **facts, nvidia_driver_branch=595) == ["nvidia-driver-pinning-595"]
    # A driver of an older branch, under its older name, came from these packages too.
    older = host(packages=package("580.95.05-1"), driver_loaded="580.95.05")
    expected = {"nvidia_driver_branch": 595, "nvidia_driver_version": "595.71.05"}
    assert nvidia("__nvidia_external_driver", **older, **expected) is False
    assert nvidia("__nvidia_packages_to_install", **older, **expected)["nvidia-open"] == "595.71.05-*"


def test_a_driver_installed_otherwise_is_left_alone() -> None:
    facts = host(drivers={"jw2": "580.95.05"}, driver_loaded="580.95.05")
    assert nvidia("__nvidia_external_driver", **facts) is True
    assert "nvidia-open-580" not in nvidia("__nvidia_packages_to_install", **facts)


def test_libraries_and_the_running_kernel_are_held() -> None:
    loose = {"version": "1", "held": False}
    packages = package("580.95.05-1") | {
        "libnvidia-compute-580": loose, "linux-image-6.8.0-50-generic": loose, "linux-image-6.8.0-49-generic": loose,
        "linux-generic": loose, "linux-image-generic-hwe-24.04": loose, "containerd.io": loose,
    }  # fmt: skip
    assert sorted(nvidia("__nvidia_packages_to_hold", **host(packages=packages))) == [
        "libnvidia-compute-580", "linux-generic", "linux-image-6.8.0-50-generic", "linux-image-generic-hwe-24.04",
    ]  # fmt: skip


def test_a_mismatch_is_named() -> None:
    smi = NODE["smi"] | {"mismatch": True, "error": "Failed to initialize NVML: Driver/library version mismatch"}
    facts = host(packages=package("580.126.09-1"), driver_loaded="580.95.05", smi=smi)
    assert nvidia("__nvidia_must_reboot", **facts) is True
    assert "Driver/library version mismatch" in nvidia("__nvidia_problem", **facts)


def test_hosts_take_turns_to_reboot_and_stop_at_one_that_was_lost() -> None:
    facts = host(drivers={"jw2": "", "jw3": "", "jw4": ""})
    facts["hostvars"] = {
        "jw2": {"__nvidia_awaits_turn": True},
        "jw3": {"__nvidia_awaits_turn": False},
        "jw4": {"__nvidia_awaits_turn": True},
    }
    assert nvidia("__nvidia_reboot_order", **facts) == ["jw2", "jw4"]
    assert nvidia("__nvidia_failed_before", **facts) == []
    assert nvidia("__nvidia_failed_before", **facts | {"ansible_play_hosts": ["jw3", "jw4"]}) == ["jw2"]


@pytest.mark.parametrize(
    ("known_nodes", "silent", "ready"),
    [
        ({"reason": "", "nodes": {"jw2": {"ready": True, "schedulable": True}}}, False, True),
        ({"reason": "", "nodes": {}}, False, False),
        (
            {"reason": "/etc/kubernetes/admin.conf is not on this host: it is not a control plane yet", "nodes": {}},
            False,
            False,
        ),
        ({"reason": "The connection to the server was refused", "nodes": {}}, True, False),
        ({"skipped": True}, False, False),
    ],
)
def test_a_node_is_drained_where_it_is_ready_and_nothing_is_rebooted_blindly(
    known_nodes: dict[str, Any], silent: bool, ready: bool
) -> None:
    facts = host() | {"__nvidia_cluster_nodes": known_nodes}
    assert nvidia("__nvidia_cluster_unreachable", **facts) is silent
    assert nvidia("__nvidia_cluster_node", **facts)["ready"] is ready


def namespace() -> list[dict[str, Any]]:
    facts = host(drivers={"jw2": "", "jw3": ""})
    access = {"objects": access_objects("mlperf", "mlperf-runner", "mlperf-operator", collecting=False)}
    objects: list[dict[str, Any]] = value("namespace", "__namespace_objects", **facts, __namespace_access=access)
    return objects


def test_objects_of_the_namespace_are_valid() -> None:
    validate(namespace())


def test_the_namespace_is_restricted_and_denies_by_default() -> None:
    objects = namespace()
    assert objects[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    policies = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_every_host_has_its_volumes_and_each_claim_its_own() -> None:
    objects = namespace()
    volumes = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "PersistentVolume"}
    claims = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "PersistentVolumeClaim"}
    assert len(volumes) == len(claims) == 9
    for name, claim in claims.items():
        volume = volumes[claim["volumeName"]]
        assert volume["claimRef"]["name"] == name
        assert volume["storageClassName"] == claim["storageClassName"]
        (term,) = volume["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert name.endswith(term["matchExpressions"][0]["values"][0])


def test_no_rule_reads_secrets_or_reaches_exec_or_everything() -> None:
    rules = [rule for item in namespace() if item["kind"] in ("Role", "ClusterRole") for rule in item["rules"]]
    granted = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert not {pair for pair in granted if "*" in pair or pair[0] == "pods/exec"}
    # An engine's key is written and deleted, and never read back.
    assert {verb for resource, verb in granted if resource == "secrets"} == {"create", "delete"}
    assert {verb for resource, verb in granted if resource == "nodes"} == {"get"}


def test_scrape_objects_and_dashboard() -> None:
    objects: list[dict[str, Any]] = value("monitoring", "__monitoring_objects", **host())
    validate([item for item in objects if item["apiVersion"] == "v1"])
    (dashboard,) = [item for item in objects if item["kind"] == "ConfigMap"]
    board = json.loads(dashboard["data"]["mlperf.json"])
    assert {"vllm", "DCGM_FI", "mlperf_"} <= {
        word for panel in board["panels"] for word in ("vllm", "DCGM_FI", "mlperf_") if word in str(panel["targets"])
    }
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    quiet = value("monitoring", "__monitoring_objects", **host(), monitoring_operator=False)
    assert {item["kind"] for item in quiet} == {"Namespace", "ConfigMap"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"monitoring_operator": False, "monitoring_grafana": False}, "nothing would be monitored"),
        ({"monitoring_targets": {"benchmark": "mlperf"}}, "monitoring_targets has benchmark: give"),
        ({"monitoring_interval_s": 0}, "monitoring_interval_s = 0"),
        (
            {"monitoring_textfile": "textfile/gpu.prom"},
            "monitoring_textfile = 'textfile/gpu.prom': node-exporter reads",
        ),
        ({"monitoring_textfile": "/var/lib/textfile/gpu"}, "give the absolute path"),
        ({"monitoring_textfile": "/var/lib/textfile/gpu.prom", "groups": {"gpu_nodes": []}}, "gpu_nodes is empty"),
    ],
)
def test_monitoring_that_cannot_work_is_refused(variables: dict[str, Any], words: str) -> None:
    facts = {**host(), "monitoring_enabled": True}
    (refusal,) = value("monitoring", "__monitoring_errors", **facts | variables)
    assert words in refusal


@pytest.mark.parametrize(
    "variables", [{}, {"monitoring_enabled": True}, {"monitoring_textfile": "/var/lib/textfile/gpu.prom"}]
)
def test_monitoring_that_can_work_is_not_refused(variables: dict[str, Any]) -> None:
    assert value("monitoring", "__monitoring_errors", **host() | variables) == []


def test_rights_on_jobs_of_volcano_are_bound_to_the_operator() -> None:
    objects = value("volcano", "__volcano_rbac")
    validate(objects)
    assert objects[1]["roleRef"]["name"] == objects[0]["metadata"]["name"]


def test_nodes_are_labelled_with_the_kind_of_their_gpus_from_which_engines_are_set() -> None:
    there = host_facts.parse_gpus(A30, host_facts.FIELDS)
    facts = host(smi={**NODE["smi"], "gpus": there})
    labels = nvidia("__nvidia_gpu_properties", **facts)
    hostvars = {"jw2": {**facts["hostvars"]["jw2"], "__nvidia_gpu_labels": labels}}
    (node,) = [one for one in nvidia("__nvidia_manifests", **{**facts, "hostvars": hostvars}) if one["kind"] == "Node"]
    assert all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", one) for one in labels.values())
    api = SimpleNamespace(
        node=lambda _: {"metadata": node["metadata"], "status": {"allocatable": {"nvidia.com/gpu": "2"}}}
    )
    offered = doctor.gpus(cast(Api, api), parse_cluster({"image": "node"}), "jw2")
    kind = {"name": "NVIDIA-A30", "memory_mib": 24_576, "compute_capability": "8.0"}
    assert offered == [{"index": 0, **kind}, {"index": 1, **kind}]
    assert engines.on_cluster([{"name": "jw2"}], {}, model="/m", gpus=offered)[1]["max_num_seqs"] == 48
    node["metadata"]["labels"] = {"nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.compute.major": "9"}
    assert doctor.gpus(cast(Api, api), parse_cluster({"image": "node"}), "jw2")[0]["compute_capability"] is None
