"""What is wrong with hosts, and which nodes will be slower: pure functions of the facts of `harness.host_facts`."""

import re
import time
from collections.abc import Collection, Sequence
from typing import Any

from harness import gpu_checks

GIB = 1 << 30
NEEDED_PYTHON = (3, 9)
NEEDED_DISK_GIB = 40
"""Of a host with GPUs: vLLM's environment while it is installed (20), the weights (15), results."""
NEEDED_CLUSTER_DISK_GIB = 60
"""The same with the node image, of which there are two copies while it is installed."""
NEEDED_MEMORY_GIB = 16
CLOCK_TOLERANCE_S = 5.0
"""More than the time within which all hosts are read."""
PYTHONS = ((3, 11), (3, 13))
"""The oldest and the newest Python that the pinned packages are for."""
SITE = "run site.yml --tags nvidia"
BY_HAND = "docs/getting-started/hosts.md#the-driver"
HOT_C = 80
NOTABLE_SHARE = 0.01
"""Smaller differences between GPUs are not reported."""

Facts = dict[str, Any]
Finding = dict[str, str]
"""host, level ("fail" or "warn"), check, seen, advice."""

# How GPUs may differ: (name, its words, unit, the work that is slower by at most that share).
MEASURES = (
    ("sm_clock_max_mhz", "highest SM clock", "MHz", "prefill, which is bound by arithmetic"),
    ("sm_clock_set_mhz", "application clock", "MHz", "prefill, which is bound by arithmetic"),
    ("memory_clock_max_mhz", "memory clock", "MHz", "decoding, which is bound by memory"),
    ("power_limit_w", "power limit", "W", "all work, once the limit is reached"),
)
COLUMNS = ["host", "system", "kernel", "GiB", "free", "GPU", "driver", "MHz", "W", "ECC/MIG/PCIe"]

_LOST = re.compile(r"\blost\b|fallen off|requires reset")


def judge(
    hosts: dict[str, Facts | None],
    gpu_hosts: Sequence[str],
    cluster_hosts: Collection[str] = (),
    supported: Sequence[str] = (),
) -> list[Finding]:
    """All findings, failures before warnings.

    Args:
        hosts: facts by host; None for a host that did not answer.
        gpu_hosts: hosts that should have GPUs.
        cluster_hosts: those that site.yml sets up; on others the advice is to do it by hand.
        supported: systems such as "debian 12" that site.yml can set up; empty for any.
    """
    answered = {host: facts for host, facts in hosts.items() if facts is not None}
    findings = [
        _finding(host, "fail", "reach", "no answer over SSH", f"run `ssh {host} true`; is the host up?")
        for host in hosts
        if host not in answered
    ]
    for host, facts in answered.items():
        in_cluster = host in cluster_hosts
        findings += _system(host, facts, supported if in_cluster else (), in_cluster=in_cluster)
        if host in gpu_hosts:
            findings += _driver(host, facts, in_cluster=in_cluster)
            for gpu in facts["smi"]["gpus"]:
                findings += _gpu(host, gpu, in_cluster=in_cluster)
            findings += _processes(host, facts) + _compiler(host, facts)
    gpu_facts = {host: answered[host] for host in gpu_hosts if host in answered}
    of_cluster = {host: facts for host, facts in answered.items() if host in cluster_hosts}
    findings += _differences(gpu_facts, in_cluster=set(gpu_facts) <= set(of_cluster)) + _package_versions(of_cluster)
    findings += _clocks(answered) + _slower(gpu_facts)
    return sorted(findings, key=lambda finding: ("fail", "warn").index(finding["level"]))


def table(hosts: dict[str, Facts | None], findings: list[Finding]) -> str:
    """The hosts as a table, and below it the findings with their advice."""
    rows = [COLUMNS, *(_row(host, facts) for host, facts in hosts.items())]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(widths[index]) for index, cell in enumerate(row)).rstrip() for row in rows]
    lines.append("")
    for finding in findings:
        lines.append(f"{finding['level']:<4}  {finding['host']}  {finding['check']}: {finding['seen']}")
        if finding["advice"]:
            lines.append(f"      → {finding['advice']}")
    counts = {level: sum(finding["level"] == level for finding in findings) for level in ("fail", "warn")}
    lines.append(f"{len(hosts)} hosts, {counts['fail']} failed, {counts['warn']} warnings")
    return "\n".join(lines)


def report(hosts: dict[str, Facts | None], findings: list[Finding]) -> dict[str, Any]:
    """The content of the JSON file."""
    return {"schema": 1, "written_unix": time.time(), "nodes": hosts, "findings": findings}


def _finding(host: str, level: str, check: str, seen: str, advice: str) -> Finding:
    return {"host": host, "level": level, "check": check, "seen": seen, "advice": advice}


def _gib(size: float | None) -> float:
    return (size or 0) / GIB


def _system(host: str, facts: Facts, supported: Sequence[str], *, in_cluster: bool) -> list[Finding]:
    """System, Pythons, disk, memory, swap, clock, pending reboot, frequency governor."""
    findings = []

    def add(level: str, check: str, seen: str, advice: str) -> None:
        findings.append(_finding(host, level, check, seen, advice))

    system, memory, disk = f"{facts['os']['id']} {facts['os']['version']}", facts["memory"], facts["disk"]
    if supported and system not in supported:
        add("fail", "system", system, f"install {' or '.join(supported)}")
    if tuple(int(part) for part in facts["python"].split(".")[:2]) < NEEDED_PYTHON:
        add("fail", "python", facts["python"], "install Python 3.9 or newer, which Ansible's modules need")
    if (tool := facts.get("interpreter")) and not _is_supported(tool["version"]):
        oldest, newest = (".".join(map(str, one)) for one in PYTHONS)
        seen = f"is Python {tool['version']}" if tool["version"] else "does not run"
        advice = (
            f"install one (your system's packages, or `uv python install {newest}`) and set harness_python to its path"
        )
        needs = f"the pinned packages are for Python {oldest} to {newest}"
        add("fail", "python", f"harness_python = {tool['command']} {seen}, and {needs}", advice)
    contents = "image, environment, weights and results" if in_cluster else "environment, weights and results"
    needed = NEEDED_CLUSTER_DISK_GIB if in_cluster else NEEDED_DISK_GIB
    if _gib(disk["free"]) < needed:
        advice = f"{contents} need {needed} GiB: free some, or move harness_root"
        add("warn", "disk", f"{_gib(disk['free']):.1f} GiB free for {disk['path']}", advice)
    if _gib(memory["total"]) < NEEDED_MEMORY_GIB:
        advice = f"loading 15 GiB of weights needs {NEEDED_MEMORY_GIB} GiB"
        add("warn", "memory", f"{_gib(memory['total']):.1f} GiB", advice)
    if memory["swap"]:
        by_hand = "run `sudo swapoff -a`, and take it out of /etc/fstab: a model that is swapped out is slow"
        advice = "run site.yml, which turns swap off" if in_cluster else by_hand
        add("warn", "swap", f"{_gib(memory['swap']):.1f} GiB", advice)
    if not facts["clock"]["kept"]:
        add("warn", "time", "no time server keeps the clock", "run chrony or systemd-timesyncd")
    if facts["reboot_required"]:
        add("warn", "reboot", "updated packages require a reboot", "reboot before a run, not during one")
    if facts["cpu"]["governor"] not in (None, "performance"):
        advice = "run `cpupower frequency-set -g performance` for steady latencies"
        add("warn", "cpu", f"frequency governor {facts['cpu']['governor']}", advice)
    return findings


def _is_supported(version: str) -> bool:
    return bool(version) and PYTHONS[0] <= tuple(map(int, version.split(".")[:2])) <= PYTHONS[1]


def _compiler(host: str, facts: Facts) -> list[Finding]:
    """What engines lack to compile kernels, on a host whose Python for the environment was looked at."""
    tool = facts.get("interpreter")
    if tool is None or (facts["compiler"] and tool["headers"]):
        return []
    missing = f"no Python.h of {tool['command']}" if facts["compiler"] else "no C compiler"
    advice = "`sudo apt-get install g++ gcc libc6-dev python3-dev`"
    return [
        _finding(host, "fail", "compiler", f"{missing}, with which an engine compiles kernels while it starts", advice)
    ]


def _driver(host: str, facts: Facts, *, in_cluster: bool) -> list[Finding]:
    """The first thing that keeps a host's GPU from being used; at most one finding."""

    def fail(check: str, seen: str, advice: str) -> list[Finding]:
        return [_finding(host, "fail", check, seen, advice)]

    smi = facts["smi"]
    install = (
        SITE if in_cluster else f"install NVIDIA's driver of branch {gpu_checks.CUDA_13_BRANCH} or newer ({BY_HAND})"
    )
    if not facts["pci_gpus"] and not smi["gpus"]:
        if other := gpu_checks.foreign(facts["other_gpus"]):
            return fail("gpu", *other)
        return fail("gpu", "no NVIDIA GPU on the PCI bus", "check `lspci -d 10de:`, or take the host out of gpu_nodes")
    if smi["mismatch"]:
        hold = "site.yml --tags nvidia holds them" if in_cluster else "`apt-mark hold` keeps them as they are"
        advice = f"reboot: the driver's packages were updated under the loaded module; {hold}"
        return fail("driver", "Driver/library version mismatch", advice)
    if facts["nouveau"]:
        return fail("driver", "nouveau holds the GPU", f"{install}, which disables it, then reboot")
    if not smi["path"]:
        return fail("driver", "not installed", install)
    if not smi["gpus"]:
        advice = "see `dmesg | grep -i nvrm`, `dkms status` and `mokutil --sb-state`"
        return fail("driver", smi["error"] or "nvidia-smi lists no GPU", advice)
    for line in smi.get("warnings", ()):
        if _LOST.search(line):
            return fail("gpu lost", line, "reboot the host; if it happens again, see `dmesg | grep -i xid`")
    version = smi["gpus"][0]["driver"]
    if int(version.split(".")[0]) < gpu_checks.CUDA_13_BRANCH:
        return fail("driver", version, f"CUDA 13 needs {gpu_checks.CUDA_13_BRANCH} or newer: {install}")
    if lack := gpu_checks.fabric(facts["nvswitches"], facts["fabric_manager"], smi["unjoined"]):
        return fail("fabric manager", *lack)
    return []


def _gpu(host: str, gpu: dict[str, Any], *, in_cluster: bool) -> list[Finding]:
    """What slows one GPU down, or makes its figures hard to compare."""
    findings = []

    def warn(check: str, seen: str, advice: str, level: str = "warn") -> None:
        findings.append(_finding(host, level, check, f"gpu {gpu['index']}: {seen}", advice))

    if gpu["mig"]:
        warn("mig", "MIG is on", "an engine gets a slice only; `nvidia-smi -mig 0` gives it the whole GPU", "fail")
    if gpu["persistence"] is False:
        warn("persistence", "persistence mode is off", SITE if in_cluster else "run `sudo nvidia-smi -pm 1`")
    if gpu["throttled"]:
        warn("throttled", f"throttled: {', '.join(gpu['throttled'])}", "check cooling, power supply and power limit")
    if (gpu["temperature_c"] or 0) >= HOT_C:
        warn("temperature", f"{gpu['temperature_c']} °C", "check airflow and neighbouring cards before a run")
    limit, default = gpu["power_limit_w"], gpu["power_default_w"]
    if limit and default and limit < default:
        warn("power", f"limited to {limit} of {default} W", f"run `nvidia-smi -pl {default}`")
    # An idle link lowers its generation, so only its width shows a bad slot.
    if gpu["pcie_width"] and gpu["pcie_width_max"] and gpu["pcie_width"] < gpu["pcie_width_max"]:
        warn("pcie", f"x{gpu['pcie_width']} of x{gpu['pcie_width_max']}", "reseat the card, or move it to a full slot")
    return findings


def _processes(host: str, facts: Facts) -> list[Finding]:
    """Processes that use a GPU already, and what nvidia-smi warns of."""
    advice = "stop it: it takes memory and time from a run"
    findings = [
        _finding(host, "warn", "gpu in use", f"pid {one['pid']} ({one['name']}) holds {one['memory_mib']} MiB", advice)
        for one in facts["smi"]["processes"]
    ]
    advice = "nvidia-smi still lists the GPUs; `nvidia-smi -q` and the vendor's documents say what it means"
    return findings + [
        _finding(host, "warn", "gpu", line, advice)
        for line in facts["smi"].get("warnings", ())
        if not _LOST.search(line)
    ]


def _compare(check: str, level: str, values: dict[str, Any], advice: str) -> list[Finding]:
    """A finding where not all values are the same."""
    if len(set(map(str, values.values()))) < 2:
        return []
    seen = ", ".join(f"{host} {value}" for host, value in values.items())
    return [_finding("all", level, check, seen, advice)]


def _differences(gpu_hosts: dict[str, Facts], *, in_cluster: bool) -> list[Finding]:
    """What should be the same on all GPU hosts, and is not."""
    findings = []
    comparable = "the figures of different nodes cannot be compared"
    fix = f"set nvidia_driver_version, then {SITE}" if in_cluster else "install the same driver on all hosts"
    for check, field, level, advice in (
        ("driver", "driver", "fail", f"{comparable}: {fix}"),
        ("gpu model", "name", "warn", comparable),
        ("ecc", "ecc", "warn", comparable),
        ("mig", "mig", "warn", comparable),
    ):
        values = {name: gpu[field] for name, gpu in _all_gpus(gpu_hosts).items()}
        findings += _compare(check, level, values, advice)
    kernels = {host: facts["kernel"] for host, facts in gpu_hosts.items()}
    advice = "install the same kernel on all hosts: `apt full-upgrade`, then reboot"
    return findings + _compare("kernel", "warn", kernels, advice)


def _package_versions(hosts: dict[str, Facts]) -> list[Finding]:
    """Packages of which a cluster's hosts have different versions."""
    findings = []
    for name in sorted({name for facts in hosts.values() for name in facts["packages"]}):
        versions = {host: facts["packages"].get(name, {}).get("version") for host, facts in hosts.items()}
        installed = {host: version for host, version in versions.items() if version}
        findings += _compare(
            name, "warn", installed, "run playbooks/upgrade.yml, which installs one version on all hosts"
        )
    return findings


def _all_gpus(hosts: dict[str, Facts]) -> dict[str, dict[str, Any]]:
    """The GPUs of all hosts by the host's name, and by their number where it has several."""
    return {
        host if len(facts["smi"]["gpus"]) == 1 else f"{host} gpu {gpu['index']}": {**gpu, "host": host}
        for host, facts in hosts.items()
        for gpu in facts["smi"]["gpus"]
    }


def _clocks(hosts: dict[str, Facts]) -> list[Finding]:
    """Clocks that are further apart than it takes to read all hosts."""
    offsets = {host: facts["clock"]["offset_s"] for host, facts in hosts.items()}
    known = {host: offset for host, offset in offsets.items() if offset is not None}
    if not known or max(known.values()) - min(known.values()) < CLOCK_TOLERANCE_S:
        return []
    seen = ", ".join(f"{host} {offset:+.1f} s" for host, offset in known.items())
    advice = "synchronise all hosts with the same time server"
    return [_finding("all", "warn", "time", f"clocks against the controller's: {seen}", advice)]


def _slower(gpu_hosts: dict[str, Facts]) -> list[Finding]:
    """GPUs that will be slower than the best one, as far as settings and clocks can tell."""
    findings = []
    gpus = _all_gpus(gpu_hosts)
    for measure, words, unit, work in MEASURES:
        values = {name: gpu[measure] for name, gpu in gpus.items() if gpu[measure]}
        best = max(values, key=lambda name: values[name], default="")
        for name, value in values.items():
            share = 1 - value / values[best]
            if share > NOTABLE_SHARE:
                host = gpus[name]["host"]
                which = "" if name == host else f"{name.removeprefix(host).strip()} "
                seen = f"{which}will be slower than {best}: {words} {value:g} against {values[best]:g} {unit}"
                advice = f"up to {share:.0%} in {work}; per_node gives it a smaller share"
                findings.append(_finding(host, "warn", "slower", seen, advice))
    return findings


def _row(host: str, facts: Facts | None) -> list[str]:
    """One host as the cells of COLUMNS."""
    if facts is None:
        return [host, "no answer", *["–"] * (len(COLUMNS) - 2)]
    gpus = facts["smi"]["gpus"]
    first = gpus[0] if gpus else {}

    def cell(name: str) -> str:
        return "–" if first.get(name) is None else str(first[name])

    switch = {True: "on", False: "off", None: "–"}
    return [
        host,
        f"{facts['os']['id']} {facts['os']['version']}",
        facts["kernel"],
        f"{_gib(facts['memory']['total']):.0f}",
        f"{_gib(facts['disk']['free']):.0f}",
        f"{len(gpus)}× {first['name']}" if gpus else "–",
        cell("driver"),
        f"{cell('sm_clock_max_mhz')}/{cell('memory_clock_max_mhz')}" if gpus else "–",
        f"{cell('power_limit_w')}/{cell('power_max_w')}" if gpus else "–",
        f"{switch[first.get('ecc')]}/{switch[first.get('mig')]}/x{cell('pcie_width')}" if gpus else "–",
    ]
