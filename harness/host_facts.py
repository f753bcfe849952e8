# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""A host's system, hardware, NVIDIA driver and packages, read without changing anything and without the harness there.

Hosts get this file as the module utility `mlperf_host_facts`, so it uses only Python 3.9's standard library.
What cannot be read is None; nothing raises for it.
"""

from __future__ import annotations

import csv
import ctypes
import io
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

NVIDIA = "0x10de"
"""The PCI vendor."""
DISPLAY_CLASS, ACCELERATOR_CLASS, BRIDGE_CLASS = "0x03", "0x12", "0x0680"
"""Prefixes of PCI classes: display controllers, GPUs among them; other accelerators; bridges, NVSwitches among them."""
OTHER_VENDORS = {"0x1002": "AMD", "0x8086": "Intel", "0x1da3": "Intel"}
FABRIC_MANAGER = "nvidia-fabricmanager"
UNJOINED = ("In Progress", "Not Started")
"""States of a GPU that an NVSwitch machine's fabric manager has not set up."""
PCI_DEVICES = Path("/sys/bus/pci/devices")
COMMAND_TIMEOUT_S = 60
# adjtimex(2): room for struct timex, and its result for a clock that is not synchronised.
TIMEX_BYTES = 512
TIME_ERROR = 5

START_BYTES = 64
"""Of a file, which say whether it is Git LFS's pointer to another."""
MOST_FILES = 200
COMPILERS = ("cc", "gcc", "clang")
INTERPRETER = """
import os, platform, sysconfig
print(platform.python_version(), os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
"""
SMI_ROWS = (0, 14, 15)
"""Exit codes of `nvidia-smi` beside which its rows are complete: none, infoROM corrupted, a GPU lost."""
# The fields of `nvidia-smi --query-gpu`, by their names in the facts.
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
CLOCK_REASONS = "clocks_event_reasons.active"
FIELDS = [*TEXTS.values(), *SWITCHES.values(), *NUMBERS.values(), CLOCK_REASONS]
PROCESS_FIELDS = ["gpu_uuid", "pid", "process_name", "used_memory"]
CSV = "--format=csv,noheader,nounits"
LOST_GPU = re.compile(r"\[(GPU .+)\]")
"""What `nvidia-smi` has instead of the value of a field where a GPU does not answer, such as `[GPU is lost]`."""
UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field')
# The bits of CLOCK_REASONS that slow a GPU down; those of idling and of set clocks are left out.
THROTTLE_BITS = {0x4: "power", 0x8: "hardware", 0x20: "thermal", 0x40: "hardware thermal", 0x80: "power brake"}


def host_facts(
    *,
    root: str,
    pci_root: str = "/sys/bus/pci/devices",
    driver_file: str = "/proc/driver/nvidia/version",
    smi: str = "nvidia-smi",
    packages: list[str] | None = None,
    reference_unix: float | None = None,
    python: str = "",
    paths: list[str] | None = None,
    ports: list[int] | None = None,
) -> dict[str, Any]:
    """All facts of this host, as the module mlperf_host_facts returns them.

    Args:
        root: directory whose free disk space matters; need not exist yet.
        pci_root: directory of the PCI devices.
        driver_file: file in which the loaded NVIDIA driver states its version.
        smi: the `nvidia-smi` command.
        packages: names of Debian packages to look up, wildcards allowed.
        reference_unix: time on the controller just now, against which this clock is compared.
        python: the Python with which an environment would be made; empty where that does not matter.
        paths: files and folders to look at.
        ports: TCP ports that engines would listen on.
    """
    return {
        "os": operating_system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cpu": cpu(),
        "memory": memory_bytes(),
        "disk": disk_bytes(root),
        "clock": clock(reference_unix),
        "secure_boot": secure_boot(),
        "reboot_required": Path("/run/reboot-required").exists(),
        "pci_gpus": pci_gpus(Path(pci_root)),
        "other_gpus": other_gpus(Path(pci_root)),
        "nvswitches": nvswitches(Path(pci_root)),
        "fabric_manager": fabric_manager(),
        "nouveau": Path("/sys/module/nouveau").is_dir(),
        "driver_loaded": driver_version(_read(driver_file)),
        "smi": nvidia_smi(smi),
        "packages": installed_packages(packages or []),
        "user": user_name(os.geteuid()),
        "compiler": next(filter(None, map(shutil.which, COMPILERS)), None),
        "interpreter": interpreter(python) if python else None,
        "paths": {path: path_facts(path) for path in paths or []},
        "busy_ports": [port for port in ports or [] if _is_busy(port)],
    }


def operating_system() -> dict[str, str | None]:
    """The system's id ("debian"), version ("12") and name ("Debian GNU/Linux 12 (bookworm)")."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _read("/etc/os-release") or "", re.MULTILINE))
    return {"id": fields.get("ID"), "version": fields.get("VERSION_ID"), "name": fields.get("PRETTY_NAME")}


def cpu() -> dict[str, Any]:
    """Number of cores, model name and frequency governor."""
    model = re.search(r"^model name\s*:\s*(.*)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "model": model.group(1) if model else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }


def memory_bytes() -> dict[str, int | None]:
    """Total and available memory and swap."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read("/proc/meminfo") or "", re.MULTILINE))
    names = {"total": "MemTotal", "available": "MemAvailable", "swap": "SwapTotal"}
    return {name: int(fields[field]) * 1024 if field in fields else None for name, field in names.items()}


def disk_bytes(root: str) -> dict[str, Any]:
    """Size, free space and number of the disk that holds, or will hold, `root`."""
    existing = _nearest(root)
    usage = shutil.disk_usage(existing)
    return {"path": root, "total": usage.total, "free": usage.free, "device": existing.stat().st_dev}


def interpreter(command: str) -> dict[str, Any]:
    """A Python's command and version, and whether its headers are there; an empty version where it does not run."""
    code, output = _run([command, "-c", INTERPRETER], errors=False)
    version, _, headers = output.partition(" ") if code == 0 else ("", "", "")
    return {"command": command, "version": version, "headers": headers.strip() == "True"}


def path_facts(path: str) -> dict[str, Any]:
    """What is at a path: its kind, size and first bytes, and who may read and write there.

    `start` is the beginning of a file, or None; `files` are those in a folder by name, each with `bytes` and `start`.
    `existing` is the path itself or the nearest one above it, of which `owner`, `writable` and `is_folder` tell.
    """
    existing = _nearest(path)
    exists = existing == Path(path)
    return {
        "kind": ("folder" if existing.is_dir() else "file") if exists else None,
        "bytes": existing.stat().st_size if exists else None,
        "start": _start(existing) if exists else None,
        "files": _files(existing) if exists else {},
        "readable": os.access(path, os.R_OK),
        "existing": str(existing),
        "is_folder": existing.is_dir(),
        "owner": user_name(existing.stat().st_uid),
        "writable": os.access(existing, os.W_OK | os.X_OK),
    }


def not_writable(path: str, place: dict[str, Any], user: str) -> tuple[str, str]:
    """Why this user may not write to a folder, whose facts are in `place`, and what to do."""
    if not place["is_folder"]:
        return f"{place['existing']} is not a folder", "choose another folder"
    return (
        f"user {user} may not write to {path}, since {place['existing']} belongs to {place['owner']}",
        f"run `sudo install -d -o {user} {path}` on the host, or choose another folder",
    )


def _nearest(path: str) -> Path:
    """The path itself, or the nearest one above it that is there."""
    return next(one for one in (Path(path), *Path(path).parents) if _exists(one))


def _exists(path: Path) -> bool:
    """Whether it is there; not what is in a folder that this user may not look into."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and beginning of the files in a folder, and of no more than MOST_FILES."""
    try:
        files = [path for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []
        return {path.name: {"bytes": path.stat().st_size, "start": _start(path)} for path in files[:MOST_FILES]}
    except OSError:
        return {}


def _start(path: Path) -> str | None:
    """The first bytes of a file as text; None where it is no file or cannot be read."""
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as stream:
            return stream.read(START_BYTES).decode("ascii", errors="replace") or None
    except OSError:
        return None


def user_name(uid: int) -> str:
    """A user's name, or the number where it has none, as in a container."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_busy(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def clock(reference_unix: float | None = None) -> dict[str, Any]:
    """The time, its distance from `reference_unix` in seconds, and whether it is kept by a time server."""
    status = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    now = time.time()
    offset = None if reference_unix is None else round(now - reference_unix, 1)
    return {"unix": now, "offset_s": offset, "kept": status not in (-1, TIME_ERROR)}


def secure_boot(variables: str = "/sys/firmware/efi/efivars") -> bool | None:
    """Whether Secure Boot is on; None on a host without EFI."""
    for path in Path(variables).glob("SecureBoot-*"):
        try:
            return path.read_bytes()[-1:] == b"\x01"
        except OSError:
            return None
    return None


def pci_gpus(devices: Path) -> list[dict[str, Any]]:
    """Address and device id of the NVIDIA GPUs on the PCI bus."""
    return [
        {"address": device.name, "device": _read(device / "device")}
        for device in sorted(devices.glob("*"))
        if _read(device / "vendor") == NVIDIA and (_read(device / "class") or "").startswith(DISPLAY_CLASS)
    ]


def other_gpus(devices: Path = PCI_DEVICES) -> list[dict[str, str]]:
    """Vendor and id, such as "1002:74a1", of the GPUs and accelerators of AMD and Intel on the PCI bus."""
    return [
        {"vendor": OTHER_VENDORS[vendor], "id": f"{vendor[2:]}:{(_read(device / 'device') or '')[2:]}"}
        for device in sorted(devices.glob("*"))
        if (vendor := _read(device / "vendor") or "") in OTHER_VENDORS
        and (_read(device / "class") or "").startswith((DISPLAY_CLASS, ACCELERATOR_CLASS))
    ]


def nvswitches(devices: Path = PCI_DEVICES) -> int:
    """How many NVSwitches are on the PCI bus."""
    return sum(
        _read(device / "vendor") == NVIDIA and (_read(device / "class") or "").startswith(BRIDGE_CLASS)
        for device in devices.glob("*")
    )


def fabric_manager() -> str | None:
    """State of the service that sets NVSwitches up, such as "active"; None where systemd does not tell."""
    _code, output = _run(["systemctl", "is-active", FABRIC_MANAGER], errors=False)
    state = output.strip()
    return state if re.fullmatch("[a-z]+", state) else None


def driver_version(text: str | None) -> str | None:
    """The version in a line such as `NVRM version: … 580.95.05  Release Build …`."""
    match = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text or "")
    return match.group(1) if match else None


def nvidia_smi(command: str) -> dict[str, Any]:
    """The GPUs and the processes on them as `nvidia-smi` lists them, or why it does not.

    `unjoined` are the numbers of GPUs that wait for a fabric manager. `warnings` are its other lines beside
    complete rows, and the GPUs whose own rows say that they do not answer: a corrupted infoROM or a lost GPU, for
    which its exit code may not be 0 although the other GPUs can be used.
    """
    path = shutil.which(command)
    if not path:
        return {
            "path": None,
            "error": None,
            "mismatch": False,
            "gpus": [],
            "processes": [],
            "unjoined": [],
            "warnings": [],
        }
    fields = list(FIELDS)
    code, output = _run([path, f"--query-gpu={','.join(fields)}", CSV])
    # A driver of another branch may lack a field, and then refuses the whole query.
    while (unknown := UNKNOWN_FIELD.search(output)) and unknown.group(1) in fields:
        fields.remove(unknown.group(1))
        code, output = _run([path, f"--query-gpu={','.join(fields)}", CSV])
    gpus = parse_gpus(output, fields) if code in SMI_ROWS else []
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip() and not _rows(line, fields)]
    lost = _lost_gpus(output, fields) if code in SMI_ROWS else []
    fabric = _run([path, "--query-gpu=index,fabric.state", CSV])[1] if len(gpus) > 1 else ""
    _code, processes = _run([path, f"--query-compute-apps={','.join(PROCESS_FIELDS)}", CSV]) if gpus else (0, "")
    error = None if gpus else next(iter([*lost, *output.strip().splitlines()]), f"{path} printed nothing")
    return {
        "path": path,
        "error": error,
        "mismatch": not gpus and "version mismatch" in output.lower(),
        "gpus": gpus,
        "processes": parse_processes(processes),
        "unjoined": [
            int(row["index"]) for row in _rows(fabric, ["index", "state"]) if row["state"].strip() in UNJOINED
        ],
        "warnings": [*lost, *lines] if gpus else [],
    }


def visible_gpus(gpus: list[dict[str, Any]], visible: str | None) -> list[dict[str, Any]]:
    """Those of `nvidia_smi`'s GPUs that CUDA shows to programs, with what an engine's settings follow from.

    Args:
        gpus: the machine's.
        visible: CUDA_VISIBLE_DEVICES, numbers or beginnings of UUIDs; None for all.
    """
    wanted = [one.strip() for one in (visible or "").split(",")]
    return [
        {name: gpu[name] for name in ("index", "uuid", "name", "memory_mib", "compute_capability")}
        for gpu in gpus
        if visible is None
        or any(str(gpu["index"]) == one or (one.startswith("GPU-") and gpu["uuid"].startswith(one)) for one in wanted)
    ]


def parse_gpus(text: str, fields: list[str]) -> list[dict[str, Any]]:
    """The GPUs in the CSV output of a query of `fields` that answer; FIELDS that are not among them become None."""
    return [_gpu({**dict.fromkeys(FIELDS, ""), **row}) for row in _rows(text, fields) if not _silence(row)]


def _lost_gpus(text: str, fields: list[str]) -> list[str]:
    """A sentence for each GPU that does not answer; its number is that of its row where its own field has none."""
    rows = enumerate(_rows(text, fields))
    return [
        f"gpu {row['index'] if row['index'].isdigit() else number}: {why}"
        for number, row in rows
        if (why := _silence(row))
    ]


def _silence(row: dict[str, str]) -> str:
    """Why a GPU does not answer, by a field of its row; empty where it does."""
    return next((found.group(1) for value in row.values() if (found := LOST_GPU.fullmatch(value.strip()))), "")


def parse_processes(text: str) -> list[dict[str, Any]]:
    """The processes in the CSV output of a query of PROCESS_FIELDS."""
    return [
        {
            "gpu": row["gpu_uuid"],
            "pid": _number(row["pid"]),
            "name": row["process_name"],
            "memory_mib": _number(row["used_memory"]),
        }
        for row in _rows(text, PROCESS_FIELDS)
    ]


def installed_packages(names: list[str]) -> dict[str, dict[str, Any]]:
    """Version and hold of those Debian packages that are installed; wildcards are allowed."""
    if not names or not shutil.which("dpkg-query"):
        return {}
    form = "${Package}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\n"
    # It fails where one of the names is unknown, and lists the others.
    _code, output = _run(["dpkg-query", "--show", f"--showformat={form}", *names], errors=False)
    rows = [line.split("\t") for line in output.splitlines()]
    # Status "config-files" means removed; its version is that of the configuration left behind.
    return {
        name: {"version": version, "held": want == "hold"}
        for name, version, want, status in rows
        if status == "installed"
    }


def _gpu(row: dict[str, str]) -> dict[str, Any]:
    switches = {"enabled": True, "disabled": False}
    try:
        bits = int(row[CLOCK_REASONS], 16)
        throttled = [reason for bit, reason in THROTTLE_BITS.items() if bits & bit]
    except ValueError:
        throttled = None
    return {
        **{name: row[field] for name, field in TEXTS.items()},
        **{name: _number(row[field]) for name, field in NUMBERS.items()},
        **{name: switches.get(row[field].lower()) for name, field in SWITCHES.items()},
        "throttled": throttled,
    }


def _rows(text: str, fields: list[str]) -> list[dict[str, str]]:
    """The lines of CSV text that have exactly these fields."""
    rows = csv.DictReader(io.StringIO(text), fieldnames=fields, skipinitialspace=True)
    return [row for row in rows if None not in row and None not in row.values()]


def _number(text: str) -> float | None:
    """A number as nvidia-smi prints it; None for [N/A] and the like."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value == int(value) else value


def _read(path: str | Path) -> str | None:
    """The text of a small file without the last newline; None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _run(argv: list[str], errors: bool = True) -> tuple[int | None, str]:
    """(exit code, output with or without errors) of a command; the code is None where it did not end by itself."""
    stderr = subprocess.STDOUT if errors else subprocess.DEVNULL
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        return None, str(error)
    except subprocess.TimeoutExpired:
        return None, f"{argv[0]} did not answer within {COMMAND_TIMEOUT_S} s"
    return done.returncode, done.stdout.decode(errors="replace")
