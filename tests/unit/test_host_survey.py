"""Facts of hosts and their survey: the output of nvidia-smi, findings with advice, and which nodes will be slower."""

import copy
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from harness import host_facts, host_survey
from tests.unit.ansible_modules import Failed, call

A30 = (
    "NVIDIA A30, GPU-5c3a, 580.126.09, 8.0, Enabled, Disabled, Enabled, 0, 24576, 4, 1440, 1215, 1440, 210,"
    " 165.00, 165.00, 165.00, 1, 4, 16, 16, 31, 0x0000000000000001"
)


def node(line: str = A30, **more: Any) -> dict[str, Any]:
    gpus = host_facts.parse_gpus(line, host_facts.FIELDS) if line else []
    return {
        "os": {"id": "ubuntu", "version": "24.04", "name": "Ubuntu 24.04"}, "kernel": "6.8.0-50-generic",
        "architecture": "x86_64", "python": "3.12.3", "cpu": {"cores": 32, "model": "x", "governor": "performance"},
        "memory": {"total": 256 << 30, "available": 250 << 30, "swap": 0},
        "disk": {"path": "/var/lib/mlperf", "total": 1 << 40, "free": 500 << 30},
        "clock": {"unix": 1.8e9, "offset_s": 0.4, "kept": True}, "secure_boot": False, "reboot_required": False,
        "pci_gpus": [{"address": "0000:65:00.0", "device": "0x20b7"}], "nouveau": False, "driver_loaded": "580.126.09",
        "compiler": "/usr/bin/cc", "interpreter": None, "other_gpus": [], "nvswitches": 0, "fabric_manager": "inactive",
        "smi": {
            "path": "/usr/bin/nvidia-smi", "error": None, "mismatch": False, "gpus": gpus, "processes": [],
            "unjoined": [],
        },
        "packages": {"kubelet": {"version": "1.36.1-1.1", "held": True}}, **more,
    }  # fmt: skip


def judge(**nodes: dict[str, Any]) -> list[dict[str, str]]:
    return host_survey.judge(dict(nodes), list(nodes), list(nodes), ["ubuntu 24.04", "debian 12"])


def test_a_line_of_nvidia_smi_is_parsed() -> None:
    (gpu,) = host_facts.parse_gpus(A30, host_facts.FIELDS)
    assert (gpu["name"], gpu["driver"], gpu["ecc"], gpu["mig"]) == ("NVIDIA A30", "580.126.09", True, False)
    assert (gpu["memory_mib"], gpu["power_limit_w"], gpu["pcie_width"], gpu["throttled"]) == (24576, 165, 16, [])


def test_missing_values_are_none_and_throttling_is_named() -> None:
    (gpu,) = host_facts.parse_gpus(
        A30.replace("1440, 210", "[N/A], 210").replace("0x0000000000000001", "0x24"), host_facts.FIELDS
    )
    assert gpu["sm_clock_set_mhz"] is None
    assert gpu["throttled"] == ["power", "thermal"]


def test_a_field_that_the_driver_lacks_is_left_out(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\ncase $1 in\n"
        "*applications*) echo 'Field \"clocks.applications.graphics\" is not a valid field to query.'; exit 2;;\n"
        f"*compute-apps*) ;; *) echo '{A30.replace(' 1440, 210', ' 210')}';; esac\n"
    )
    smi.chmod(0o755)
    facts = call("mlperf_host_facts", {"smi": str(smi), "pci_root": str(tmp_path)})["facts"]
    assert facts["smi"]["gpus"][0]["sm_clock_set_mhz"] is None
    assert facts["smi"]["gpus"][0]["sm_clock_mhz"] == 210


INFOROM = "WARNING: infoROM is corrupted at gpu 0000:65:00.0"
LOST = "Unable to determine the device handle for GPU0000:CA:00.0: GPU is lost.  Reboot the system to recover this GPU"


@pytest.mark.parametrize(("code", "line", "level"), [(14, INFOROM, "warn"), (15, LOST, "fail"), (0, INFOROM, "warn")])
def test_rows_beside_a_warning_are_kept_and_the_warning_is_shown(
    tmp_path: Path, code: int, line: str, level: str
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        f"#!/bin/sh\ncase $1 in *compute-apps*) ;; *) echo '{A30.strip()}'; echo '{line}'; exit {code};; esac\n"
    )
    smi.chmod(0o755)
    listed = call("mlperf_host_facts", {"smi": str(smi)})["facts"]["smi"]
    assert ([gpu["index"] for gpu in listed["gpus"]], listed["error"]) == ([0], None)
    assert listed["warnings"] == [" ".join(line.split())]
    findings = [one for one in judge(n1=node(smi=listed)) if one["seen"] == " ".join(line.split())]
    assert findings[0]["level"] == level


@pytest.mark.parametrize("words", ["GPU is lost", "GPU requires reset"])
@pytest.mark.parametrize("index", ["1", "[{words}]"])
def test_a_gpu_whose_row_says_that_it_is_lost_is_no_healthy_one(tmp_path: Path, words: str, index: str) -> None:
    smi = tmp_path / "nvidia-smi"
    lost = ", ".join(
        index.format(words=words) if field == "index" else "NVIDIA A30" if field == "name" else f"[{words}]"
        for field in host_facts.FIELDS
    )
    smi.write_text(f"#!/bin/sh\ncase $1 in *compute-apps*) ;; *) echo '{A30}'; echo '{lost}';; esac\n")
    smi.chmod(0o755)
    listed = call("mlperf_host_facts", {"smi": str(smi)})["facts"]["smi"]
    assert ([gpu["index"] for gpu in listed["gpus"]], listed["warnings"]) == ([0], [f"gpu 1: {words}"])
    (finding,) = [one for one in judge(n1=node(smi=listed)) if one["seen"] == f"gpu 1: {words}"]
    assert finding["level"] == "fail"
    smi.write_text(f"#!/bin/sh\necho '{lost.replace('1', '0')}'\n")
    alone = call("mlperf_host_facts", {"smi": str(smi)})["facts"]["smi"]
    assert (alone["gpus"], alone["error"]) == ([], f"gpu 0: {words}")


def test_rows_are_not_believed_beside_any_other_failure(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho '{A30.strip()}'; exit 9\n")
    smi.chmod(0o755)
    assert call("mlperf_host_facts", {"smi": str(smi)})["facts"]["smi"]["gpus"] == []


def test_driver_mismatch_is_recognised(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    smi.chmod(0o755)
    smi_facts = call("mlperf_host_facts", {"smi": str(smi)})["facts"]["smi"]
    assert smi_facts["mismatch"] is True
    assert "mismatch" in smi_facts["error"]


def test_pci_bus_and_driver_version_are_read(tmp_path: Path) -> None:
    for address, vendor, kind in (("0000:65:00.0", "0x10de", "0x030200"), ("0000:65:00.1", "0x10de", "0x040300")):
        (tmp_path / "pci" / address).mkdir(parents=True)
        (tmp_path / "pci" / address / "vendor").write_text(vendor)
        (tmp_path / "pci" / address / "class").write_text(kind)
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.126.09  Release Build\n")
    result = call(
        "mlperf_host_facts", {"pci_root": str(tmp_path / "pci"), "driver_file": str(version), "smi": "no-smi"}
    )
    assert [one["address"] for one in result["facts"]["pci_gpus"]] == ["0000:65:00.0"]
    assert result["facts"]["driver_loaded"] == "580.126.09"


def test_equal_hosts_have_no_findings() -> None:
    assert judge(jw2=node(), jw3=node()) == []


@pytest.mark.parametrize(
    ("line", "more", "level", "words"),
    [
        ("", {"pci_gpus": []}, "fail", "no NVIDIA GPU"),
        (A30, {"os": {"id": "debian", "version": "11", "name": ""}}, "fail", "debian 11"),
        (A30.replace("580.126.09", "570.86.15"), {}, "fail", "570.86.15"),
        (A30.replace("580.126.09", "580.95.05"), {}, "fail", "jw2 580.126.09, jw3 580.95.05"),
        (A30.replace("8.0, Enabled, Disabled", "8.0, Enabled, Enabled"), {}, "fail", "MIG is on"),
        (A30.replace("8.0, Enabled", "8.0, Disabled"), {}, "warn", "jw2 True, jw3 False"),
        (A30.replace("16, 16, 31", "8, 16, 31").replace("1, 4, 8", "1, 4, 8"), {}, "warn", "x8 of x16"),
        (A30, {"kernel": "6.8.0-51-generic"}, "warn", "jw3 6.8.0-51-generic"),
        (A30, {"clock": {"unix": 0, "offset_s": 61.0, "kept": True}}, "warn", "jw3 +61.0 s"),
        (A30, {"packages": {"kubelet": {"version": "1.35.0", "held": True}}}, "warn", "jw3 1.35.0"),
    ],
)  # fmt: skip
def test_problems_are_found_with_their_advice(line: str, more: dict[str, Any], level: str, words: str) -> None:
    findings = judge(jw2=node(), jw3=node(line, **more))
    assert any(words in one["seen"] and one["level"] == level for one in findings), findings
    assert all(one["advice"] for one in findings)


TOOL = {"command": "python3", "version": "3.12.3", "headers": True}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"compiler": None, "interpreter": TOOL}, "no C compiler, with which an engine compiles kernels"),
        ({"interpreter": {**TOOL, "headers": False}}, "no Python.h of python3, with which"),
        ({"interpreter": {**TOOL, "version": "3.10.12"}}, "harness_python = python3 is Python 3.10.12, and the pinned"),
        ({"interpreter": {**TOOL, "version": "3.14.0"}}, "for Python 3.11 to 3.13"),
    ],
)
def test_python_and_compiler_are_judged_where_they_were_looked_at(more: dict[str, Any], words: str) -> None:
    (finding,) = host_survey.judge({"gpu1": node(**more)}, ["gpu1"])
    assert finding["level"] == "fail" and words in finding["seen"] and finding["advice"]
    assert host_survey.judge({"gpu1": node(compiler=None)}, ["gpu1"]) == []
    assert host_survey.judge({"gpu1": node(compiler=None, interpreter=TOOL)}, []) == []


def test_only_hosts_of_the_cluster_are_told_to_run_site_yml_and_need_a_system_that_it_sets_up() -> None:
    swap = {"total": 256 << 30, "available": 250 << 30, "swap": 1 << 30}
    other = {"os": {"id": "rocky", "version": "9.6", "name": ""}, "memory": swap}
    off = A30.replace("Enabled, Disabled, Enabled", "Enabled, Disabled, Disabled")
    bare = node()["smi"] | {"path": None, "gpus": []}
    mismatch = bare | {"path": "/usr/bin/nvidia-smi", "mismatch": True}
    kinds = [node(off, **other), node(smi=bare, **other), node(smi=mismatch, **other), node(nouveau=True, **other)]
    for facts in kinds:
        for in_cluster in (True, False):
            findings = host_survey.judge({"a": facts}, ["a"], ["a"] * in_cluster, ["ubuntu 24.04"])
            assert any("site.yml" in one["advice"] for one in findings) is in_cluster
            assert any(one["check"] == "system" for one in findings) is in_cluster
            assert all(one["advice"] for one in findings)
    others = {"a": node(), "b": node(A30.replace("580.126.09", "580.95.05"))}
    (driver,) = host_survey.judge(others, ["a", "b"])
    assert (driver["level"], "install the same driver on all hosts" in driver["advice"]) == ("fail", True)


def test_a_cluster_needs_space_for_the_node_image_too() -> None:
    small = {"a": node(disk={"path": "/d", "total": 1 << 40, "free": 50 << 30})}
    (finding,) = host_survey.judge(small, ["a"], ["a"])
    assert finding["advice"].startswith("image, environment, weights and results need 60 GiB")
    assert host_survey.judge(small, ["a"]) == []


def test_a_node_with_a_lower_power_limit_is_predicted_to_be_slower() -> None:
    findings = judge(jw2=node(), jw3=node(A30.replace("165.00, 165.00, 165.00", "100.00, 165.00, 165.00")))
    (slower,) = [one for one in findings if one["check"] == "slower"]
    assert slower["host"] == "jw3"
    assert "slower than jw2: power limit 100 against 165 W" in slower["seen"]
    assert "39%" in slower["advice"]


def test_every_gpu_of_a_host_is_compared() -> None:
    slow = A30.replace("Enabled, 0, 24576", "Enabled, 1, 24576").replace(
        "165.00, 165.00, 165.00", "100.00, 165.00, 165.00"
    )
    (limited, slower) = judge(jw2=node(f"{A30}\n{slow}"))
    assert (limited["check"], slower["check"], slower["host"]) == ("power", "slower", "jw2")
    assert slower["seen"].startswith("gpu 1 will be slower than jw2 gpu 0: power limit 100 against 165 W")


def test_the_survey_writes_json_and_never_reports_a_change(tmp_path: Path) -> None:
    busy = copy.deepcopy(node())
    busy["smi"]["processes"] = host_facts.parse_processes("GPU-5c3a, 4711, python3, 1024\n")
    file = tmp_path / "out" / "doctor.json"
    arguments = {"hosts": {"jw2": busy, "jw3": {}}, "gpu_nodes": ["jw2", "jw3"], "path": str(file)}
    assert call("mlperf_host_survey", arguments, check=True)["changed"] is False
    assert not file.exists()
    result = call("mlperf_host_survey", arguments)
    assert [one["check"] for one in result["findings"]] == ["reach", "gpu in use"]
    assert "no answer" in result["table"]
    assert file.exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match=r"cannot write .*/file/doctor.json: Not a directory|cannot write .*: File exists"):
        call("mlperf_host_survey", {"hosts": {"jw2": {}}, "path": str(tmp_path / "file" / "doctor.json")})


def test_an_account_without_a_name_has_its_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container that runs as any user."""
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    facts = host_facts.host_facts(root=str(tmp_path), paths=[str(tmp_path)])
    assert facts["user"] == str(os.geteuid()) and facts["paths"][str(tmp_path)]["owner"] == str(owner)
