"""The three hosts for all tests of this folder, booted once, and ansible-playbook over SSH on them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import hosts
from tests.hosts.layout import INVENTORY, REPOSITORY, why_not

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


@dataclass(frozen=True)
class Counts:
    """A host's line of the recap."""

    ok: int
    changed: int
    unreachable: int
    failed: int


@dataclass
class Play:
    """One playbook on the three hosts, with the inventories given; its output goes to a file."""

    folder: Path
    inventories: tuple[Path | str, ...] = ("inventory/jw", INVENTORY)
    process: subprocess.Popen[str] | None = field(default=None, init=False)
    seconds: float = field(default=0.0, init=False)

    def start(self, playbook: str, *words: str, **extra: Any) -> subprocess.Popen[str]:
        """Begin it, with `extra` as extra variables."""
        inventories = [word for inventory in self.inventories for word in ("-i", inventory)]
        command = [PLAYBOOK, *inventories, playbook, *words, "-e", json.dumps(extra)]
        with (self.folder / "output").open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
            )
        return self.process

    def run(self, playbook: str, *words: str, timeout_s: float = 400, **extra: Any) -> int:
        """Run it to its end; returns its exit status."""
        start = time.monotonic()
        process = self.start(playbook, *words, **extra)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"no end after {timeout_s} s:\n{self.output()[-4000:]}") from None
        self.seconds = time.monotonic() - start
        return status

    def output(self) -> str:
        """Its output so far."""
        return (self.folder / "output").read_text()

    def unwrapped(self) -> str:
        """The output as one line, to find sentences that Ansible has wrapped."""
        return " ".join(self.output().split())

    def counts(self) -> dict[str, Counts]:
        """The recap by host."""
        recap = self.output().split("PLAY RECAP")[1]
        rows = re.findall(
            r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", recap, re.MULTILINE
        )
        return {host: Counts(*map(int, numbers)) for host, *numbers in rows}

    def changed(self) -> dict[str, int]:
        """Changed tasks by host."""
        return {host: counts.changed for host, counts in self.counts().items()}

    def end(self) -> None:
        """End it if it still runs."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)


@pytest.fixture(scope="session")
def booted() -> Iterator[None]:
    """All three hosts, up from here to the end of all tests."""
    if reason := why_not():
        pytest.skip(reason)
    hosts.up(owner=os.getpid())
    try:
        yield
    finally:
        hosts.down()


@pytest.fixture
def play(booted: None, tmp_path: Path) -> Iterator[Play]:
    """Playbooks on the hosts."""
    result = Play(tmp_path)
    yield result
    result.end()


def until(condition: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
    """The first true value of `condition`, asked twice a second."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {timeout_s} s")
