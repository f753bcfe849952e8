# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the hosts, which nodes will be slower, and why: pure functions of what mlperf_node_info saw."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Optional

GIB = 1 << 30
NEEDED_PYTHON = (3, 9)
NEEDED_DISK_GIB = 60
NEEDED_MEMORY_GIB = 16
CLOCK_APART_S = 5.0
CUDA_13_BRANCH = 580
HOT_C = 80
# Differences smaller than this are not worth a sentence.
NOTABLE = 0.01

Node = Dict[str, Any]
Finding = Dict[str, str]

# What differs between GPUs and what that costs at most: (name, how it is said, unit, which work it slows).
MEASURES = (
    ("sm_clock_max_mhz", "highest SM clock", "MHz", "prefill, which is bound by arithmetic"),
    ("sm_clock_set_mhz", "application clock", "MHz", "prefill, which is bound by arithmetic"),
    ("memory_clock_max_mhz", "memory clock", "MHz", "decoding, which is bound by memory"),
    ("power_limit_w", "power limit", "W", "all work, once the limit is reached"),
)


def finding(host: str, level: str, check: str, seen: str, advice: str = "") -> Finding:
    """One thing that was looked at."""
    return {"host": host, "level": level, "check": check, "seen": seen, "advice": advice}


def gib(value: Optional[float]) -> float:
    """Bytes as GiB."""
    return (value or 0) / GIB


def check_system(host: str, node: Node, supported: List[str]) -> List[Finding]:
    """Operating system, Python, disk, memory, swap, clock."""
    found = []
    system = f"{node['os']['id']} {node['os']['version']}"
    if supported and system not in supported:
        found.append(finding(host, "fail", "system", system, f"install {' or '.join(supported)}"))
    if tuple(int(part) for part in node["python"].split(".")[:2]) < NEEDED_PYTHON:
        found.append(finding(host, "fail", "python", node["python"], "modules need Python 3.9 or newer"))
    free = gib(node["disk"]["free"])
    if free < NEEDED_DISK_GIB:
        advice = f"image, weights and results need {NEEDED_DISK_GIB} GiB: free some, or move harness_root"
        found.append(finding(host, "warn", "disk", f"{free:.1f} GiB free for {node['disk']['path']}", advice))
    if gib(node["memory"]["total"]) < NEEDED_MEMORY_GIB:
        seen = f"{gib(node['memory']['total']):.1f} GiB"
        found.append(finding(host, "warn", "memory", seen, f"loading 15 GiB of weights wants {NEEDED_MEMORY_GIB} GiB"))
    if node["memory"]["swap"]:
        found.append(
            finding(
                host, "warn", "swap", f"{gib(node['memory']['swap']):.1f} GiB", "run site.yml: it switches swap off"
            )
        )
    if not node["clock"]["kept"]:
        found.append(finding(host, "warn", "time", "no time server keeps the clock", "run chrony or systemd-timesyncd"))
    if node["reboot_required"]:
        found.append(
            finding(host, "warn", "reboot", "packages wait for a reboot", "reboot before a run, not during one")
        )
    if node["cpu"]["governor"] not in (None, "performance"):
        advice = "cpupower frequency-set -g performance, for steady latencies"
        found.append(finding(host, "warn", "cpu", f"frequency governor {node['cpu']['governor']}", advice))
    return found


def check_driver(host: str, node: Node) -> List[Finding]:
    """The GPU and its driver, on a host that should have one."""
    smi = node["smi"]
    if not node["pci_gpus"] and not smi["gpus"]:
        return [
            finding(host, "fail", "gpu", "no NVIDIA GPU on the PCI bus", "lspci -d 10de: ; or take it out of gpu_nodes")
        ]
    if smi["mismatch"]:
        advice = "the driver's packages were updated under the loaded module: reboot; site.yml --tags nvidia holds them"
        return [finding(host, "fail", "driver", "Driver/library version mismatch", advice)]
    if node["nouveau"]:
        return [
            finding(host, "fail", "driver", "nouveau holds the GPU", "site.yml --tags nvidia keeps it out, then reboot")
        ]
    if not smi["path"]:
        return [finding(host, "fail", "driver", "not installed", "site.yml --tags nvidia")]
    if not smi["gpus"]:
        advice = "dmesg | grep -i nvrm; dkms status; mokutil --sb-state"
        return [finding(host, "fail", "driver", smi["error"] or "nvidia-smi shows no GPU", advice)]
    branch = int(smi["gpus"][0]["driver"].split(".")[0])
    if branch < CUDA_13_BRANCH:
        seen = smi["gpus"][0]["driver"]
        return [
            finding(host, "fail", "driver", seen, f"CUDA 13 needs {CUDA_13_BRANCH} or newer: site.yml --tags nvidia")
        ]
    return []


def check_gpu(host: str, gpu: Dict[str, Any]) -> List[Finding]:
    """What slows one GPU, or makes its figures hard to compare."""
    label, found = f"gpu {gpu['index']}", []

    def say(check: str, seen: str, advice: str) -> None:
        found.append(finding(host, "warn", check, f"{label}: {seen}", advice))

    if gpu["mig"]:
        say("mig", "MIG is on", "the engine gets a slice: nvidia-smi -mig 0 for a whole GPU")
    if gpu["persistence"] is False:
        say("persistence", "persistence mode is off", "site.yml --tags nvidia")
    if gpu["throttled"]:
        say("throttled", f"slowed down now: {', '.join(gpu['throttled'])}", "cooling, power supply, power limit")
    if (gpu["temperature_c"] or 0) >= HOT_C:
        say("temperature", f"{gpu['temperature_c']} °C", "look at airflow and neighbours before a run")
    if gpu["power_limit_w"] and gpu["power_default_w"] and gpu["power_limit_w"] < gpu["power_default_w"]:
        say(
            "power",
            f"capped at {gpu['power_limit_w']} of {gpu['power_default_w']} W",
            f"nvidia-smi -pl {gpu['power_default_w']}",
        )
    # An idle link drops its generation, so only its width tells of a bad slot.
    if gpu["pcie_width"] and gpu["pcie_width_max"] and gpu["pcie_width"] < gpu["pcie_width_max"]:
        say("pcie", f"x{gpu['pcie_width']} of x{gpu['pcie_width_max']}", "reseat the card, or move it to a full slot")
    return found


def check_processes(host: str, node: Node) -> List[Finding]:
    """Programs that compute on a GPU already."""
    return [
        finding(host, "warn", "gpu in use", f"pid {one['pid']} ({one['name']}) holds {one['memory_mib']} MiB",
                "end it: it takes memory and time from a run")
        for one in node["smi"]["processes"]
    ]  # fmt: skip


def differing(nodes: Dict[str, Node], check: str, values: Dict[str, Any], level: str, advice: str) -> List[Finding]:
    """One finding when hosts that should be alike are not."""
    if len(set(map(str, values.values()))) < 2:
        return []
    seen = ", ".join(f"{host} {value}" for host, value in values.items())
    return [finding("all", level, check, seen, advice)]


def compare(nodes: Dict[str, Node], gpu_hosts: List[str]) -> List[Finding]:
    """What should be the same everywhere."""
    found: List[Finding] = []
    gpus = {host: nodes[host]["smi"]["gpus"][0] for host in gpu_hosts if host in nodes and nodes[host]["smi"]["gpus"]}
    alike = "figures of nodes that differ cannot be compared"
    found += differing(nodes, "driver", {host: gpu["driver"] for host, gpu in gpus.items()}, "fail",
                       f"{alike}: set nvidia_driver_version, then site.yml --tags nvidia")  # fmt: skip
    for name, field in (("gpu model", "name"), ("ecc", "ecc"), ("mig", "mig")):
        found += differing(nodes, name, {host: gpu[field] for host, gpu in gpus.items()}, "warn", alike)
    kernels = {host: nodes[host]["kernel"] for host in gpu_hosts if host in nodes}
    found += differing(nodes, "kernel", kernels, "warn", "bring the hosts to the same kernel: apt full-upgrade, reboot")
    names = sorted({name for node in nodes.values() for name in node["packages"]})
    for name in names:
        values = {host: node["packages"][name]["version"] for host, node in nodes.items() if name in node["packages"]}
        found += differing(nodes, name, values, "warn", "playbooks/upgrade.yml brings all hosts to one version")
    return found


def check_clocks(nodes: Dict[str, Node]) -> List[Finding]:
    """Clocks that are further apart than the time it takes to look at all hosts."""
    offsets = {
        host: node["clock"]["offset_s"] for host, node in nodes.items() if node["clock"].get("offset_s") is not None
    }
    if not offsets or max(offsets.values()) - min(offsets.values()) < CLOCK_APART_S:
        return []
    seen = ", ".join(f"{host} {offset:+.1f} s" for host, offset in offsets.items())
    return [finding("all", "warn", "time", f"clocks against this machine: {seen}", "let one time server keep them")]


def predict(nodes: Dict[str, Node], gpu_hosts: List[str]) -> List[Finding]:
    """Which nodes will be slower than the best one, by what can be read without running anything."""
    gpus = {host: nodes[host]["smi"]["gpus"][0] for host in gpu_hosts if host in nodes and nodes[host]["smi"]["gpus"]}
    found = []
    for name, words, unit, work in MEASURES:
        values = {host: gpu[name] for host, gpu in gpus.items() if gpu[name]}
        best = max(values.values(), default=0)
        leader = next((host for host, value in values.items() if value == best), "")
        for host, value in values.items():
            share = 1 - value / best
            if share > NOTABLE:
                seen = f"will be slower than {leader}: {words} {value:g} against {best:g} {unit}"
                found.append(
                    finding(
                        host, "warn", "slower", seen, f"up to {share:.0%} in {work}; per_node gives it a smaller share"
                    )
                )
    return found


def judge(nodes: Dict[str, Node], gpu_hosts: List[str], absent: List[str], supported: List[str]) -> List[Finding]:
    """Everything worth a sentence, worst first."""
    found = [
        finding(host, "fail", "reach", "no answer over SSH", f"ssh to {host} by hand; is it up?") for host in absent
    ]
    for host, node in nodes.items():
        found += check_system(host, node, supported)
        if host in gpu_hosts:
            found += check_driver(host, node)
            for gpu in node["smi"]["gpus"]:
                found += check_gpu(host, gpu)
            found += check_processes(host, node)
    found += compare(nodes, gpu_hosts) + check_clocks(nodes) + predict(nodes, gpu_hosts)
    return sorted(found, key=lambda one: ("fail", "warn").index(one["level"]))


def row(host: str, node: Optional[Node]) -> List[str]:
    """One host as cells of the table."""
    if node is None:
        return [host, "no answer", *["–"] * 8]
    gpus = node["smi"]["gpus"]
    first = gpus[0] if gpus else {}

    def cell(name: str, form: str = "{}") -> str:
        return form.format(first[name]) if first.get(name) is not None else "–"

    switch = {True: "on", False: "off", None: "–"}
    return [
        host,
        f"{node['os']['id']} {node['os']['version']}",
        node["kernel"],
        f"{gib(node['memory']['total']):.0f}",
        f"{gib(node['disk']['free']):.0f}",
        f"{len(gpus)}× {first['name']}" if gpus else "–",
        cell("driver"),
        f"{cell('sm_clock_max_mhz')}/{cell('memory_clock_max_mhz')}" if gpus else "–",
        f"{cell('power_limit_w')}/{cell('power_max_w')}" if gpus else "–",
        f"{switch[first.get('ecc')]}/{switch[first.get('mig')]}/x{cell('pcie_width')}" if gpus else "–",
    ]


HEADER = ["host", "system", "kernel", "GiB", "free", "GPU", "driver", "MHz", "W", "ECC/MIG/PCIe"]


def table(nodes: Dict[str, Optional[Node]], findings: List[Finding]) -> str:
    """One table of all hosts, and below it what to do."""
    rows = [HEADER, *(row(host, node) for host, node in nodes.items())]
    widths = [max(len(cells[at]) for cells in rows) for at in range(len(HEADER))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(cells, widths)).rstrip() for cells in rows]
    lines.append("")
    for one in findings:
        lines.append(f"{one['level']:<4}  {one['host']}  {one['check']}: {one['seen']}")
        if one["advice"]:
            lines.append(f"      → {one['advice']}")
    counts = {level: sum(one["level"] == level for one in findings) for level in ("fail", "warn")}
    lines.append(f"{len(nodes)} hosts, {counts['fail']} to repair, {counts['warn']} to look at")
    return "\n".join(lines)


def report(nodes: Dict[str, Optional[Node]], findings: List[Finding]) -> Dict[str, Any]:
    """What goes into the JSON file."""
    return {"schema": 1, "written_unix": time.time(), "nodes": nodes, "findings": findings}
