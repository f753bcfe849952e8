"""Control of the three hosts: up, down, reset, power, network, and commands over SSH."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.hosts import inventory, keeper, repository
from tests.hosts.layout import (
    ADDRESSES,
    FOLDER,
    HOSTS,
    KEEPER_LOG,
    KEY,
    KNOWN_HOSTS,
    LOCK,
    REPOSITORY,
    SOCKET,
    USER,
    CannotBoot,
    why_not,
)

SSH_OPTIONS = ["-i", str(KEY), "-o", f"UserKnownHostsFile={KNOWN_HOSTS}", "-o", "IdentitiesOnly=yes"]
SSH_OPTIONS += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "-o", "LogLevel=ERROR"]


def holder() -> str:
    """The process that keeps the hosts, or an empty string."""
    with LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            return lock.read() or "a process that is just starting"
    return ""


def up(owner: int = 0) -> None:
    """Boot all three, bare. With an `owner` they go down when that process ends, however it ends."""
    if reason := why_not():
        raise CannotBoot(reason)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if holding_process := holder():
        raise CannotBoot(
            f"the hosts are up already, kept by {holding_process}; end them with: python -m tests.hosts down"
        )
    _make_keys()
    repository.build()
    inventory.write()
    SOCKET.unlink(missing_ok=True)
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.hosts.keeper", str(owner)]
    with KEEPER_LOG.open("w") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    while not SOCKET.exists():
        if process.poll() is not None:
            raise CannotBoot(f"the hosts did not boot:\n{KEEPER_LOG.read_text()[-2000:]}")
        time.sleep(0.1)
    wait()


def down() -> None:
    """Power all off and remove what was made for them; the base and the packages stay for the next time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        ask("down")
    deadline = time.monotonic() + 30
    while holding_process := holder():
        if time.monotonic() > deadline:
            # A keeper that does not answer is ended by its number; hosts, mounts and namespaces end with it.
            os.kill(int(holding_process.split()[1].strip(",")), signal.SIGKILL)
        time.sleep(0.1)
    keeper.clean()


def ask(do: str, *hosts: str, **more: Any) -> dict[str, Any]:
    """One request to the keeper; see Keeper.answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(120)
        connection.connect(str(SOCKET))
        connection.sendall((json.dumps({"do": do, "hosts": hosts, **more}) + "\n").encode())
        with connection.makefile() as stream:
            answer: dict[str, Any] = json.loads(stream.readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def ssh(name: str, command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a shell command on a host as the login user."""
    words = ["ssh", *SSH_OPTIONS, f"{USER}@{ADDRESSES[name]}", command]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)


def run(name: str, command: str, timeout_s: float = 60) -> str:
    """The output of a command on a host; it must succeed."""
    result = ssh(name, command, timeout_s)
    assert result.returncode == 0, f"{name}: {command}: {result.stdout}{result.stderr}"
    return result.stdout


def wait(*names: str, timeout_s: float = 60) -> None:
    """Wait until SSH answers on these hosts (all, if none is named)."""
    deadline = time.monotonic() + timeout_s
    for name in names or HOSTS:
        while ssh(name, "true").returncode:
            if time.monotonic() > deadline:
                console = (FOLDER / "hosts" / name / "console.log").read_text(errors="replace")
                raise CannotBoot(f"{name} does not answer on SSH after {timeout_s} s:\n{console[-2000:]}")
            time.sleep(0.2)


def fresh(*names: str, label: str | None = None) -> None:
    """Reset all hosts to bare, or to what `save` kept under `label`, and boot them."""
    ask("fresh", *(names or HOSTS), label=label)
    wait(*names)


def save(label: str) -> None:
    """Save the state of all hosts for `fresh`; they reboot."""
    for name in HOSTS:
        run(name, "sync")
    ask("save", *HOSTS, label=label)
    wait()


def _make_keys() -> None:
    lines = []
    for file in (KEY, *(FOLDER / f"{name}_host_key" for name in HOSTS)):
        for old in (file, file.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", file.name, "-f", str(file)], check=True)
    for name in HOSTS:
        kind, key, _ = Path(FOLDER / f"{name}_host_key.pub").read_text().split()
        lines.append(f"{ADDRESSES[name]} {kind} {key}\n")
    KNOWN_HOSTS.write_text("".join(lines))
