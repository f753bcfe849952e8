"""Facts of hosts and their survey: the output of nvidia-smi, findings with advice, and which nodes will be slower."""

import copy
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
        "smi": {"path": "/usr/bin/nvidia-smi", "error": None, "mismatch": False, "gpus": gpus, "processes": []},
        "packages": {"kubelet": {"version": "1.36.1-1.1", "held": True}}, **more,
    }  # fmt: skip


def judge(**nodes: dict[str, Any]) -> list[dict[str, str]]:
    return host_survey.judge(dict(nodes), list(nodes), ["ubuntu 24.04", "debian 12"])


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
    found = call("mlperf_host_facts", {"smi": str(smi), "pci_root": str(tmp_path)})["facts"]
    assert found["smi"]["gpus"][0]["sm_clock_set_mhz"] is None
    assert found["smi"]["gpus"][0]["sm_clock_mhz"] == 210


def test_driver_mismatch_is_recognised(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    smi.chmod(0o755)
    found = call("mlperf_host_facts", {"smi": str(smi)})["facts"]["smi"]
    assert found["mismatch"] is True
    assert "mismatch" in found["error"]


def test_pci_bus_and_driver_version_are_read(tmp_path: Path) -> None:
    for address, vendor, kind in (("0000:65:00.0", "0x10de", "0x030200"), ("0000:65:00.1", "0x10de", "0x040300")):
        (tmp_path / "pci" / address).mkdir(parents=True)
        (tmp_path / "pci" / address / "vendor").write_text(vendor)
        (tmp_path / "pci" / address / "class").write_text(kind)
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.126.09  Release Build\n")
    found = call("mlperf_host_facts", {"pci_root": str(tmp_path / "pci"), "driver_file": str(version), "smi": "no-smi"})
    assert [one["address"] for one in found["facts"]["pci_gpus"]] == ["0000:65:00.0"]
    assert found["facts"]["driver_loaded"] == "580.126.09"


def test_equal_hosts_have_no_findings() -> None:
    assert judge(jw2=node(), jw3=node()) == []


@pytest.mark.parametrize(
    ("line", "more", "level", "words"),
    [
        ("", {"pci_gpus": []}, "fail", "no NVIDIA GPU"),
        (A30, {"os": {"id": "debian", "version": "11", "name": ""}}, "fail", "debian 11"),
        (A30.replace("580.126.09", "570.86.15"), {}, "fail", "570.86.15"),
        (A30.replace("580.126.09", "580.95.05"), {}, "fail", "jw2 580.126.09, jw3 580.95.05"),
        (A30.replace("8.0, Enabled, Disabled", "8.0, Enabled, Enabled"), {}, "warn", "MIG is on"),
        (A30.replace("8.0, Enabled", "8.0, Disabled"), {}, "warn", "jw2 True, jw3 False"),
        (A30.replace("16, 16, 31", "8, 16, 31").replace("1, 4, 8", "1, 4, 8"), {}, "warn", "x8 of x16"),
        (A30, {"kernel": "6.8.0-51-generic"}, "warn", "jw3 6.8.0-51-generic"),
        (A30, {"clock": {"unix": 0, "offset_s": 61.0, "kept": True}}, "warn", "jw3 +61.0 s"),
        (A30, {"packages": {"kubelet": {"version": "1.35.0", "held": True}}}, "warn", "jw3 1.35.0"),
    ],
)  # fmt: skip
def test_problems_are_found_with_their_advice(line: str, more: dict[str, Any], level: str, words: str) -> None:
    found = judge(jw2=node(), jw3=node(line, **more))
    assert any(words in one["seen"] and one["level"] == level for one in found), found
    assert all(one["advice"] for one in found)


def test_a_node_with_a_lower_power_limit_is_predicted_to_be_slower() -> None:
    found = judge(jw2=node(), jw3=node(A30.replace("165.00, 165.00, 165.00", "100.00, 165.00, 165.00")))
    (slower,) = [one for one in found if one["check"] == "slower"]
    assert slower["host"] == "jw3"
    assert "slower than jw2: power limit 100 against 165 W" in slower["seen"]
    assert "39%" in slower["advice"]


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
