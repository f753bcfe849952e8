"""site.yml and its parts over SSH, from bare hosts to a cluster and back; each test continues where the last ended."""

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import base, hosts, images
from tests.hosts.conftest import Play, until
from tests.hosts.layout import ADDRESSES, CARD, FOLDER, GPU_HOSTS, HOSTS, REPOSITORY, SANDBOX, WEB

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("hosts")]

# What changes on a host that is only logged in to.
RESTLESS = (
    "var/log/",
    "var/tmp/",
    "var/lib/systemd/",
    "var/lib/private/",
    "tmp/",
    "run/",
    "home/admin/.ansible/",
    "root/.ansible/",
)
NODE_IMAGE = "localhost/mlperf-node:standin"
OLDER, NEWER = "580.95.05", "580.105.08"
CONFIGURED = "configured"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def settings(booted: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Extra variables of site.yml: a node image in an archive, the sandbox as weights and data set."""
    hosts.fresh()
    archive = tmp_path_factory.mktemp("image") / "node.tar"
    model = {file.name: sha256(file) for file in sorted((SANDBOX / "model").iterdir())}
    return {
        "kubernetes_version": "1.36.0",
        "images_mode": "archive",
        "images_size_gb": 1,
        "images_archive": str(archive),
        "images_archive_sha256": images.write(archive, NODE_IMAGE),
        "images_reference": NODE_IMAGE,
        "monitoring_enabled": True,
        "monitoring_operator": False,
        "monitoring_textfile": "/var/lib/node-exporter/gpu.prom",
        "assets_model_source": str(SANDBOX / "model"),
        "assets_model_files": model,
        "assets_dataset_source": str(SANDBOX),
        "assets_dataset_files": {"cnn_eval.json": sha256(SANDBOX / "cnn_eval.json")},
    }


def snapshot(name: str) -> dict[str, tuple[int, int, int]]:
    """What a host has changed on its base: mode, size and time of change of every file."""
    upper = FOLDER / "hosts" / name / "upper"
    files = {}
    for path in upper.rglob("*"):
        place = str(path.relative_to(upper))
        if not path.is_dir() and not place.startswith(RESTLESS):
            about = path.lstat()
            files[place] = (about.st_mode, about.st_size if stat.S_ISREG(about.st_mode) else 0, about.st_mtime_ns)
    return files


def nodes() -> dict[str, dict[str, Any]]:
    """The cluster's nodes by name."""
    listed = json.loads(hosts.run("jw1", "sudo kubectl --kubeconfig=/etc/kubernetes/admin.conf get nodes -o json"))
    return {node["metadata"]["name"]: node for node in listed["items"]}


def calls(name: str, command: str) -> list[list[str]]:
    """Arguments of every call of a stand-in on a host."""
    lines = hosts.run(name, "sudo cat /var/log/standins.log").splitlines()
    return [entry["arguments"] for entry in map(json.loads, lines) if entry["command"] == command]


def versions() -> set[str]:
    """Versions of all kubelets."""
    return {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes().values()}


def closings() -> list[tuple[str, str]]:
    """Which node was drained and opened, in order, since jw1 was reset."""
    return [
        (verb, name)
        for words in calls("jw1", "kubectl")
        for verb in ("drain", "uncordon")
        for name in HOSTS
        if verb in words and name in words
    ]


@contextmanager
def broken(name: str, spoil: str, mend: str) -> Iterator[None]:
    """Break something on a host within the context."""
    hosts.run(name, spoil)
    try:
        yield
    finally:
        hosts.run(name, mend)


def unharmed(play: Play, *names: str) -> bool:
    """Whether nothing failed and nothing was changed on these hosts."""
    counts = play.counts()
    return all(counts[name].failed == counts[name].changed == counts[name].unreachable == 0 for name in names)


def test_check_on_bare_hosts_ends_well_and_touches_nothing(play: Play, settings: dict[str, Any]) -> None:
    # The first login and the first sudo write some files of their own.
    for name in HOSTS:
        hosts.run(name, "sudo true")
    assert play.run("playbooks/doctor.yml", doctor_file=str(play.folder / "doctor.json")) in (0, 2), play.output()
    before = {name: snapshot(name) for name in HOSTS}
    assert play.run("site.yml", "--check", **settings) == 0, play.output()
    assert all(count > 0 for count in play.changed().values())
    assert "would" in play.output()
    for name in HOSTS:
        touched = {place for place, _ in snapshot(name).items() ^ before[name].items()}
        assert touched == set(), name


def test_bare_hosts_become_a_cluster(play: Play, settings: dict[str, Any]) -> None:
    assert play.run("site.yml", timeout_s=900, **settings) == 0, play.output()
    print(f"site.yml from bare: {play.seconds:.0f} s")
    by_name = nodes()
    assert set(by_name) == set(HOSTS)
    for name in HOSTS:
        (ready,) = (one for one in by_name[name]["status"]["conditions"] if one["type"] == "Ready")
        assert ready["status"] == "True", ready
        assert by_name[name]["status"]["allocatable"].get("nvidia.com/gpu", "0") == ("1" if name in GPU_HOSTS else "0")
    assert versions() == {"v1.36.0"}
    assert hosts.run("jw1", "stat -c %a .kube/config").strip() == "600"
    assert "64040" in hosts.run("jw2", "id mlperf")
    assert "mlperf" in hosts.run("jw2", "id -nG")
    until(
        lambda: "mlperf_gpu_power_watts" in hosts.run("jw3", "cat /var/lib/node-exporter/gpu.prom"), "GPU figures", 20
    )


def test_no_token_is_printed_or_left(play: Play, settings: dict[str, Any]) -> None:
    for name in GPU_HOSTS:
        assert [words[0] for words in calls(name, "kubeadm") if words[0] == "join"] == ["join"]
        assert hosts.ssh(name, "sudo ls /etc/kubernetes/mlperf/join.yaml").returncode != 0
        log = hosts.run(name, "sudo cat /var/log/mlperf-kubeadm.log")
        assert "--token" not in log
    assert all("--token" not in word for words in calls("jw1", "kubeadm") for word in words)


def test_nothing_changes_after_a_reboot(play: Play, settings: dict[str, Any]) -> None:
    hosts.save(CONFIGURED)
    assert play.run("site.yml", **settings) == 0, play.output()
    print(f"site.yml unchanged: {play.seconds:.0f} s")
    assert play.changed() == dict.fromkeys(play.changed(), 0), play.output()


def test_each_roles_tag_works_alone(play: Play, settings: dict[str, Any]) -> None:
    for tag in ("node", "containerd", "kubernetes", "calico", "nvidia", "namespace", "images", "assets", "monitoring"):
        assert play.run("site.yml", "--tags", tag, **settings) == 0, play.output()
        assert f"[{tag} : " in play.output()
        assert play.changed() == dict.fromkeys(play.changed(), 0), play.output()


def test_check_on_configured_hosts_is_exact(play: Play, settings: dict[str, Any]) -> None:
    assert play.run("site.yml", "--check", "--diff", **settings) == 0, play.output()
    assert play.changed() == dict.fromkeys(play.changed(), 0), play.output()
    hosts.run("jw2", "sudo sysctl -w net.ipv4.ip_forward=0; sudo rm /etc/security/limits.d/90-mlperf.conf")
    assert play.run("playbooks/cluster.yml", "--check", "--diff", "--tags", "node", **settings) == 0, play.output()
    assert play.changed()["jw2"] == 2, play.output()
    assert unharmed(play, "jw1", "jw3")
    assert "+* hard nofile 1048576" in play.output()
    assert play.run("playbooks/cluster.yml", "--tags", "node", **settings) == 0, play.output()
    assert play.changed() == {"jw1": 0, "jw2": 2, "jw3": 0}


# Goes the way of container/Containerfile, which takes gigabytes and minutes, in seconds.
RECIPE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG ENGINE
COPY harness /opt/harness
LABEL engine="${ENGINE}"
"""


STORAGE = """[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""
# Debian's own asks for a password.
REGISTRY = """version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/docker-registry
http:
  addr: :5000
"""


def node_image(name: str) -> dict[str, str]:
    """Reference and digest of the node image that a host has, as containerd lists it."""
    noted: dict[str, str] = json.loads(hosts.run(name, "cat /var/lib/mlperf-images/node.json"))
    listed = [line.split() for line in hosts.run(name, "sudo ctr -n k8s.io images list").splitlines()]
    assert [noted["digest"] in words for words in listed if words[0] == noted["reference"]] == [True]
    return noted


@pytest.fixture(scope="module")
def build(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Extra variables with which the node image is built on jw1."""
    folder = tmp_path_factory.mktemp("build")
    recipe = folder / "Containerfile"
    recipe.write_text(RECIPE)
    # buildah cannot lay an overlay on the overlay that these hosts' disks are.
    write = "sudo mkdir -p /etc/containers; sudo tee /etc/containers/storage.conf"
    hosts.run("jw1", f"printf '{STORAGE}' | ({write})")
    return {
        **settings,
        "images_mode": "build",
        "images_reference": "",
        "images_base": "scratch",
        "images_containerfile": str(recipe),
        "images_staging": str(folder / "staging"),
    }


def test_node_image_is_built_once_and_copied_to_all(play: Play, build: dict[str, Any]) -> None:
    assert play.run("playbooks/images.yml", "--check", **build) == 0, play.output()
    assert "would build" in play.output()
    assert play.run("playbooks/images.yml", **build) == 0, play.output()
    node_images = [node_image(name) for name in HOSTS]
    assert node_images == [node_images[0]] * len(HOSTS)
    assert play.run("playbooks/images.yml", **build) == 0, play.output()
    assert play.changed() == dict.fromkeys(HOSTS, 0), play.output()
    # Another recipe is another image under another name. A host that lost its image gets it back; no other is touched.
    Path(build["images_containerfile"]).write_text(RECIPE + 'LABEL edition="second"\n')
    assert play.run("playbooks/images.yml", **build) == 0, play.output()
    assert node_image("jw2")["reference"] != node_images[0]["reference"]
    hosts.run("jw3", f"sudo ctr -n k8s.io images rm {node_image('jw3')['reference']}")
    assert play.run("playbooks/images.yml", **build) == 0, play.output()
    assert play.changed()["jw3"] > 0
    assert unharmed(play, "jw1", "jw2")


def test_node_image_is_pushed_once_and_pulled_by_digest(play: Play, build: dict[str, Any]) -> None:
    registry = f"{ADDRESSES['jw1']}:5000"
    hosts.run("jw1", "sudo apt-get install -y -q docker-registry", timeout_s=180)
    hosts.run("jw1", f"printf '{REGISTRY}' | sudo tee /etc/docker/registry/config.yml")
    hosts.run("jw1", "sudo systemctl restart docker-registry")
    mirrors = [{"name": registry, "server": f"http://{registry}", "mirrors": [{"url": f"http://{registry}"}]}]
    words = ("playbooks/cluster.yml", "--tags", "containerd")
    assert play.run(*words, **build, containerd_registries=mirrors) == 0, play.output()
    push = {**build, "images_registry": f"{registry}/mlperf", "images_push_options": ["--tls-verify=false"]}
    assert play.run("playbooks/images.yml", **push) == 0, play.output()
    node_images = [node_image(name) for name in HOSTS]
    assert node_images == [node_images[0]] * len(HOSTS)
    assert node_images[0]["reference"] == f"{registry}/mlperf/mlperf-node@{node_images[0]['digest']}"
    assert play.run("playbooks/images.yml", **push) == 0, play.output()
    assert play.changed() == dict.fromkeys(HOSTS, 0), play.output()
    hosts.fresh(*HOSTS, label=CONFIGURED)


def test_doctor_names_the_slower_node(play: Play, settings: dict[str, Any]) -> None:
    file = play.folder / "doctor.json"
    assert play.run("playbooks/doctor.yml", doctor_file=str(file)) == 2, play.output()
    report = json.loads(file.read_text())
    assert set(report["nodes"]) == set(HOSTS)
    with broken("jw3", f"echo 120.00 | sudo tee '{CARD}/power.limit'", f"sudo rm '{CARD}/power.limit'"):
        assert play.run("playbooks/doctor.yml", doctor_file=str(file)) == 2, play.output()
        assert "jw3" in play.unwrapped()
        assert "120" in play.unwrapped()


def test_differing_drivers_are_refused_and_made_equal_node_by_node(play: Play, settings: dict[str, Any]) -> None:
    names = ("nvidia-open-580", "nvidia-kernel-open-dkms", "nvidia-smi", "nvidia-persistenced")
    older = " ".join(f"{name}={OLDER}-1" for name in names)
    hosts.run("jw3", f"sudo apt-get install -y -q --allow-downgrades --allow-change-held-packages {older}")
    assert play.run("playbooks/gpu.yml", **settings) == 2, play.output()
    assert f"jw2 has {NEWER}" in play.unwrapped()
    assert f"jw3 has {OLDER}" in play.unwrapped()
    assert play.changed() == {"jw2": 0, "jw3": 0}
    # One variable brings both to the same, and pins it on both. Neither has it loaded: each is rebooted, in its turn.
    loaded, note = "/run/mlperf-standins/nvidia-version", "/etc/kubernetes/mlperf-reboot"
    booted = {}
    for name in GPU_HOSTS:
        hosts.run(name, f"echo {OLDER} | sudo tee {loaded}")
        booted[name] = hosts.run(name, "cat /proc/sys/kernel/random/boot_id")
    same = {**settings, "nvidia_driver_version": NEWER}
    assert play.run("playbooks/gpu.yml", timeout_s=600, **same) == 0, play.output()
    for name in GPU_HOSTS:
        assert hosts.run(name, f"cat {loaded}").split()[-1] == NEWER
        assert hosts.run(name, "cat /proc/sys/kernel/random/boot_id") != booted[name]
    # One after the other, whichever is first.
    orders = (GPU_HOSTS, GPU_HOSTS[::-1])
    assert closings() in [[(step, name) for name in order for step in ("drain", "uncordon")] for order in orders]
    # A run that was cut has left jw3 closed; the operator has closed jw2, which stays so.
    hosts.run("jw3", f"sudo touch {note}")
    kubectl = "sudo kubectl --kubeconfig=/etc/kubernetes/admin.conf"
    hosts.run("jw1", f"{kubectl} cordon jw2; {kubectl} cordon jw3")
    assert play.run("playbooks/gpu.yml", **same) == 0, play.output()
    assert play.changed() == {"jw2": 0, "jw3": 2}
    assert [nodes()[name]["spec"].get("unschedulable", False) for name in GPU_HOSTS] == [True, False]
    hosts.run("jw1", f"{kubectl} uncordon jw2")


def test_missing_gpu_is_refused(play: Play, settings: dict[str, Any]) -> None:
    with broken("jw3", f"sudo mv '{CARD}' /root/card", f"sudo mv /root/card '{CARD}'"):
        assert play.run("playbooks/gpu.yml", **settings) == 2, play.output()
        assert "jw3 is in gpu_nodes and has no NVIDIA GPU" in play.unwrapped()
        assert unharmed(play, "jw2")


def test_unsupported_system_is_refused(play: Play, settings: dict[str, Any]) -> None:
    file, copy = "/usr/lib/os-release", "/root/os-release"
    other = "s/Debian/Devuan/; s/^ID=.*/ID=devuan/; s/^VERSION_ID=.*/VERSION_ID=11/"
    with broken("jw3", f"sudo cp {file} {copy}; sudo sed -i '{other}' {file}", f"sudo cp {copy} {file}"):
        assert play.run("playbooks/cluster.yml", **settings) == 2, play.output()
        assert "jw3 runs" in play.unwrapped()
        assert "take the host out of the inventory" in play.unwrapped()
        assert unharmed(play, "jw1", "jw2")


def test_a_processor_without_pinned_packages_is_refused(play: Play, settings: dict[str, Any]) -> None:
    assert play.run("playbooks/cluster.yml", **settings, node_architectures=["riscv64"]) == 2, play.output()
    for name in HOSTS:
        assert (
            f"{name} is x86_64, and the packages, images and wheels named by default are for riscv64"
            in play.unwrapped()
        )
    assert play.changed() == dict.fromkeys(HOSTS, 0)


def test_monitoring_without_credentials_is_refused(play: Play, settings: dict[str, Any]) -> None:
    assert play.run("playbooks/monitoring.yml", **settings, monitoring_kubeconfig="/root/elsewhere") == 2, play.output()
    assert "monitoring_kubeconfig = '/root/elsewhere' is not on jw1" in play.unwrapped()
    assert sum(play.changed().values()) == 0


def test_wrong_checksum_is_refused(play: Play, settings: dict[str, Any]) -> None:
    manifests = [{"url": f"{WEB}/calico/tigera-operator.yaml", "sha256": "0" * 64}]
    words = ("playbooks/cluster.yml", "--tags", "calico")
    assert play.run(*words, calico_manifests=manifests, **settings) == 2, play.output()
    assert "did not match" in play.unwrapped()
    assert play.counts()["jw1"].changed == 0


def test_full_disk_fails_its_host_alone(play: Play, settings: dict[str, Any]) -> None:
    folder = "/var/lib/mlperf/dataset"
    with broken("jw3", f"sudo mount -t tmpfs -o size=1m tmpfs {folder}", f"sudo umount {folder}"):
        assert play.run("playbooks/assets.yml", **settings) == 2, play.output()
        message = rf"{folder} has 1\.00 MB free, and 1 files of the asset dataset need \d\.\d\d MB more"
        assert re.search(message, play.unwrapped())
        assert play.counts()["jw3"].failed == 1
        assert unharmed(play, "jw1", "jw2")


def test_unreachable_host_does_not_stop_the_others(play: Play, settings: dict[str, Any]) -> None:
    hosts.ask("off", "jw3")
    try:
        assert play.run("playbooks/doctor.yml", doctor_file=str(play.folder / "doctor.json")) == 4, play.output()
        assert play.run("playbooks/cluster.yml", "--tags", "node,containerd", **settings) == 4, play.output()
        assert play.counts()["jw3"].unreachable == 1
        assert unharmed(play, "jw1", "jw2")
    finally:
        hosts.ask("on", "jw3")
        hosts.wait("jw3")


def test_an_interrupted_run_is_resumed(play: Play, settings: dict[str, Any]) -> None:
    assert play.run("playbooks/reset.yml", "--limit", "jw3", confirm="yes", **settings) == 0, play.output()
    play.start("playbooks/cluster.yml", **settings)
    # In the middle of a package.
    until(lambda: hosts.ssh("jw3", "test -e /usr/bin/containerd").returncode == 0, "containerd's files")
    play.end()
    assert "PLAY RECAP" not in play.output() or set(nodes()) == {"jw1", "jw2"}
    assert play.run("playbooks/cluster.yml", **settings) == 0, play.output()
    assert set(nodes()) == set(HOSTS)


def test_a_failing_join_leaves_the_others_and_can_be_repeated(play: Play, settings: dict[str, Any]) -> None:
    assert play.run("playbooks/reset.yml", "--limit", "jw3", confirm="yes", **settings) == 0, play.output()
    assert set(nodes()) == {"jw1", "jw2"}
    mark = "/etc/mlperf-standins/fail-join"
    with broken("jw3", f"sudo mkdir -p /etc/mlperf-standins; sudo touch {mark}", f"sudo rm {mark}"):
        assert play.run("playbooks/cluster.yml", **settings) == 2, play.output()
        assert "kubeadm join failed" in play.unwrapped()
        assert "timed out waiting for the condition" in play.unwrapped()
        assert play.counts()["jw3"].failed == 1
        assert play.counts()["jw2"].failed == play.counts()["jw2"].changed == 0
    assert play.run("playbooks/cluster.yml", **settings) == 0, play.output()
    assert set(nodes()) == set(HOSTS)


def test_upgrade_drains_one_node_after_the_other(play: Play, settings: dict[str, Any]) -> None:
    newer = {**settings, "kubernetes_version": "1.36.1"}
    assert play.run("playbooks/upgrade.yml", timeout_s=600, **newer) == 0, play.output()
    assert versions() == {"v1.36.1"}
    assert not any(node["spec"].get("unschedulable") for node in nodes().values())
    assert closings()[-4:] == [("drain", "jw2"), ("uncordon", "jw2"), ("drain", "jw3"), ("uncordon", "jw3")]
    assert play.run("playbooks/upgrade.yml", **newer) == 0, play.output()
    assert play.changed() == dict.fromkeys(HOSTS, 0)


def test_reset_asks_and_removes_the_cluster(play: Play, settings: dict[str, Any]) -> None:
    assert play.run("playbooks/reset.yml", confirm="no", **settings) == 2
    assert set(nodes()) == set(HOSTS)
    assert play.run("playbooks/reset.yml", confirm="yes", **settings) == 0, play.output()
    for name in HOSTS:
        listing = "ls -d /etc/kubernetes /var/lib/kubelet /var/lib/etcd /etc/containerd /usr/bin/kubeadm 2>/dev/null"
        assert hosts.ssh(name, listing).stdout == ""
    assert play.run("playbooks/reset.yml", confirm="yes", **settings) == 0, play.output()
    assert play.changed() == dict.fromkeys(HOSTS, 0), play.output()


def wheels(folder: Path) -> dict[str, Any]:
    """Extra variables with which the harness is installed from the bundle: all is real but the engines."""
    requirements = folder / "requirements"
    shutil.copytree(REPOSITORY / "requirements", requirements)
    pins = re.split(r"^(?=\S)", (requirements / "engine-cuda.txt").read_text(), flags=re.MULTILINE)
    small = next(pin for pin in pins if pin.startswith("setuptools=="))
    for name in ("engine-cuda.txt", "engine-cpu.txt", "torch-cpu.txt"):
        (requirements / name).write_text(small)
    return {
        "__bundle_source": str(folder),
        "__harness_requirements": str(requirements),
        "bundle_python": "3.11",
        "harness_install": True,
        "harness_env": "/var/lib/mlperf/env",
    }


def test_installing_and_upgrading_from_a_bundle_need_no_network(play: Play, settings: dict[str, Any]) -> None:
    bundle = play.folder / "bundle"
    kubernetes, operator = "registry.k8s.io/kube-apiserver:v1.36.0", "quay.io/tigera/operator:v1.0.0"
    gpu = ["nvcr.io/nvidia/k8s-device-plugin:v1", "nvcr.io/nvidia/k8s/dcgm-exporter:v1", "docker.io/nvidia/cuda:v1"]
    # No image can be pulled here: archives that are there already are taken as they are.
    for reference in (kubernetes, operator, *gpu):
        images.write(bundle / "images" / f"{reference.replace('/', '_').replace(':', '_')}.tar", reference)
    debian = [
        {"uri": one.uri, "suites": [one.suite], "components": ["main"], "key": one.keyring} for one in base.sources()
    ]
    driver = {"uri": f"{WEB}/nvidia/", "key": f"{WEB}/nvidia/Release.key"}
    variables = {
        **settings,
        "bundle": str(bundle),
        "bundle_for": ["debian-12"],
        "bundle_systems": {"debian-12": [*debian, driver]},
        "bundle_kubernetes_images": [kubernetes],
        "bundle_operator_version": "v1.0.0",
        "bundle_calico_parts": [],
        **wheels(play.folder),
        "bundle_node_image": settings["images_archive"],
        "bundle_node_reference": NODE_IMAGE,
        # What an engine compiles with is asked for where the harness is installed.
        "node_compilers": ["libc6-dev", "tcc", "python3-dev"],
        **dict(zip(("nvidia_device_plugin_image", "nvidia_exporter_image", "nvidia_proof_image"), gpu, strict=True)),
    }
    # Settings of the hosts that are those of the bundle too: localhost is none of the inventory's hosts.
    inventory = json.loads((FOLDER / "inventory" / "hosts.json").read_text())["all"]["hosts"]["jw2"]
    names = ("kubernetes_", "calico_", "nvidia_", "containerd_", "node_compilers")
    shared = {name: value for name, value in inventory.items() if name.startswith(names)}
    packages = {f"linux-headers-{base.platform.release()}": ""}
    words = {**shared, **variables, "bundle_packages": packages}
    assert play.run("playbooks/bundle.yml", timeout_s=600, **words) == 0, play.output()
    assert (bundle / "SHA256SUMS").exists()
    newer = {"bundle": str(play.folder / "newer"), "kubernetes_version": "1.36.1"}
    shutil.copytree(bundle, newer["bundle"])
    assert play.run("playbooks/bundle.yml", timeout_s=600, **words | newer) == 0, play.output()
    hosts.fresh()
    hosts.ask("cut")
    try:
        assert play.run("site.yml", timeout_s=900, **variables) == 0, play.output()
        print(f"site.yml from a bundle: {play.seconds:.0f} s")
        assert set(nodes()) == set(HOSTS)
        assert NODE_IMAGE in hosts.run("jw3", "sudo ctr -n k8s.io images list -q")
        for name in HOSTS:
            hosts.run(name, "/var/lib/mlperf/env/bin/python -c 'import harness'")
            assert "abbrev_types.txt" in hosts.run(name, "ls /var/lib/mlperf/env/share/punkt")
        # Taken once: no host compares or fetches any of it again.
        assert play.run("playbooks/cluster.yml", "--tags", "bundle", **variables) == 0, play.output()
        assert play.changed() == dict.fromkeys(HOSTS, 0), play.output()
        assert play.run("playbooks/upgrade.yml", timeout_s=600, **variables | newer) == 0, play.output()
        assert versions() == {"v1.36.1"}
        assert play.run("playbooks/reset.yml", confirm="yes", **variables) == 0, play.output()
        listing = (
            "ls -d /etc/apt/apt.conf.d/99mlperf-bundle /var/lib/mlperf-bundle /opt/cni /usr/bin/kubeadm 2>/dev/null"
        )
        assert [hosts.ssh(name, listing).stdout for name in HOSTS] == [""] * len(HOSTS)
    finally:
        hosts.ask("join")
