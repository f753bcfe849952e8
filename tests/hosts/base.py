"""The Debian 12 that all hosts start from: debootstrapped once from this machine's own apt sources, then kept."""

import gzip
import hashlib
import inspect
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.hosts.layout import FOLDER, PROXY, USER, CannotBoot

RELEASE = "bookworm"
# What a freshly installed server has beside the essential packages; no more, so that the roles must bring the rest.
PACKAGES = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "sudo",
    "python3",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "procps",
    "kmod",
    "netbase",
    "less",
    "cron",
    "logrotate",
    "rsyslog",
    "systemd-timesyncd",
    "tzdata",
    # vLLM's CPU build loads it; the hosts use this machine's environment, which need not carry it.
    "libnuma1",
]
# Kernel options behind the modules that a Kubernetes host loads, for machines whose kernel has them built in.
BUILT_IN = {
    "OVERLAY_FS": "kernel/fs/overlayfs/overlay.ko",
    "BRIDGE_NETFILTER": "kernel/net/bridge/br_netfilter.ko",
    "NF_CONNTRACK": "kernel/net/netfilter/nf_conntrack.ko",
    "IP_VS": "kernel/net/netfilter/ipvs/ip_vs.ko",
    "VXLAN": "kernel/drivers/net/vxlan/vxlan.ko",
}


@dataclass(frozen=True)
class Source:
    """One archive of Debian that this machine's apt is configured with."""

    uri: str
    suite: str
    keyring: str

    def line(self) -> str:
        """As /etc/apt/sources.list has it."""
        return f"deb [signed-by={self.keyring}] {self.uri} {self.suite} main"


def sources(folder: Path = Path("/etc/apt")) -> list[Source]:
    """The main archives of the hosts' release, from deb822 and one-line files; CannotBoot when there is none."""
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    result = []
    for file in sorted(folder.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.+)$", stanza, re.MULTILINE))
            if "deb" in fields.get("Types", "").split() and "main" in fields.get("Components", "").split():
                for uri in fields["URIs"].split():
                    result += [Source(uri, suite, keyring) for suite in fields["Suites"].split()]
    for file in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]:
        lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            if match := re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+.*\bmain\b", line):
                result.append(Source(match[1], match[2], keyring))
    ours = [source for source in result if re.fullmatch(rf"{RELEASE}(-updates|-security)?", source.suite)]
    if not any(source.suite == RELEASE for source in ours):
        raise CannotBoot(f"no archive of Debian {RELEASE} (main) in {folder}/sources.list*: the hosts are made from it")
    return ours


def build() -> Path:
    """The base's root folder; built when it is not there (two minutes), and again when its recipe changed."""
    package_sources = sources()
    recipe = repr((package_sources, PACKAGES, PROXY, inspect.getsource(_configure)))
    root = FOLDER / f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if root.exists():
        return root
    for old in FOLDER.glob("base-*"):
        shutil.rmtree(old)
    making = FOLDER / "base-making"
    print("making the hosts' base with debootstrap; about two minutes, once", flush=True)
    with (FOLDER / "debootstrap.log").open("w") as log:
        debootstrap(making, package_sources, PACKAGES, log)
        _configure(making, package_sources)
        if _in(making, "apt-get", "update", "-qq", stdout=log, stderr=log).returncode:
            raise CannotBoot(f"apt-get update failed in the hosts' base; its reason is at the end of {log.name}")
    (making / "etc/resolv.conf").write_text("")
    # From here on the way out is the proxy on the bridge, which a test can cut.
    (making / "etc/apt/apt.conf.d/90proxy").write_text(
        f'Acquire::http::Proxy "{PROXY}";\nAcquire::https::Proxy "{PROXY}";\n'
    )
    return making.rename(root)


def debootstrap(root: Path, package_sources: list[Source], packages: list[str], log: IO[str]) -> None:
    """Put Debian's essential packages and `packages` into `root`; CannotBoot when that fails."""
    mirror = next(source for source in package_sources if source.suite == RELEASE)
    cache = root.parent / "packages"
    cache.mkdir(exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--keyring={mirror.keyring}", f"--cache-dir={cache}"]
    command += [f"--include={','.join(packages)}", RELEASE, str(root), mirror.uri]
    if subprocess.run(command, stdout=log, stderr=log).returncode:
        raise CannotBoot(f"debootstrap failed; its reason is at the end of {log.name}")


def _in(root: Path, *command: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["chroot", str(root), *command], **more)  # type: ignore[call-overload, no-any-return]


def _configure(root: Path, package_sources: list[Source]) -> None:
    (root / "etc/apt/sources.list").write_text("".join(source.line() + "\n" for source in package_sources))
    for name in ("resolv.conf", "hosts"):
        shutil.copy(Path("/etc") / name, root / "etc" / name)
    _in(root, "useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo,adm", USER, check=True)
    sudoers = root / "etc/sudoers.d" / USER
    sudoers.write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    for key in root.glob("etc/ssh/ssh_host_*"):
        key.unlink()
    # What is of no use in a container, or makes a boot and a snapshot restless.
    masked = ["systemd-timesyncd.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer"]
    masked += ["systemd-networkd.service", "systemd-resolved.service", "getty.target", "console-getty.service"]
    _in(root, "systemctl", "mask", *masked, check=True, stderr=subprocess.DEVNULL)
    (root / "root").chmod(0o711)


def describe_kernel(root: Path) -> None:
    """Describe the kernel's built-in modules, so that modprobe in a host works without loadable ones."""
    release = platform.release()
    modules = root / "lib/modules" / release
    if Path("/lib/modules", release).is_dir():
        return
    modules.mkdir(parents=True, exist_ok=True)
    options = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode() if Path("/proc/config.gz").exists() else ""
    there = [path for option, path in BUILT_IN.items() if f"CONFIG_{option}=y\n" in options]
    (modules / "modules.builtin").write_text("".join(f"{path}\n" for path in there))
    (modules / "modules.order").write_text("")
    subprocess.run(["chroot", str(root), "depmod", release], check=True)
