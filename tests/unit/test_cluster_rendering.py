"""What the roles containerd, kubernetes and calico write: both schemas of containerd, and the settings of a site."""

import tomllib
from typing import Any

import pytest

from tests.unit.role_values import rendered, value

IMAGES = {
    "1.6.20~ds1-1+deb12u1": "io.containerd.grpc.v1.cri",
    "2.2.1-1~debian.12~bookworm": "io.containerd.cri.v1.images",
}
RUNTIME = {
    "1.6.20~ds1-1+deb12u1": "io.containerd.grpc.v1.cri",
    "2.2.1-1~debian.12~bookworm": "io.containerd.cri.v1.runtime",
}


def installed(version: str) -> dict[str, Any]:
    return {"__containerd_package": {"versions": {"containerd.io": version} if version else {}, "changed": False}}


def config(version: str, host: str = "jw2", **given: Any) -> dict[str, Any]:
    return tomllib.loads(rendered("containerd", "config.toml.j2", host, **installed(version), **given))


@pytest.mark.parametrize("version", IMAGES)
def test_containerd_speaks_the_schema_of_its_version(version: str) -> None:
    made = config(version, containerd_sandbox_image="mirror.example/pause:3.10")
    assert made["version"] == (2 if version.startswith("1.") else 3)
    assert set(made["plugins"]) == {IMAGES[version], RUNTIME[version]}
    images, runtime = made["plugins"][IMAGES[version]], made["plugins"][RUNTIME[version]]
    pinned = images["pinned_images"]["sandbox"] if version.startswith("2.") else images["sandbox_image"]
    assert pinned == "mirror.example/pause:3.10"
    assert images["registry"]["config_path"] == "/etc/containerd/certs.d"
    runc = runtime["containerd"]["runtimes"]["runc"]
    assert runc["runtime_type"] == "io.containerd.runc.v2"
    assert runc["options"] == {"SystemdCgroup": True}


@pytest.mark.parametrize("version", IMAGES)
def test_containerd_has_the_runtime_for_gpus_on_gpu_nodes_only(version: str) -> None:
    def runtimes(host: str) -> dict[str, Any]:
        made: dict[str, Any] = config(version, host)["plugins"][RUNTIME[version]]["containerd"]["runtimes"]
        return made

    assert set(runtimes("jw1")) == {"runc"}
    assert runtimes("jw2")["nvidia"]["options"]["BinaryName"] == "/usr/bin/nvidia-container-runtime"


@pytest.mark.parametrize("version", IMAGES)
def test_containerd_settings_for_hosts_that_are_containers(version: str) -> None:
    more = '[debug]\nlevel = "warn"'
    made = config(
        version,
        containerd_oom_score=-500,
        containerd_restrict_oom_score_adj=True,
        containerd_systemd_cgroup=False,
        containerd_settings=more,
    )
    assert made["oom_score"] == -500
    assert made["debug"] == {"level": "warn"}
    assert made["plugins"][RUNTIME[version]]["restrict_oom_score_adj"] is True
    for runtime in made["plugins"][RUNTIME[version]]["containerd"]["runtimes"].values():
        assert runtime["options"]["SystemdCgroup"] is False


def test_containerd_that_is_not_there_yet_is_taken_for_the_version_that_is_asked() -> None:
    assert config("")["version"] == 3
    assert config("", containerd_packages={"containerd": "1.7.*"})["version"] == 2
    assert config("", containerd_packages={"containerd": ""})["version"] == 3


def test_registry_with_mirror_and_own_certificate() -> None:
    item = {
        "name": "docker.io",
        "server": "https://registry-1.docker.io",
        "ca": "PEM",
        "mirrors": [{"url": "https://mirror.example/v2/docker", "override_path": True}, {"url": "http://plain:5000"}],
    }
    made = tomllib.loads(rendered("containerd", "hosts.toml.j2", item=item))
    assert made["server"] == "https://registry-1.docker.io"
    first, second = made["host"]["https://mirror.example/v2/docker"], made["host"]["http://plain:5000"]
    assert first == {
        "capabilities": ["pull", "resolve"], "ca": "/etc/containerd/certs.d/docker.io/ca.crt", "override_path": True
    }  # fmt: skip
    assert "override_path" not in second


def test_unit_drop_in_repeats_a_setting_that_has_several_values() -> None:
    text = rendered(
        "containerd", "unit.conf.j2", containerd_unit={"Service": {"ExecStartPre": ["", "/bin/true"], "LimitCORE": 0}}
    )
    assert text.splitlines()[1:] == ["[Service]", "ExecStartPre=", "ExecStartPre=/bin/true", "LimitCORE=0"]


def init(**given: Any) -> dict[str, Any]:
    package = {"versions": {"kubeadm": "1.36.1-1.1"}, "changed": False}
    documents = value("kubernetes", "__kubernetes_init_documents", "jw1", __kubernetes_package=package, **given)
    return {document["kind"]: document for document in documents}


def test_kubeadm_configuration_of_an_ordinary_site() -> None:
    made = init()
    assert list(made) == ["InitConfiguration", "ClusterConfiguration", "KubeletConfiguration", "KubeProxyConfiguration"]
    assert {made[kind]["apiVersion"] for kind in list(made)[:2]} == {"kubeadm.k8s.io/v1beta4"}
    assert made["InitConfiguration"]["localAPIEndpoint"] == {"advertiseAddress": "192.0.2.11", "bindPort": 6443}
    assert made["InitConfiguration"]["skipPhases"] == []
    assert made["ClusterConfiguration"]["kubernetesVersion"] == "v1.36.1"
    assert made["ClusterConfiguration"]["controlPlaneEndpoint"] == "192.0.2.11:6443"
    assert made["ClusterConfiguration"]["imageRepository"] == "registry.k8s.io"
    assert made["KubeletConfiguration"]["cgroupDriver"] == "systemd"


def test_kubeadm_configuration_can_be_reached_everywhere() -> None:
    made = init(
        kubernetes_image_repository="mirror.example/k8s",
        kubernetes_image_pull_policy="Never",
        kubernetes_skipped_phases=["addon/kube-proxy"],
        kubernetes_cluster_config={"apiServer": {"certSANs": ["vip"]}, "networking": {"dnsDomain": "x.local"}},
        kubernetes_init_config={"nodeRegistration": {"taints": []}},
        kubernetes_proxy_config={"mode": "nftables"},
        kubernetes_patches={"kube-apiserver0+merge.yaml": "{}"},
        kubernetes_kubelet_config={"failCgroupV1": False, "cgroupDriver": "cgroupfs", "enforceNodeAllocatable": []},
    )
    node = made["InitConfiguration"]["nodeRegistration"]
    assert (node["name"], node["imagePullPolicy"], node["taints"]) == ("jw1", "Never", [])
    assert made["InitConfiguration"]["skipPhases"] == ["addon/kube-proxy"]
    assert made["InitConfiguration"]["patches"]["directory"].endswith("/patches")
    assert made["ClusterConfiguration"]["imageRepository"] == "mirror.example/k8s"
    assert made["ClusterConfiguration"]["networking"]["podSubnet"] == "10.244.0.0/16"
    assert made["ClusterConfiguration"]["networking"]["dnsDomain"] == "x.local"
    assert made["KubeletConfiguration"]["failCgroupV1"] is False
    assert made["KubeletConfiguration"]["cgroupDriver"] == "cgroupfs"
    assert made["KubeletConfiguration"]["enforceNodeAllocatable"] == []
    assert made["KubeProxyConfiguration"]["mode"] == "nftables"


def test_an_upgrade_keeps_the_patches() -> None:
    assert value("kubernetes", "__kubernetes_patch_flags") == []
    (flag,) = value("kubernetes", "__kubernetes_patch_flags", kubernetes_patches={"kube-apiserver0+merge.yaml": "{}"})
    assert flag == f"--patches={init(kubernetes_patches={'x': ''})['InitConfiguration']['patches']['directory']}"


def test_worker_joins_with_what_the_control_plane_printed() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    printed = f"kubeadm join 192.0.2.11:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash {digest} \n"
    made = value(
        "kubernetes",
        "__kubernetes_join_document",
        __kubernetes_token={"stdout": printed},
        kubernetes_join_config={"dryRun": True},
    )
    assert made["discovery"]["bootstrapToken"] == {
        "apiServerEndpoint": "192.0.2.11:6443", "token": "abcdef.0123456789abcdef", "caCertHashes": [digest]
    }  # fmt: skip
    assert made["nodeRegistration"]["name"] == "jw2"
    assert made["dryRun"] is True


@pytest.mark.parametrize(("version", "pattern"), [("1.36", "1.36.*"), ("1.36.1", "1.36.1-*")])
def test_one_version_pins_every_package_and_the_repository(version: str, pattern: str) -> None:
    packages = value("kubernetes", "kubernetes_packages", kubernetes_version=version)
    assert packages == {"kubeadm": pattern, "kubectl": pattern, "kubelet": pattern}
    assert "/v1.36/" in value("kubernetes", "kubernetes_repository", kubernetes_version=version)


def test_calico_gets_the_pod_network_of_the_cluster() -> None:
    (made,) = value("calico", "__calico_objects", kubernetes_pod_network="10.50.0.0/16")
    assert (made["apiVersion"], made["kind"], made["metadata"]["name"]) == (
        "operator.tigera.io/v1",
        "Installation",
        "default",
    )
    assert made["spec"]["calicoNetwork"]["ipPools"][0]["cidr"] == "10.50.0.0/16"
    assert "registry" not in made["spec"]
    (made,) = value("calico", "__calico_objects", calico_registry="mirror.example/", calico_mtu=1400,
                    calico_installation={"calicoNetwork": {"bgp": "Disabled"}})  # fmt: skip
    assert made["spec"]["registry"] == "mirror.example/"
    assert made["spec"]["calicoNetwork"]["mtu"] == 1400
    assert made["spec"]["calicoNetwork"]["bgp"] == "Disabled"
    assert made["spec"]["calicoNetwork"]["ipPools"]
