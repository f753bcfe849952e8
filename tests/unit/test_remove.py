"""Folders on a disk of their own are emptied, everything else is removed, and what others have mounted stays."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.ansible_modules import PLUGINS, call


def tree(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("etcd/member/db", "etcd/lost+found/x", "kubelet/pods/a/volume/answers.txt", "kubelet/pki/key"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "config").write_text("file")
    (folder / "link").symlink_to(folder / "kubelet")
    return folder


def arguments(folder: Path, *mounted: Path) -> dict[str, Any]:
    lines = [f"36 35 98:0 / {str(path).replace(' ', chr(92) + '040')} rw - ext4 /dev/sdb rw\n" for path in mounted]
    (folder / "mountinfo").write_text("".join(lines))
    names = ("etcd", "kubelet", "config", "link", "absent")
    return {"paths": [f"{folder}/{name}/" for name in names], "mounts": str(folder / "mountinfo")}


def test_everything_is_removed_once(tmp_path: Path) -> None:
    given = arguments(tree(tmp_path))
    assert call("mlperf_remove", given, check=True)["changed"] is True
    assert (tmp_path / "etcd/member/db").exists()
    result = call("mlperf_remove", given)
    assert [Path(path).name for path in result["removed"]] == ["etcd", "kubelet", "config", "link"]
    assert [path.name for path in tmp_path.iterdir()] == ["mountinfo"]
    assert call("mlperf_remove", given)["changed"] is False


def test_a_mount_point_is_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "a disk"
    given = arguments(tree(folder), folder / "etcd")
    result = call("mlperf_remove", given)
    assert (result["emptied"], "warnings" in result) == ([str(folder / "etcd")], False)
    assert list((folder / "etcd").iterdir()) == []
    assert "an empty mount point" in result["diff"]["after"]
    assert call("mlperf_remove", given)["changed"] is False


def test_what_is_mounted_below_stays_and_is_named(tmp_path: Path) -> None:
    volume = tmp_path / "kubelet/pods/a/volume"
    given = arguments(tree(tmp_path), volume)
    result = call("mlperf_remove", given)
    assert (volume / "answers.txt").exists() and not (tmp_path / "kubelet/pki").exists()
    assert any(str(volume) in warning for warning in result["warnings"])
    assert call("mlperf_remove", given)["changed"] is False


@pytest.mark.parametrize(
    ("role", "paths"), [("kubernetes", "/var/lib/etcd /var/lib/kubelet"), ("containerd", "/var/lib/containerd")]
)
def test_reset_of_both_roles_uses_it(role: str, paths: str) -> None:
    folder = PLUGINS.parent / "roles" / role
    tasks = yaml.safe_load((folder / "tasks/reset.yml").read_text())
    listed = str([task["mlperf_remove"] for task in tasks if "mlperf_remove" in task])
    listed += str(yaml.safe_load((folder / "vars/main.yml").read_text()).get("__kubernetes_leftovers"))
    assert all(path in listed for path in paths.split())
    assert not any(path in str(task.get("ansible.builtin.file")) for path in paths.split() for task in tasks)
