#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at a host before and after it becomes a GPU node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_node_info
short_description: Look at a host before and after it becomes a GPU node
description:
  - Operating system, memory, disk, clock, PCI bus, NVIDIA driver, GPUs and packages, in one look.
  - Needs nothing but Python's standard library on the host, changes nothing, and never fails for what it does not find.
options:
  packages:
    description: Debian packages whose version and hold are wanted. Wildcards are allowed.
    type: list
    elements: str
    default: []
  root:
    description: Folder whose free disk space is wanted.
    type: path
    default: /var/lib/mlperf
  pci_root:
    description: Folder of the PCI devices.
    type: path
    default: /sys/bus/pci/devices
  driver_file:
    description: File in which the loaded NVIDIA driver tells its version.
    type: path
    default: /proc/driver/nvidia/version
  reference_unix:
    description: Time on the controlling machine when this look was asked for, to tell how far the clocks are apart.
    type: float
  smi:
    description: The C(nvidia-smi) command.
    type: str
    default: nvidia-smi
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Only looks.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Look at the host
  mlperf_node_info:
    packages: [containerd.io, kubelet]
  register: found
"""

RETURN = r"""
node:
  description: What was seen. A value that could not be read is null.
  returned: success
  type: dict
"""

import csv
import ctypes
import io
import os
import platform
import re
import shutil
import subprocess
import time
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

NVIDIA = "0x10de"
DISPLAY_CLASS = "0x03"
TIMEX_BYTES = 512
TIME_ERROR = 5
SMI_TIMEOUT_S = 60
# Every field that is asked for, by the name under which it is told.
TEXTS = {"name": "name", "uuid": "uuid", "driver": "driver_version", "compute_capability": "compute_cap"}
SWITCHES = {"ecc": "ecc.mode.current", "mig": "mig.mode.current", "persistence": "persistence_mode"}
NUMBERS = {
    "index": "index",
    "memory_mib": "memory.total",
    "memory_used_mib": "memory.used",
    "sm_clock_max_mhz": "clocks.max.sm",
    "memory_clock_max_mhz": "clocks.max.memory",
    "sm_clock_set_mhz": "clocks.applications.graphics",
    "sm_clock_mhz": "clocks.sm",
    "power_limit_w": "power.limit",
    "power_default_w": "power.default_limit",
    "power_max_w": "power.max_limit",
    "pcie_gen": "pcie.link.gen.current",
    "pcie_gen_max": "pcie.link.gen.max",
    "pcie_width": "pcie.link.width.current",
    "pcie_width_max": "pcie.link.width.max",
    "temperature_c": "temperature.gpu",
}
REASONS = "clocks_event_reasons.active"
# Bits of the reasons that slow a GPU down; idling and set clocks are left out.
THROTTLES = {0x4: "power", 0x8: "hardware", 0x20: "thermal", 0x40: "hardware thermal", 0x80: "power brake"}
UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field')
FIELDS = [*TEXTS.values(), *SWITCHES.values(), *NUMBERS.values(), REASONS]


def read(path: str) -> Optional[str]:
    """A small file's text without its last newline, or None."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return None


def number(text: str) -> Optional[float]:
    """A number as nvidia-smi prints it; None for [N/A] and the like."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value == int(value) else value


def gpu(row: Dict[str, str]) -> Dict[str, Any]:
    """One line of nvidia-smi in our names."""
    found: Dict[str, Any] = {name: row[field] for name, field in TEXTS.items()}
    found.update({name: number(row[field]) for name, field in NUMBERS.items()})
    states = {"enabled": True, "disabled": False}
    found.update({name: states.get(row[field].lower()) for name, field in SWITCHES.items()})
    try:
        bits = int(row[REASONS], 16)
    except ValueError:
        return {**found, "throttled": None}
    return {**found, "throttled": [word for bit, word in THROTTLES.items() if bits & bit]}


def parse_gpus(text: str, fields: List[str]) -> List[Dict[str, Any]]:
    """The answer to a query of the fields; FIELDS that were not asked for are empty."""
    rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    return [gpu({**dict.fromkeys(FIELDS, ""), **dict(zip(fields, row))}) for row in rows if len(row) == len(fields)]


def parse_processes(text: str) -> List[Dict[str, Any]]:
    """The answer to a query of the processes that compute."""
    rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    return [
        {"gpu": row[0], "pid": number(row[1]), "name": row[2], "memory_mib": number(row[3])}
        for row in rows
        if len(row) == 4
    ]


def ask(argv: List[str]) -> Dict[str, Any]:
    """Run a command that only looks."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=SMI_TIMEOUT_S, check=False)
    except OSError as error:
        return {"code": None, "out": "", "err": str(error)}
    except subprocess.TimeoutExpired:
        return {"code": None, "out": "", "err": f"no answer within {SMI_TIMEOUT_S} s"}
    return {
        "code": done.returncode,
        "out": done.stdout.decode(errors="replace"),
        "err": done.stderr.decode(errors="replace"),
    }


def look_smi(smi: str) -> Dict[str, Any]:
    """What nvidia-smi tells, or why it does not."""
    path = shutil.which(smi)
    if not path:
        return {"path": None, "error": None, "mismatch": False, "gpus": [], "processes": []}
    form = "--format=csv,noheader,nounits"
    fields = list(FIELDS)
    told = ask([path, f"--query-gpu={','.join(fields)}", form])
    # Another branch of the driver may not know a field any more, and then answers none.
    while (unknown := UNKNOWN_FIELD.search(told["out"] + told["err"])) and unknown.group(1) in fields:
        fields.remove(unknown.group(1))
        told = ask([path, f"--query-gpu={','.join(fields)}", form])
    gpus = parse_gpus(told["out"], fields) if told["code"] == 0 else []
    complaint = f"{told['out']}\n{told['err']}".strip()
    using = ask([path, "--query-compute-apps=gpu_uuid,pid,process_name,used_memory", form]) if gpus else {"out": ""}
    return {
        "path": path,
        "error": None if gpus else complaint.splitlines()[0] if complaint else f"{path} printed nothing",
        "mismatch": "version mismatch" in complaint.lower(),
        "gpus": gpus,
        "processes": parse_processes(using["out"]),
    }


def look_pci(root: str) -> List[Dict[str, Any]]:
    """The NVIDIA GPUs on the PCI bus."""
    found = []
    for address in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        folder = os.path.join(root, address)
        if read(os.path.join(folder, "vendor")) != NVIDIA:
            continue
        if (read(os.path.join(folder, "class")) or "").startswith(DISPLAY_CLASS):
            found.append({"address": address, "device": read(os.path.join(folder, "device"))})
    return found


def driver_version(text: Optional[str]) -> Optional[str]:
    """The version in the driver's own sentence, such as `NVRM version: … 580.95.05  Release Build …`."""
    match = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text or "")
    return match.group(1) if match else None


def secure_boot(folder: str = "/sys/firmware/efi/efivars") -> Optional[bool]:
    """Whether Secure Boot is on; None on a host without EFI."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.startswith("SecureBoot-"):
            try:
                with open(os.path.join(folder, name), "rb") as stream:
                    return stream.read()[-1:] == b"\x01"
            except OSError:
                return None
    return None


def look_packages(names: List[str]) -> Dict[str, Dict[str, Any]]:
    """Version and hold of the installed ones among the packages."""
    if not names or not shutil.which("dpkg-query"):
        return {}
    told = ask(
        [
            "dpkg-query",
            "--show",
            "--showformat=${Package}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\n",
            *names,
        ]
    )
    found = {}
    for line in told["out"].splitlines():
        name, version, want, status = line.split("\t")
        if status == "installed":
            found[name] = {"version": version, "held": want == "hold"}
    return found


def look_os() -> Dict[str, Any]:
    """Name and version of the system."""
    told = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', read("/etc/os-release") or "", re.MULTILINE))
    return {"id": told.get("ID"), "version": told.get("VERSION_ID"), "name": told.get("PRETTY_NAME")}


def look_memory() -> Dict[str, Optional[int]]:
    """Bytes of memory and swap."""
    told = dict(re.findall(r"^(\w+):\s+(\d+) kB$", read("/proc/meminfo") or "", re.MULTILINE))
    names = {"total": "MemTotal", "available": "MemAvailable", "swap": "SwapTotal"}
    return {name: int(told[key]) * 1024 if key in told else None for name, key in names.items()}


def look_disk(root: str) -> Dict[str, Any]:
    """Bytes on the disk that holds, or will hold, `root`."""
    place = root
    while not os.path.exists(place):
        place = os.path.dirname(place)
    usage = shutil.disk_usage(place)
    return {"path": root, "total": usage.total, "free": usage.free}


def look_clock(reference_unix: Optional[float]) -> Dict[str, Any]:
    """The time, how far it is from the asker's, and whether something keeps it."""
    answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    offset = None if reference_unix is None else round(time.time() - reference_unix, 1)
    return {"unix": time.time(), "offset_s": offset, "kept": answer not in (-1, TIME_ERROR)}


def look_cpu() -> Dict[str, Any]:
    """Cores, model, and the frequency governor."""
    model = re.search(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo") or "", re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "model": model.group(1) if model else None,
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "root": {"type": "path", "default": "/var/lib/mlperf"},
            "pci_root": {"type": "path", "default": "/sys/bus/pci/devices"},
            "driver_file": {"type": "path", "default": "/proc/driver/nvidia/version"},
            "reference_unix": {"type": "float"},
            "smi": {"type": "str", "default": "nvidia-smi"},
        },
        supports_check_mode=True,
    )
    params = module.params
    node = {
        "os": look_os(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cpu": look_cpu(),
        "memory": look_memory(),
        "disk": look_disk(params["root"]),
        "clock": look_clock(params["reference_unix"]),
        "secure_boot": secure_boot(),
        "reboot_required": os.path.exists("/run/reboot-required"),
        "pci_gpus": look_pci(params["pci_root"]),
        "nouveau": os.path.isdir("/sys/module/nouveau"),
        "driver_loaded": driver_version(read(params["driver_file"])),
        "smi": look_smi(params["smi"]),
        "packages": look_packages(params["packages"]),
    }
    module.exit_json(changed=False, node=node)


if __name__ == "__main__":
    main()
