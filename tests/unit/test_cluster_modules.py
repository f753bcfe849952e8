"""Modules for cluster nodes: correct check mode, one call where nothing changes, no token in any output."""

import base64
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ansible_modules import Failed, call, load

TOKEN = "abcdef.0123456789abcdef"


class Commands:
    """Stand-ins of commands: they record their calls, and answer as set."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        patch.setenv("PATH", str(folder), prepend=":")

    def answer_by_kind(self, name: str, **by_kind: tuple[int, str, str]) -> None:
        self.answer(name, **by_kind)
        program = self.folder / name
        program.write_text(program.read_text().replace("sys.argv[1:] if", "sys.argv[3:] if"))

    def answer(self, name: str, **by_verb: tuple[int, str, str]) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(by_verb))
        program = self.folder / name
        program.write_text(
            textwrap.dedent(f"""\
                #!{sys.executable}
                import json, pathlib, sys
                here = pathlib.Path(__file__)
                verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
                stdin = sys.stdin.read() if "-" in sys.argv or "--set-selections" in sys.argv else ""
                with here.with_suffix(".calls").open("a") as stream:
                    stream.write(json.dumps([sys.argv[1:], stdin]) + "\\n")
                answers = json.loads(here.with_suffix(".json").read_text())
                code, out, err = answers.get(verb.replace("-", "_"), answers.get("other", [0, "", ""]))
                sys.stdout.write(out)
                sys.stderr.write(err)
                sys.exit(code)
                """)
        )
        program.chmod(0o755)

    def calls(self, name: str) -> list[tuple[list[str], str]]:
        file = self.folder / f"{name}.calls"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def verbs(self, name: str) -> list[str]:
        return [next(word for word in argv if not word.startswith("-")) for argv, _given in self.calls(name)]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Commands(folder, monkeypatch)


NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mlperf"}}
DIFFERENT = "diff -u -N /tmp/LIVE-1/v1.Namespace..mlperf /tmp/MERGED-2/v1.Namespace..mlperf\n--- /tmp/LIVE-1/v1.Namespace..mlperf\t2026\n+++ /tmp/MERGED-2/v1.Namespace..mlperf\t2026\n+a: 1\n"  # noqa: E501


def manifests(tmp_path: Path, **more: Any) -> dict[str, Any]:
    (tmp_path / "admin.conf").write_text("")
    return {"manifests": [NAMESPACE], "kubeconfig": str(tmp_path / "admin.conf"), **more}


def test_unchanged_objects_cost_one_call(commands: Commands, tmp_path: Path) -> None:
    commands.answer("kubectl", diff=(0, "", ""))
    assert call("mlperf_manifests", manifests(tmp_path))["changed"] is False
    ((argv, stdin),) = commands.calls("kubectl")
    assert argv[1:] == ["diff", "--server-side", "--force-conflicts", "--field-manager=mlperf", "--filename", "-"]
    assert json.loads(stdin)["items"] == [NAMESPACE]


@pytest.mark.parametrize("check", [True, False])
def test_objects_that_differ_are_shown_and_applied_unless_in_check_mode(
    commands: Commands, tmp_path: Path, check: bool
) -> None:
    commands.answer("kubectl", diff=(1, DIFFERENT, ""))
    result = call("mlperf_manifests", manifests(tmp_path), check=check)
    assert result["changed"] is True
    assert result["diff"]["prepared"] == "--- v1.Namespace..mlperf\n+++ v1.Namespace..mlperf\n+a: 1\n"
    assert commands.verbs("kubectl") == (["diff"] if check else ["diff", "apply"])


@pytest.mark.parametrize(
    "err",
    [
        'Error from server (NotFound): namespaces "mlperf" not found',
        'resource mapping not found: no matches for kind "X"',
    ],
)
def test_a_missing_namespace_or_kind_is_a_change(commands: Commands, tmp_path: Path, err: str) -> None:
    commands.answer("kubectl", diff=(2, "", err))
    assert call("mlperf_manifests", manifests(tmp_path), check=True)["changed"] is True


def test_an_unreachable_cluster_is_an_error_except_in_check_mode(commands: Commands, tmp_path: Path) -> None:
    commands.answer("kubectl", diff=(2, "", "The connection to the server 192.0.2.11:6443 was refused"))
    result = call("mlperf_manifests", manifests(tmp_path), check=True)
    assert (result["changed"], result["msg"][:21]) == (True, "would apply 1 objects")
    with pytest.raises(Failed, match="was refused"):
        call("mlperf_manifests", manifests(tmp_path))


def test_rejected_objects_are_an_error_also_in_check_mode(commands: Commands, tmp_path: Path) -> None:
    commands.answer("kubectl", diff=(2, "", "Error from server (Forbidden): no"))
    with pytest.raises(Failed, match="Forbidden"):
        call("mlperf_manifests", manifests(tmp_path), check=True)


def test_host_without_kubectl(tmp_path: Path) -> None:
    arguments = manifests(tmp_path, kubectl="no-such-kubectl")
    assert call("mlperf_manifests", arguments, check=True)["changed"] is True
    with pytest.raises(Failed, match="no-such-kubectl is not on this host"):
        call("mlperf_manifests", arguments)


def test_manifests_need_one_source(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="either manifests"):
        call("mlperf_manifests", {"src": "/x.yaml", **manifests(tmp_path)})


def dpkg_output(**packages: tuple[str, str]) -> tuple[int, str, str]:
    return 0, "".join(f"{name}\t{version}\t{want}\tinstalled\n" for name, (version, want) in packages.items()), ""


def test_unchanged_packages_cost_one_query(commands: Commands) -> None:
    commands.answer(
        "dpkg-query",
        other=dpkg_output(kubelet=("1.36.1-1.1", "hold")),
        kubelet=dpkg_output(kubelet=("1.36.1-1.1", "hold")),
    )
    commands.answer("apt-get")
    result = call("mlperf_packages", {"packages": {"kubelet": "1.36.*"}, "hold": True})
    assert (result["changed"], result["versions"]) == (False, {"kubelet": "1.36.1-1.1"})
    assert commands.calls("apt-get") == []


@pytest.mark.parametrize("installed", [{}, {"kubelet": ("1.35.9-1.1", "hold")}])
def test_a_missing_or_other_package_is_installed_at_its_version_and_held(
    commands: Commands, installed: dict[str, tuple[str, str]]
) -> None:
    commands.answer("dpkg-query", kubelet=dpkg_output(**installed))
    commands.answer("apt-get")
    commands.answer("dpkg")
    arguments = {"packages": {"kubelet": "1.36.*"}, "hold": True}
    checked = call("mlperf_packages", arguments, check=True)
    assert (checked["changed"], checked["pending"]) == (True, ["kubelet"])
    assert "kubelet 1.36.* (held)" in checked["diff"]["after"]
    assert commands.calls("apt-get") == commands.calls("dpkg") == []
    assert call("mlperf_packages", arguments)["changed"] is True
    ((apt, _given),) = commands.calls("apt-get")
    assert (apt[-1], "install" in apt) == ("kubelet=1.36.*", True)
    ((argv, selections),) = commands.calls("dpkg")
    assert (argv, selections.strip()) == (["--set-selections"], "kubelet hold")


def test_package_that_is_not_held_is_held_without_apt(commands: Commands) -> None:
    commands.answer("dpkg-query", kubelet=dpkg_output(kubelet=("1.36.1-1.1", "install")))
    commands.answer("apt-get")
    commands.answer("dpkg")
    assert call("mlperf_packages", {"packages": {"kubelet": "1.36.*"}, "hold": True})["changed"] is True
    assert commands.calls("apt-get") == []
    assert commands.calls("dpkg")[0][1].strip() == "kubelet hold"


def test_an_unavailable_package_is_reported_in_apts_words(commands: Commands) -> None:
    commands.answer("dpkg-query", kubelet=dpkg_output())
    commands.answer("apt-get", install=(100, "", "E: Version '1.99.*' for 'kubelet' was not found\n"))
    with pytest.raises(Failed, match=r"Version '1\.99\.\*' for 'kubelet' was not found"):
        call("mlperf_packages", {"packages": {"kubelet": "1.99.*"}})
    # Lists that are older than the repository say the same, so they are read anew before it is given up.
    assert commands.verbs("apt-get") == ["install", "update", "install"]


def test_an_interrupted_installation_is_configured_first(commands: Commands) -> None:
    err = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'\n"
    commands.answer("dpkg-query", kubelet=dpkg_output())
    commands.answer("dpkg")
    commands.answer("apt-get", install=(100, "", err))
    with pytest.raises(Failed, match="dpkg was interrupted"):
        call("mlperf_packages", {"packages": {"kubelet": ""}})
    assert [argv[-2:] for argv, _given in commands.calls("dpkg")] == [["--configure", "-a"]]
    assert commands.verbs("apt-get") == ["install", "install", "update", "install"]


def test_removed_packages_do_not_count_as_installed(commands: Commands) -> None:
    commands.answer("dpkg-query", kubelet=(0, "kubelet\t1.36.1-1.1\tdeinstall\tconfig-files\n", ""))
    assert call("mlperf_packages", {"packages": {"kubelet": ""}, "state": "absent"}, check=True)["changed"] is False
    assert call("mlperf_packages", {"packages": {"kubelet": ""}}, check=True)["changed"] is True


def kubeadm(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "arguments": ["init"],
        "creates": str(tmp_path / "done"),
        "log": str(tmp_path / "log" / "kubeadm.log"),
        **more,
    }


def test_kubeadm_runs_once_and_keeps_tokens_to_itself(commands: Commands, tmp_path: Path) -> None:
    commands.answer("kubeadm", init=(0, f"kubeadm join --token {TOKEN}\n", ""))
    assert call("mlperf_kubeadm", kubeadm(tmp_path), check=True)["changed"] is True
    assert commands.calls("kubeadm") == []
    assert [call("mlperf_kubeadm", kubeadm(tmp_path))["changed"] for _ in range(2)] == [True, False]
    assert len(commands.calls("kubeadm")) == 1
    log = tmp_path / "log" / "kubeadm.log"
    assert TOKEN not in log.read_text()
    assert "kubeadm join --token" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_kubeadm_that_fails_names_its_errors_and_can_be_run_again(commands: Commands, tmp_path: Path) -> None:
    err = f"[preflight] Some fatal errors occurred:\n\t[ERROR Port-10250]: Port 10250 is in use\ntoken {TOKEN}\n"
    commands.answer("kubeadm", init=(1, "", err))
    with pytest.raises(Failed, match="Port-10250: Port 10250 is in use") as failed:
        call("mlperf_kubeadm", kubeadm(tmp_path, ignored_errors=["Swap"], retry_errors=["Port-10250"]))
    assert TOKEN not in str(failed.value.result)
    assert not (tmp_path / "done").exists()
    assert commands.calls("kubeadm")[0][0] == ["init", "--ignore-preflight-errors=Swap"]


def test_remains_of_an_interrupted_run_are_tolerated(commands: Commands, tmp_path: Path) -> None:
    commands.answer("kubeadm")
    (tmp_path / "ca.crt").write_text("")
    call(
        "mlperf_kubeadm",
        kubeadm(
            tmp_path, partial_files=[str(tmp_path / "ca.crt")], ignored_errors=["Swap"], retry_errors=["Port-10250"]
        ),
    )
    assert commands.calls("kubeadm")[0][0] == ["init", "--ignore-preflight-errors=Swap,Port-10250"]


def node(name: str, ready: str, message: str = "", gpus: int = 0) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "message": message}]
    return {
        "metadata": {"name": name},
        "status": {"conditions": conditions, "allocatable": {"nvidia.com/gpu": str(gpus)}},
    }


def listed(*items: dict[str, Any]) -> tuple[int, str, str]:
    return 0, json.dumps({"items": items}), ""


def wait(tmp_path: Path, *names: str, **more: Any) -> dict[str, Any]:
    (tmp_path / "admin.conf").write_text("")
    return {"wait_for": list(names), "timeout_s": 0, "kubeconfig": str(tmp_path / "admin.conf"), **more}


def test_nodes_that_are_not_ready_are_named_with_their_message(commands: Commands, tmp_path: Path) -> None:
    commands.answer("kubectl", get=listed(node("jw1", "True"), node("jw2", "False", "cni plugin not initialized")))
    arguments = wait(tmp_path, "jw1", "jw2", "jw3")
    assert set(call("mlperf_k8s_nodes", arguments, check=True)["not_ready"]) == {"jw2", "jw3"}
    with pytest.raises(Failed, match=r"jw2: cni plugin not initialized; jw3: not a node of the cluster"):
        call("mlperf_k8s_nodes", arguments)
    assert call("mlperf_k8s_nodes", {**arguments, "wait_for": ["jw1"]})["nodes"]["jw1"]["ready"] is True


def test_nodes_without_gpu_and_jobs_that_failed_are_named(commands: Commands, tmp_path: Path) -> None:
    gpu = wait(tmp_path, "jw2", gpu_resource="nvidia.com/gpu", namespace="gpu-system")
    waiting = {"name": "plugin", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    pod = {"metadata": {"name": "plugin-1", "namespace": "gpu-system"}, "status": {"containerStatuses": [waiting]}}
    commands.answer_by_kind("kubectl", nodes=listed(node("jw2", "True")), pods=listed(pod))
    with pytest.raises(Failed, match=r"jw2: offers no nvidia.com/gpu.*; gpu-system/plugin-1 on no node: ImagePullB"):
        call("mlperf_k8s_nodes", gpu)
    job = {"metadata": {"name": "proof"}, "status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    commands.answer_by_kind("kubectl", nodes=listed(node("jw2", "True", gpus=1)), jobs=listed(job), pods=listed())
    assert call("mlperf_k8s_nodes", gpu)["not_ready"] == {}
    # A failed Job ends the wait at once.
    with pytest.raises(Failed, match="a Job failed: Job proof: failed"):
        call("mlperf_k8s_nodes", {**gpu, "jobs": ["proof"], "timeout_s": 600})
    lost = {"exitCode": 15, "reason": "Error", "message": "GPU0000:CA:00.0: GPU is lost.\nReboot the system\n"}
    pod["status"] = {"containerStatuses": [{"name": "nvidia-smi", "state": {"terminated": lost}}]}
    commands.answer_by_kind("kubectl", nodes=listed(node("jw2", "True", gpus=1)), jobs=listed(job), pods=listed(pod))
    with pytest.raises(
        Failed, match=r"proof: failed.*exit code 15 \(GPU0000:CA:00\.0: GPU is lost\. Reboot the system\)"
    ):
        call("mlperf_k8s_nodes", {**gpu, "jobs": ["proof"], "timeout_s": 600})
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    commands.answer_by_kind("kubectl", nodes=listed(node("jw2", "True", gpus=1)), jobs=listed(job))
    assert call("mlperf_k8s_nodes", {**gpu, "jobs": ["proof"]})["changed"] is False


def test_swap_is_commented_out_and_restored_exactly() -> None:
    swap = load("mlperf_swap")
    table = [
        "# swap was here",
        "UUID=1 / ext4 defaults 0 1",
        "/swap.img\tnone\tswap\tsw\t0\t0",
        "/dev/sdb none swap sw",
    ]
    without = swap.commented_out(table)
    assert [swap.is_swap(line) for line in table] == [False, False, True, True]
    assert not any(swap.is_swap(line) for line in without)
    assert swap.commented_out(without) == without
    assert swap.restored(without) == table


@pytest.fixture
def apt(tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of apt below a temporary one."""
    real = load

    def moved(name: str, kind: str = "modules") -> Any:
        module = real(name, kind)
        module.SOURCES, module.KEYRINGS = str(tmp_path / "sources"), str(tmp_path / "keyrings")
        return module

    monkeypatch.setattr("tests.unit.ansible_modules.load", moved)
    (tmp_path / "sources").mkdir()
    commands.answer("apt-get")
    return tmp_path


def test_a_repository_is_read_again_only_when_it_changed(apt: Path, commands: Commands) -> None:
    arguments = {"name": "k", "uri": "http://192.0.2.1/k/", "key": "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n-----END"}
    assert call("mlperf_apt_repository", arguments, check=True)["changed"] is True
    assert not list((apt / "sources").iterdir())
    assert [call("mlperf_apt_repository", arguments)["changed"] for _ in range(2)] == [True, False]
    text = (apt / "sources" / "k.sources").read_text()
    assert text == f"Types: deb\nURIs: http://192.0.2.1/k/\nSuites: /\nSigned-By: {apt}/keyrings/k.asc\n"
    assert call("mlperf_apt_repository", {**arguments, "uri": "http://192.0.2.2/k/"})["changed"] is True
    assert commands.verbs("apt-get") == ["update", "update"]
    assert call("mlperf_apt_repository", {"name": "k", "state": "absent"})["changed"] is True
    assert not (apt / "sources" / "k.sources").exists()


def test_key_of_an_address_is_fetched_once(apt: Path) -> None:
    (apt / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n")
    arguments = {"name": "k", "uri": "http://192.0.2.1/k/", "key": f"file://{apt}/key.asc"}
    assert call("mlperf_apt_repository", arguments)["changed"] is True
    (apt / "key.asc").unlink()
    assert call("mlperf_apt_repository", arguments)["changed"] is False
    with pytest.raises(Failed, match="cannot be read from file"):
        call("mlperf_apt_repository", {**arguments, "key": f"file://{apt}/other.asc"})


def test_a_binary_keyring_is_stored_as_armored_text(apt: Path) -> None:
    (apt / "binary.gpg").write_bytes(bytes(range(256)))
    arguments = {"name": "k", "uri": "http://192.0.2.1/k/", "key": f"{apt}/binary.gpg"}
    assert [call("mlperf_apt_repository", arguments)["changed"] for _ in range(2)] == [True, False]
    head, empty, *lines, tail = (apt / "keyrings" / "k.asc").read_text().splitlines()
    assert (head[:14], empty, tail[:12]) == ("-----BEGIN PGP", "", "-----END PGP")
    assert base64.b64decode("".join(lines)) == bytes(range(256))


def test_an_unreadable_repository_leaves_no_file(apt: Path, commands: Commands) -> None:
    commands.answer("apt-get", update=(100, "", "E: The repository is not signed.\n"))
    with pytest.raises(Failed, match="The repository is not signed"):
        call("mlperf_apt_repository", {"name": "k", "uri": "http://192.0.2.1/k/"})
    assert not list((apt / "sources").iterdir())


def test_text_that_is_not_a_key_is_refused(apt: Path) -> None:
    with pytest.raises(Failed, match="give an address"):
        call("mlperf_apt_repository", {"name": "k", "uri": "http://192.0.2.1/k/", "key": "pkgs.k8s.io/Release.key"})
