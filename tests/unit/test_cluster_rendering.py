"""Files of the roles containerd, kubernetes and calico: both schemas of containerd, and a site's settings."""

import tomllib
from typing import Any

import pytest
import yaml
from ansible.template import trust_as_template

from tests.unit.role_values import ROLES, rendered, templar, value

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


def containerd_config(version: str, host: str = "jw2", **variables: Any) -> dict[str, Any]:
    return tomllib.loads(rendered("containerd", "config.toml.j2", host, **installed(version), **variables))


@pytest.mark.parametrize("version", IMAGES)
def test_containerd_configuration_has_the_schema_of_its_version(version: str) -> None:
    config = containerd_config(version, containerd_sandbox_image="mirror.example/pause:3.10")
    assert config["version"] == (2 if version.startswith("1.") else 3)
    assert set(config["plugins"]) == {IMAGES[version], RUNTIME[version]}
    images, runtime = config["plugins"][IMAGES[version]], config["plugins"][RUNTIME[version]]
    pinned = images["pinned_images"]["sandbox"] if version.startswith("2.") else images["sandbox_image"]
    assert pinned == "mirror.example/pause:3.10"
    assert images["registry"]["config_path"] == "/etc/containerd/certs.d"
    runc = runtime["containerd"]["runtimes"]["runc"]
    assert runc["runtime_type"] == "io.containerd.runc.v2"
    assert runc["options"] == {"SystemdCgroup": True}


@pytest.mark.parametrize("version", IMAGES)
def test_containerd_has_the_runtime_for_gpus_on_gpu_nodes_only(version: str) -> None:
    def runtimes(host: str) -> dict[str, Any]:
        config: dict[str, Any] = containerd_config(version, host)["plugins"][RUNTIME[version]]["containerd"]["runtimes"]
        return config

    assert set(runtimes("jw1")) == {"runc"}
    assert runtimes("jw2")["nvidia"]["options"]["BinaryName"] == "/usr/bin/nvidia-container-runtime"


@pytest.mark.parametrize("version", IMAGES)
def test_containerd_settings_for_hosts_that_are_containers(version: str) -> None:
    more = '[debug]\nlevel = "warn"'
    config = containerd_config(
        version,
        containerd_oom_score=-500,
        containerd_restrict_oom_score_adj=True,
        containerd_systemd_cgroup=False,
        containerd_settings=more,
    )
    assert config["oom_score"] == -500
    assert config["debug"] == {"level": "warn"}
    assert config["plugins"][RUNTIME[version]]["restrict_oom_score_adj"] is True
    for runtime in config["plugins"][RUNTIME[version]]["containerd"]["runtimes"].values():
        assert runtime["options"]["SystemdCgroup"] is False


def test_containerd_that_is_not_installed_yet_counts_as_the_requested_version() -> None:
    assert containerd_config("")["version"] == 3
    assert containerd_config("", containerd_packages={"containerd": "1.7.*"})["version"] == 2
    assert containerd_config("", containerd_packages={"containerd": ""})["version"] == 3


def test_registry_with_mirror_and_own_certificate() -> None:
    item = {
        "name": "docker.io",
        "server": "https://registry-1.docker.io",
        "ca": "PEM",
        "mirrors": [{"url": "https://mirror.example/v2/docker", "override_path": True}, {"url": "http://plain:5000"}],
    }
    hosts = tomllib.loads(rendered("containerd", "hosts.toml.j2", item=item))
    assert hosts["server"] == "https://registry-1.docker.io"
    first, second = hosts["host"]["https://mirror.example/v2/docker"], hosts["host"]["http://plain:5000"]
    assert first == {
        "capabilities": ["pull", "resolve"], "ca": "/etc/containerd/certs.d/docker.io/ca.crt", "override_path": True
    }  # fmt: skip
    assert "override_path" not in second


DEFAULT = {
    "1.6": '    sandbox_image = "registry.k8s.io/pause:3.6"\n',
    "2.2": "[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = 'registry.k8s.io/pause:3.10.1'\n",
}


@pytest.mark.parametrize(("version", "tag"), [("1.6", "3.6"), ("2.2", "3.10.1")])
def test_a_mirror_serves_the_sandbox_image_as_well(version: str, tag: str) -> None:
    default = {"stdout": f"version = 3\n{DEFAULT[version]}"}

    def image(**settings: Any) -> str:
        return str(
            value("containerd", "__containerd_values", __containerd_default=default, **settings)["sandbox_image"]
        )

    assert image(kubernetes_image_repository="mirror.example:5000/k8s") == f"mirror.example:5000/k8s/pause:{tag}"
    mirrored = {"kubernetes_image_repository": "mirror.example", "containerd_sandbox_image": "mine/pause:1"}
    assert image(**mirrored) == "mine/pause:1"
    assert value("containerd", "__containerd_image_repository", kubernetes_image_repository="registry.k8s.io") == ""
    assert value("containerd", "__containerd_image_repository") == ""
    dump = {"stdout": default["stdout"].replace("registry.k8s.io", "mirror.example:5000/k8s")}
    pulled = value("kubernetes", "__kubernetes_sandbox_image", __kubernetes_containerd=dump)
    assert pulled == f"mirror.example:5000/k8s/pause:{tag}"


@pytest.mark.parametrize(
    ("mirrors", "plain"),
    [
        (["http://mirror.example:5000"], ["http://mirror.example:5000"]),
        (["http://mirror.example:5000/v2"], ["http://mirror.example:5000/v2"]),
        (["https://mirror.example:5000", "http://mirror.example:50001", "http://other"], []),
    ],
)
def test_a_registry_of_plain_http_without_server_is_noticed(mirrors: list[str], plain: list[str]) -> None:
    item = {"name": "mirror.example:5000", "mirrors": [{"url": url} for url in mirrors]}
    assert value("containerd", "__containerd_plain", item=item) == plain


def test_unit_drop_in_repeats_a_setting_that_has_several_values() -> None:
    text = rendered(
        "containerd", "unit.conf.j2", containerd_unit={"Service": {"ExecStartPre": ["", "/bin/true"], "LimitCORE": 0}}
    )
    assert text.splitlines()[1:] == ["[Service]", "ExecStartPre=", "ExecStartPre=/bin/true", "LimitCORE=0"]


def init(**variables: Any) -> dict[str, Any]:
    package = {"versions": {"kubeadm": "1.36.1-1.1"}, "changed": False}
    documents = value("kubernetes", "__kubernetes_init_documents", "jw1", __kubernetes_package=package, **variables)
    return {document["kind"]: document for document in documents}


def test_kubeadm_configuration_of_an_ordinary_site() -> None:
    configuration = init()
    assert list(configuration) == [
        "InitConfiguration",
        "ClusterConfiguration",
        "KubeletConfiguration",
        "KubeProxyConfiguration",
    ]
    assert {configuration[kind]["apiVersion"] for kind in list(configuration)[:2]} == {"kubeadm.k8s.io/v1beta4"}
    assert configuration["InitConfiguration"]["localAPIEndpoint"] == {
        "advertiseAddress": "192.0.2.11",
        "bindPort": 6443,
    }
    assert configuration["InitConfiguration"]["skipPhases"] == []
    assert configuration["ClusterConfiguration"]["kubernetesVersion"] == "v1.36.1"
    assert configuration["ClusterConfiguration"]["controlPlaneEndpoint"] == "192.0.2.11:6443"
    assert configuration["ClusterConfiguration"]["imageRepository"] == "registry.k8s.io"
    assert configuration["KubeletConfiguration"]["cgroupDriver"] == "systemd"


def test_kubeadm_configuration_can_be_reached_everywhere() -> None:
    configuration = init(
        kubernetes_image_repository="mirror.example/k8s",
        kubernetes_image_pull_policy="Never",
        kubernetes_skipped_phases=["addon/kube-proxy"],
        kubernetes_cluster_config={"apiServer": {"certSANs": ["vip"]}, "networking": {"dnsDomain": "x.local"}},
        kubernetes_init_config={"nodeRegistration": {"taints": []}},
        kubernetes_proxy_config={"mode": "nftables"},
        kubernetes_patches={"kube-apiserver0+merge.yaml": "{}"},
        kubernetes_kubelet_config={"failCgroupV1": False, "cgroupDriver": "cgroupfs", "enforceNodeAllocatable": []},
    )
    node = configuration["InitConfiguration"]["nodeRegistration"]
    assert (node["name"], node["imagePullPolicy"], node["taints"]) == ("jw1", "Never", [])
    assert configuration["InitConfiguration"]["skipPhases"] == ["addon/kube-proxy"]
    assert configuration["InitConfiguration"]["patches"]["directory"].endswith("/patches")
    assert configuration["ClusterConfiguration"]["imageRepository"] == "mirror.example/k8s"
    assert configuration["ClusterConfiguration"]["networking"]["podSubnet"] == "10.244.0.0/16"
    assert configuration["ClusterConfiguration"]["networking"]["dnsDomain"] == "x.local"
    assert configuration["KubeletConfiguration"]["failCgroupV1"] is False
    assert configuration["KubeletConfiguration"]["cgroupDriver"] == "cgroupfs"
    assert configuration["KubeletConfiguration"]["enforceNodeAllocatable"] == []
    assert configuration["KubeProxyConfiguration"]["mode"] == "nftables"


def test_an_upgrade_keeps_the_patches() -> None:
    assert value("kubernetes", "__kubernetes_patch_flags") == []
    (flag,) = value("kubernetes", "__kubernetes_patch_flags", kubernetes_patches={"kube-apiserver0+merge.yaml": "{}"})
    assert flag == f"--patches={init(kubernetes_patches={'x': ''})['InitConfiguration']['patches']['directory']}"


@pytest.mark.parametrize(
    ("skipped", "flags", "ignored"),
    [
        ([], [], []),
        (["addon/kube-proxy", "mark-control-plane"], ["--skip-phases=addon/kube-proxy"], []),
        (["addon/coredns"], ["--skip-phases=addon/coredns"], ["CoreDNSUnsupportedPlugins", "CoreDNSMigration"]),
        (["addon"], ["--skip-phases=addon"], ["CoreDNSUnsupportedPlugins", "CoreDNSMigration"]),
    ],
)
def test_an_upgrade_leaves_out_the_addons_that_the_cluster_was_made_without(
    skipped: list[str], flags: list[str], ignored: list[str]
) -> None:
    arguments = [f"upgrade apply v1.36.1 --yes {' '.join(flags)}".strip(), "Swap", *ignored]
    assert upgrade(kubernetes_skipped_phases=skipped) == arguments
    # kubeadm's configuration decides, whichever variable says so.
    assert upgrade(kubernetes_init_config={"skipPhases": skipped}) == arguments
    assert upgrade(kubernetes_skipped_phases=["addon"], kubernetes_init_config={"skipPhases": skipped}) == arguments
    assert upgrade(kubernetes_init_config={"skipPhases": None}) == upgrade()


def upgrade(**variables: Any) -> list[str]:
    """The arguments of kubeadm, and the preflight errors that it ignores, as the task of the role renders them."""
    tasks = yaml.safe_load((ROLES / "kubernetes/tasks/upgrade_node.yml").read_text())
    (task,) = [task for task in tasks if task["name"] == "Upgrade the control plane"]
    package = {"versions": {"kubeadm": "1.36.1-1.1"}, "changed": False}
    given = {"__kubernetes_package": package, "kubernetes_ignored_preflight_errors": ["Swap"], **variables}
    words, ignored = (
        templar("kubernetes", "jw1", **given).template(trust_as_template(task["mlperf_kubeadm"][name]))
        for name in ("arguments", "ignored_errors")
    )
    return [" ".join(words), *ignored]


def test_worker_joins_with_what_the_control_plane_printed() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    printed = f"kubeadm join 192.0.2.11:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash {digest} \n"
    configuration = value(
        "kubernetes",
        "__kubernetes_join_document",
        __kubernetes_token={"stdout": printed},
        kubernetes_join_config={"dryRun": True},
    )
    assert configuration["discovery"]["bootstrapToken"] == {
        "apiServerEndpoint": "192.0.2.11:6443", "token": "abcdef.0123456789abcdef", "caCertHashes": [digest]
    }  # fmt: skip
    assert configuration["nodeRegistration"]["name"] == "jw2"
    assert configuration["dryRun"] is True


@pytest.mark.parametrize(("version", "pattern"), [("1.36", "1.36.*"), ("1.36.1", "1.36.1-*")])
def test_one_version_pins_every_package_and_the_repository(version: str, pattern: str) -> None:
    packages = value("kubernetes", "kubernetes_packages", kubernetes_version=version)
    assert packages == {"kubeadm": pattern, "kubectl": pattern, "kubelet": pattern}
    assert "/v1.36/" in value("kubernetes", "kubernetes_repository", kubernetes_version=version)


def test_calico_gets_the_pod_network_of_the_cluster() -> None:
    (installation,) = value("calico", "__calico_objects", kubernetes_pod_network="10.50.0.0/16")
    assert (installation["apiVersion"], installation["kind"], installation["metadata"]["name"]) == (
        "operator.tigera.io/v1",
        "Installation",
        "default",
    )
    (pool,) = installation["spec"]["calicoNetwork"]["ipPools"]
    assert pool["cidr"] == "10.50.0.0/16"
    # What the operator would write into the pool, so that applying it again changes nothing.
    assert {key: pool[key] for key in ("allowedUses", "assignmentMode", "blockSize")} == {
        "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic", "blockSize": 26,
    }  # fmt: skip
    assert pool["disableBGPExport"] is pool["disableNewAllocations"] is False
    assert "registry" not in installation["spec"]
    (installation,) = value("calico", "__calico_objects", calico_registry="mirror.example/", calico_mtu=1400,
                    calico_installation={"calicoNetwork": {"bgp": "Disabled"}})  # fmt: skip
    assert installation["spec"]["registry"] == "mirror.example/"
    assert installation["spec"]["calicoNetwork"]["mtu"] == 1400
    assert installation["spec"]["calicoNetwork"]["bgp"] == "Disabled"
    assert installation["spec"]["calicoNetwork"]["ipPools"]
