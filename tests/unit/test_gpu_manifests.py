"""What the roles tell the cluster: objects that the API knows, pods that the restricted namespace takes."""

import json
from typing import Any

import pytest

from tests.cluster.security import breaches
from tests.unit.role_vars import pod_specs, render, validate

NODE: dict[str, Any] = {
    "os": {"id": "ubuntu", "version": "24.04"}, "kernel": "6.8.0-50-generic", "architecture": "x86_64",
    "secure_boot": False, "pci_gpus": [{"address": "0000:65:00.0", "device": "0x20b7"}], "nouveau": False,
    "driver_loaded": None, "smi": {"path": None, "error": None, "mismatch": False, "gpus": [], "processes": []},
    "packages": {},
}  # fmt: skip


def host(name: str = "jw2", drivers: dict[str, str] | None = None, **node: Any) -> dict[str, Any]:
    """What a play knows of a host after the role's first look at it."""
    drivers = {name: "", **(drivers or {})}
    return {
        "inventory_hostname": name,
        "groups": {"controller": ["jw1"], "gpu_nodes": list(drivers), "cluster": ["jw1", *drivers]},
        "ansible_play_hosts": list(drivers),
        "ansible_play_hosts_all": list(drivers),
        "hostvars": {one: {"__nvidia_driver": version, "__nvidia_name": one} for one, version in drivers.items()},
        "__nvidia_facts_before": {"facts": NODE | node},
    }


def package(version: str, held: bool = True) -> dict[str, Any]:
    return {"nvidia-open-580": {"version": version, "held": held}}


def nvidia(name: str, **given: Any) -> Any:
    return render("nvidia", name, **given)


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


def test_the_proof_is_valid_restricted_and_pinned_to_its_node() -> None:
    proof = nvidia("__nvidia_proof", **host("jw3"))
    validate([proof])
    (spec,) = pod_specs([proof])
    assert breaches(spec, "restricted") == ""
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["jw3"]}]}]
    other_driver = nvidia("__nvidia_proof", **host("jw3", packages=package("580.95.05-1ubuntu1")))
    assert proof["metadata"]["name"] != other_driver["metadata"]["name"]


def test_a_bundle_brings_images_by_tag() -> None:
    images = nvidia("__nvidia_images", bundle="/media/bundle")
    assert not [image for image in images.values() if "@" in image]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pci_gpus": []}, "no NVIDIA GPU on its PCI bus"),
        ({"os": {"id": "debian", "version": "11"}}, "runs debian 11"),
        ({"secure_boot": True}, "Secure Boot on"),
        ({"packages": {}, "driver_loaded": "570.86.15"}, "older than the branch 580"),
        ({"drivers": {"jw3": "580.95.05"}, "packages": package("580.126.09-1")}, "drivers differ"),
    ],
)
def test_what_cannot_be_a_gpu_node_is_refused_with_the_reason(given: dict[str, Any], words: str) -> None:
    drivers = given.pop("drivers", {})
    facts = host(drivers=drivers, **given)
    own = nvidia("__nvidia_current_driver", **facts)
    (refusal,) = nvidia("__nvidia_errors", **host(drivers={"jw2": own, **drivers}, **given))
    assert words in refusal
    assert "\n" not in refusal


def test_bare_hosts_are_not_refused_and_take_the_newest_of_the_branch() -> None:
    facts = host(drivers={"jw2": "", "jw3": ""})
    assert nvidia("__nvidia_errors", **facts) == []
    assert nvidia("__nvidia_packages_to_install", **facts)["nvidia-open-580"] == ""
    assert nvidia("__nvidia_uri", **facts).endswith("/cuda/repos/ubuntu2404/x86_64/")
    assert nvidia("__nvidia_key", **facts).endswith("/ubuntu2404/x86_64/3bf863cc.pub")


def test_a_new_node_takes_the_driver_of_the_others() -> None:
    wanted = nvidia("__nvidia_packages_to_install", **host("jw3", drivers={"jw2": "580.95.05", "jw3": ""}))
    assert wanted["nvidia-open-580"] == "580.95.05-*"


def test_a_version_brings_differing_drivers_together() -> None:
    facts = host(drivers={"jw2": "580.126.09", "jw3": "580.95.05"}, packages=package("580.126.09-1"))
    assert nvidia("__nvidia_errors", **facts, nvidia_driver_version="580.95.05") == []
    assert (
        nvidia("__nvidia_packages_to_install", **facts, nvidia_driver_version="580.95.05")["nvidia-open-580"]
        == "580.95.05-*"
    )


def test_a_new_node_alone_is_refused_where_nobody_looked_at_the_others() -> None:
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
    wanted = {"nvidia_driver_branch": 595, "nvidia_driver_version": "595.71.05"}
    assert nvidia("__nvidia_external_driver", **older, **wanted) is False
    assert nvidia("__nvidia_packages_to_install", **older, **wanted)["nvidia-open"] == "595.71.05-*"


def test_a_driver_that_came_some_other_way_is_left_alone() -> None:
    facts = host(drivers={"jw2": "580.95.05"}, driver_loaded="580.95.05")
    assert nvidia("__nvidia_external_driver", **facts) is True
    assert "nvidia-open-580" not in nvidia("__nvidia_packages_to_install", **facts)


def test_libraries_and_the_running_kernel_are_held() -> None:
    loose = {"version": "1", "held": False}
    packages = package("580.95.05-1") | {
        "libnvidia-compute-580": loose, "linux-image-6.8.0-50-generic": loose, "linux-image-6.8.0-49-generic": loose,
        "linux-generic": loose, "containerd.io": loose,
    }  # fmt: skip
    assert sorted(nvidia("__nvidia_packages_to_hold", **host(packages=packages))) == [
        "libnvidia-compute-580", "linux-generic", "linux-image-6.8.0-50-generic",
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
    ("known", "silent", "ready"),
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
    known: dict[str, Any], silent: bool, ready: bool
) -> None:
    facts = host() | {"__nvidia_cluster_nodes": known}
    assert nvidia("__nvidia_cluster_unreachable", **facts) is silent
    assert nvidia("__nvidia_cluster_node", **facts)["ready"] is ready


def namespace(**given: Any) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = render(
        "namespace", "__namespace_objects", **host(drivers={"jw2": "", "jw3": ""}), **given
    )
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


def test_no_rule_reaches_secrets_exec_or_everything() -> None:
    rules = [rule for item in namespace() if item["kind"] in ("Role", "ClusterRole") for rule in item["rules"]]
    named = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert not {pair for pair in named if "*" in pair or pair[0] in ("secrets", "pods/exec")}
    assert {verb for resource, verb in named if resource == "nodes"} == {"get"}


def test_scrape_objects_and_dashboard() -> None:
    objects: list[dict[str, Any]] = render("monitoring", "__monitoring_objects", **host())
    validate([item for item in objects if item["apiVersion"] == "v1"])
    (dashboard,) = [item for item in objects if item["kind"] == "ConfigMap"]
    board = json.loads(dashboard["data"]["mlperf.json"])
    assert {"vllm", "DCGM_FI", "mlperf_"} <= {
        word for panel in board["panels"] for word in ("vllm", "DCGM_FI", "mlperf_") if word in str(panel["targets"])
    }
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    quiet = render("monitoring", "__monitoring_objects", **host(), monitoring_operator=False)
    assert {item["kind"] for item in quiet} == {"Namespace", "ConfigMap"}


@pytest.mark.parametrize(
    ("given", "words"),
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
def test_monitoring_that_cannot_work_is_refused(given: dict[str, Any], words: str) -> None:
    facts = {**host(), "monitoring_enabled": True}
    (refusal,) = render("monitoring", "__monitoring_errors", **facts | given)
    assert words in refusal


@pytest.mark.parametrize(
    "given", [{}, {"monitoring_enabled": True}, {"monitoring_textfile": "/var/lib/textfile/gpu.prom"}]
)
def test_monitoring_that_can_work_is_not_refused(given: dict[str, Any]) -> None:
    assert render("monitoring", "__monitoring_errors", **host() | given) == []


def test_rights_on_jobs_of_volcano_are_bound_to_the_operator() -> None:
    found = render("volcano", "__volcano_rbac")
    validate(found)
    assert found[1]["roleRef"]["name"] == found[0]["metadata"]["name"]
