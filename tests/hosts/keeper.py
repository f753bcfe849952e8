"""The process that keeps the hosts: it holds the lock, makes everything, and when it ends, everything ends.

`python -m tests.hosts.keeper OWNER` runs in a mount namespace of its own; with an OWNER other than 0 it ends with that
process. Requests come over a socket, a line of JSON each: {"do": "on", "hosts": ["jw2"]}.
"""

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.hosts import base
from tests.hosts.layout import (
    BRIDGE,
    CONTROLLER_ADDRESS,
    FOLDER,
    HOSTS,
    LOCK,
    PREFIX,
    PROXY_PORT,
    SOCKET,
    WEB_PORT,
    WEB_ROOT,
)
from tests.hosts.machine import Machine, end

SAVED = FOLDER / "saved"


class Keeper:
    """All hosts, the bridge between them, and their two ways out: a proxy for apt and a web server."""

    def __init__(self) -> None:
        root = base.build()
        self.machines = {name: Machine(name, root) for name in HOSTS}
        self.servers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Make the bridge and boot all hosts, bare."""
        # On a mount of our own, so that the names of the network namespaces go with this process.
        Path("/run/netns").mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
        self._ip("link", "add", BRIDGE, "type", "bridge")
        self._ip("address", "add", f"{CONTROLLER_ADDRESS}/{PREFIX}", "dev", BRIDGE)
        self._ip("link", "set", BRIDGE, "up")
        self.join()
        for machine in self.machines.values():
            machine.connect()
            machine.fresh()
            machine.on()

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def join(self) -> None:
        """Open the hosts' ways out."""
        self.cut()
        lines = [f"Port {PROXY_PORT}", f"Listen {CONTROLLER_ADDRESS}", f"Allow {CONTROLLER_ADDRESS}/{PREFIX}"]
        lines += ["Timeout 600", "MaxClients 100", "DisableViaHeader Yes", f'LogFile "{FOLDER}/proxy.log"']
        (FOLDER / "proxy.conf").write_text("\n".join(lines) + "\n")
        web = [sys.executable, "-m", "http.server", "--bind", CONTROLLER_ADDRESS, str(WEB_PORT)]
        for command, log in ((["tinyproxy", "-d", "-c", f"{FOLDER}/proxy.conf"], "proxy.out"), (web, "web.log")):
            with (FOLDER / log).open("ab") as output:
                leash = ["setpriv", "--pdeathsig", "KILL"]
                server = subprocess.Popen(leash + command, cwd=WEB_ROOT, stdout=output, stderr=output)
            self.servers.append(server)

    def cut(self) -> None:
        """Close them: the hosts then reach each other and the controller's SSH only."""
        for server in self.servers:
            server.kill()
            server.wait()
        self.servers.clear()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        machines = [self.machines[name] for name in request.get("hosts", [])]
        command, label = request["do"], request.get("label") or ""
        if command in ("cut", "join"):
            getattr(self, command)()
        for machine in machines:
            saved = SAVED / label / machine.name
            if command == "fresh" and label and not saved.exists():
                raise FileNotFoundError(f"nothing of {machine.name} was saved as {label}")
            if command in ("off", "fresh", "save"):
                machine.off()
            if command == "fresh":
                machine.fresh(saved if label else None)
            elif command == "save":
                machine.save(saved)
            if command in ("on", "fresh", "save") and not machine.process:
                machine.on()
            if command == "slow":
                machine.slow(float(request["cores"]))
        return {"on": [name for name, machine in self.machines.items() if machine.process]}

    def serve(self, owner: int) -> None:
        """Answer requests until one says down, a signal comes, or the owner is gone."""
        watched = os.pidfd_open(owner) if owner else -1
        SOCKET.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(SOCKET))
            server.listen()
            while True:
                sources: list[Any] = [server, watched] if owner else [server]
                ready, _, _ = select.select(sources, [], [], 0.1)
                for machine in self.machines.values():
                    machine.look()
                if watched in ready:
                    return
                if server in ready and not self._one(server):
                    return

    def _one(self, server: socket.socket) -> bool:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as stream, suppress(OSError):
            request = json.loads(stream.readline())
            try:
                reply = {} if request["do"] == "down" else self.answer(request)
            except Exception as error:
                reply = {"error": f"{request}: {type(error).__name__}: {error}"}
            stream.write(json.dumps(reply) + "\n")
            return bool(request["do"] != "down")
        return True


def clean() -> None:
    """Remove what a keeper makes outside its own namespaces: processes of hosts, the bridge, their saved states.

    Each keeper's hosts have login keys of their own, so that another's could not be entered.
    """
    for name in HOSTS:
        end(name)
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True)
    shutil.rmtree(SAVED, ignore_errors=True)


def main(owner: int) -> None:
    """Take the lock, or print who has it; then keep the hosts."""
    with LOCK.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        clean()
        lock.truncate(0)
        lock.write(
            f"process {os.getpid()}" + (f", for process {owner}" if owner else ", by `python -m tests.hosts up`")
        )
        lock.flush()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        keeper = Keeper()
        try:
            keeper.start()
            keeper.serve(owner)
        finally:
            SOCKET.unlink(missing_ok=True)
            keeper.cut()
            clean()


if __name__ == "__main__":
    main(int(sys.argv[1]))
