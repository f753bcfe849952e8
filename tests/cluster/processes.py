"""Containers as processes of this machine: started by the helper `container.py`, signalled and awaited."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from tests.cluster.kinds import Object

_HELPER = Path(__file__).with_name("container.py")


class CannotStart(Exception):
    """The container cannot be created; the text is the reason."""


class Process:
    """A container's processes."""

    def __init__(self, helper: asyncio.subprocess.Process, pid: int, orders: Object) -> None:
        self._helper = helper
        self.pid, self.orders = pid, orders

    @classmethod
    async def start(cls, orders: Object) -> "Process":
        """Start a container.

        Raises:
            CannotStart: it does not start.
        """
        Path(orders["root"]).mkdir(parents=True, exist_ok=True)
        pipe = asyncio.subprocess.PIPE
        helper = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", str(_HELPER), stdin=pipe, stdout=pipe)
        assert helper.stdin and helper.stdout
        word = rest = ""
        try:
            helper.stdin.write(json.dumps(orders).encode() + b"\n")
            word, _, rest = (await helper.stdout.readline()).decode().strip().partition(" ")
        finally:
            if word != "pid":
                await _end(helper)
        if word != "pid":
            raise CannotStart(rest or "its helper has ended")
        return cls(helper, int(rest), orders)

    async def wait(self) -> int:
        """The exit code, as a container runtime gives it."""
        assert self._helper.stdout
        reply = (await self._helper.stdout.readline()).decode().split()
        await _end(self._helper)
        with contextlib.suppress(OSError):
            Path(self.orders["root"]).rmdir()
        return int(reply[1]) if reply else 137

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the container's first process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End everything in the container now."""
        if self._helper.stdin:
            self._helper.stdin.close()

    def find(self, command: str) -> bool:
        """Whether a command exists inside the container."""
        root = f"/proc/{self.pid}/root"
        if "/" in command:
            return os.path.lexists(f"{root}/{command}")
        return any(os.path.lexists(f"{root}{folder}/{command}") for folder in self.orders["env"]["PATH"].split(":"))

    async def execute(self, command: list[str]) -> asyncio.subprocess.Process:
        """Run one more command in the container, as its user, with its variables."""
        words = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--uts", "--root", "--wdns=/"]
        if self.orders["user"] is not None:
            words += [f"--setuid={self.orders['user']}", f"--setgid={self.orders['group']}"]
        pipe = asyncio.subprocess.PIPE
        env = self.orders["env"]
        return await asyncio.create_subprocess_exec(
            *words, "--", *command, stdin=pipe, stdout=pipe, stderr=pipe, env=env
        )


async def _end(helper: asyncio.subprocess.Process) -> None:
    """Let a helper end, and wait for that and for its pipes, which must not outlive the event loop."""
    assert helper.stdin
    helper.stdin.close()
    await helper.communicate()
    with contextlib.suppress(OSError):
        await helper.stdin.wait_closed()
