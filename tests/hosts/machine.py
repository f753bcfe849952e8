"""One host: an overlay on the base, a network namespace on the bridge, and systemd-nspawn that boots it.

The keeper (keeper.py) runs all of this in a mount namespace of its own, so that overlays and namespaces end with it.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts import base
from tests.hosts.layout import (
    ADDRESSES,
    BRIDGE,
    CARD,
    FOLDER,
    GPU_HOSTS,
    KEY,
    PREFIX,
    USER,
    mounted_read_only,
)

REBOOTS = 133
CAPABILITIES = "CAP_NET_ADMIN"


def control_groups(name: str) -> list[Path]:
    """A control group of its own for a host in each hierarchy that systemd or a CPU quota needs."""
    groups = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        kind, _, options = after.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and {"name=systemd", "cpu"} & set(options.split(","))):
            groups.append(Path(before.split()[4]) / f"mlperf-{name}")
    return groups


@dataclass
class Machine:
    """A host by its name; off until `on` is called."""

    name: str
    root: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def folder(self) -> Path:
        """Where the host's own files are: `upper` is what it changed on the base."""
        return FOLDER / "hosts" / self.name

    def ip(self, *words: str) -> None:
        """An ip command about this host."""
        subprocess.run(["ip", *words], check=True)

    def connect(self) -> None:
        """Make the host's network namespace and its cable to the bridge; both last over reboots."""
        space, cable = f"mlperf-{self.name}", f"mlperf-{self.name}"
        self.ip("netns", "add", space)
        self.ip("link", "add", cable, "type", "veth", "peer", "name", "host0", "netns", space)
        self.ip("link", "set", cable, "master", BRIDGE, "up")
        self.ip("-n", space, "address", "add", f"{ADDRESSES[self.name]}/{PREFIX}", "dev", "host0")
        self.ip("-n", space, "link", "set", "host0", "up")
        self.ip("-n", space, "link", "set", "lo", "up")

    def fresh(self, saved: Path | None = None) -> None:
        """Reset to bare, or to the state in `saved`; the host must be off."""
        self._mounted(False)
        shutil.rmtree(self.folder, ignore_errors=True)
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        if saved:
            subprocess.run(["cp", "-a", f"{saved}/.", str(self.folder / "upper")], check=True)
        self._mounted(True)
        if not saved:
            self._personalise()

    def on(self) -> None:
        """Boot."""
        groups = control_groups(self.name)
        for group in groups:
            group.mkdir(exist_ok=True)
        enter = f'for g in {" ".join(map(str, groups))}; do echo $$ > $g/cgroup.procs; done; exec "$@"'
        root = self.folder / "root"
        command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", enter, "sh", "systemd-nspawn", "--quiet", "--boot"]
        command += ["--directory", str(root), "--machine", self.name, "--register=no", "--keep-unit"]
        command += [f"--network-namespace-path=/run/netns/mlperf-{self.name}", "--resolv-conf=off", "--timezone=off"]
        command += ["--link-journal=no", "--console=read-only", f"--capability={CAPABILITIES}"]
        command += [f"--bind-ro={path}" for path in mounted_read_only()]
        with (self.folder / "console.log").open("ab") as console:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
            )

    def off(self) -> None:
        """Cut the power."""
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None
        end(self.name)

    def look(self) -> None:
        """Boot again after a reboot; record that the host is off after a power-off."""
        status = self.process.poll() if self.process else None
        if status is not None:
            self.off()
            if status == REBOOTS:
                self.on()

    def slow(self, cores: float) -> None:
        """Let all processes of the host together use `cores` of the machine's CPUs; 0 lifts the limit."""
        period = 50_000
        quota = int(cores * period)
        for group in control_groups(self.name):
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(str(period))
                (group / "cpu.cfs_quota_us").write_text(str(quota or -1))
            elif (group / "cpu.max").exists():
                (group / "cpu.max").write_text(f"{quota or 'max'} {period}")

    def save(self, folder: Path) -> None:
        """Save the host's changes for `fresh`; the host must be off."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(["cp", "-a", f"{self.folder}/upper/.", str(folder)], check=True)

    def _mounted(self, expected: bool) -> None:
        root = self.folder / "root"
        if root.is_mount():
            subprocess.run(["umount", str(root)], check=True)
        if expected:
            # Volatile: no sync reaches the disk. These hosts are thrown away, and dpkg syncs every file.
            layers = f"volatile,lowerdir={self.root},upperdir={self.folder}/upper,workdir={self.folder}/work"
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)], check=True)

    def _personalise(self) -> None:
        root = self.folder / "root"
        (root / "etc/hostname").write_text(f"{self.name}\n")
        (root / "etc/hosts").write_text(f"127.0.0.1\tlocalhost\n127.0.1.1\t{self.name}\n")
        (root / "etc/machine-id").write_text("uninitialized\n")
        for suffix in ("", ".pub"):
            shutil.copy(FOLDER / f"{self.name}_host_key{suffix}", root / f"etc/ssh/ssh_host_ed25519_key{suffix}")
        ssh = root / "home" / USER / ".ssh"
        ssh.mkdir(mode=0o700)
        shutil.copy(KEY.with_suffix(".pub"), ssh / "authorized_keys")
        subprocess.run(["chroot", str(root), "chown", "-R", f"{USER}:", f"/home/{USER}/.ssh"], check=True)
        base.describe_kernel(root)
        if self.name in GPU_HOSTS:
            card = root / CARD.lstrip("/")
            card.mkdir(parents=True)
            for name, value in (("vendor", "0x10de"), ("class", "0x030200"), ("device", "0x20b7")):
                (card / name).write_text(f"{value}\n")


def end(name: str) -> None:
    """End every process of a host, whoever started it: killing systemd-nspawn alone leaves the host running."""
    for group in control_groups(name):
        deadline = time.monotonic() + 10
        while group.exists() and time.monotonic() < deadline:
            inner = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
            for one in [*inner, group]:
                with suppress(OSError):
                    for number in (one / "cgroup.procs").read_text().split():
                        os.kill(int(number), signal.SIGKILL)
                with suppress(OSError):
                    one.rmdir()
