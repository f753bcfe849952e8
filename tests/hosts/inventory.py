"""The inventory of the tests: laid over inventory/jw, so that the real groups and settings are what is tested."""

import hashlib
import json
import os
from typing import Any

from tests.hosts.layout import (
    ADDRESSES,
    BUS,
    FOLDER,
    GPU_HOSTS,
    INVENTORY,
    KEY,
    KNOWN_HOSTS,
    NODE_ENVIRONMENT,
    SANDBOX,
    USER,
    WEB,
)
from tests.hosts.repository import STANDINS

CALICO = ("v1_crd_projectcalico_org.yaml", "tigera-operator.yaml")


def connection() -> dict[str, Any]:
    """How Ansible reaches the hosts."""
    return {
        "ansible_user": USER,
        "ansible_ssh_private_key_file": str(KEY),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={KNOWN_HOSTS} -o IdentitiesOnly=yes",
        "ansible_control_path_dir": str(FOLDER / "ssh"),
    }


def containers() -> dict[str, Any]:
    """What hosts need that are containers themselves: no kernel settings but net.*, no priorities, no clock."""
    return {
        "node_require_time_sync": False,
        "node_compilers": ["libc6-dev", "tcc"],  # small, and nothing is compiled there
        "node_sysctls": {
            "net.bridge.bridge-nf-call-iptables": 1,
            "net.bridge.bridge-nf-call-ip6tables": 1,
            "net.ipv4.ip_forward": 1,
        },
        "containerd_repository": "",
        "containerd_packages": {"containerd": ""},
        "containerd_unit": {
            "Service": {"OOMScoreAdjust": 0, "LimitNOFILE": 20000, "LimitNPROC": 4096, "LimitCORE": 0},
        },
        "kubernetes_kubelet_config": {
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "oomScoreAdj": 0,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": False,
        },
    }


def standins() -> dict[str, Any]:
    """Where the stand-ins come from, and where their hardware is."""
    manifests = [
        {"url": f"{WEB}/calico/{name}", "sha256": hashlib.sha256((STANDINS / "calico" / name).read_bytes()).hexdigest()}
        for name in CALICO
    ]
    return {
        "kubernetes_repository": f"{WEB}/kubernetes/",
        "calico_manifests": manifests,
        "nvidia_repository": WEB,
        "nvidia_repository_path": "nvidia",
        "nvidia_repository_key": "Release.key",
        "nvidia_toolkit_repository": f"{WEB}/toolkit",
        "nvidia_toolkit_key": f"{WEB}/toolkit/Release.key",
        "nvidia_debian_components": ["main"],
        "nvidia_pci_root": BUS,
        "nvidia_version_file": "/run/mlperf-standins/nvidia-version",
    }


def harness(name: str) -> dict[str, Any]:
    """The installed environment and the sandbox of this checkout, which every host sees at the same path.

    The two engines share this machine's cores, a half each, as inventory/local does it.
    """
    cores = sorted(os.sched_getaffinity(0))
    half = max(len(cores) // 2, 1)
    own = cores[:half] if name == GPU_HOSTS[0] else cores[-half:]
    return {
        "harness_install": False,
        "harness_env": str(NODE_ENVIRONMENT),
        "harness_model": str(SANDBOX / "model"),
        "harness_dataset": str(SANDBOX / "cnn_eval.json"),
        "harness_reference_ids": str(SANDBOX / "reference_ids.jsonl"),
        "harness_shared_machine": True,
        "harness_engines": [{"name": name, "port": 8101, "cpu_cores": ",".join(map(str, own))}],
        "harness_engine_settings": {"dtype": "float32", "kv_cache_gib": 1, "max_num_seqs": 64},
    }


def write() -> None:
    """Write INVENTORY/hosts.json; use it as `-i inventory/jw -i INVENTORY`."""
    INVENTORY.mkdir(parents=True, exist_ok=True)
    # As variables of each host: those go before the group_vars of inventory/jw.
    settings = {**connection(), **containers(), **standins()}
    hosts = {name: {"ansible_host": at, **settings, **harness(name)} for name, at in ADDRESSES.items()}
    (INVENTORY / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}, indent=2) + "\n")
