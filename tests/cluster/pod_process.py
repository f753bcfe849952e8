"""The life of one pod on its node: scripted, or with each container's command as a process of this machine."""

import asyncio
import re
import signal

from tests.cluster import scripts
from tests.cluster.deletion import Options, delete
from tests.cluster.kinds import POD, Object
from tests.cluster.pod_status import PodStatus
from tests.cluster.probes import watch_probes
from tests.cluster.processes import CannotStart, Process
from tests.cluster.state import Image, State
from tests.cluster.volumes import (
    BadConfig,
    NotYet,
    environment,
    expanded,
    identity,
    image_folders,
    mounts,
    sources,
    ways,
)

_REFERENCE = re.compile(r"[a-z0-9]+([._:/-][A-Za-z0-9]+|__|-+)*([:@][A-Za-z0-9_][\w.:-]*)*")
_AGAIN_S = 0.5


class PodProcess:
    """One pod, from its kubelet's first look until it is removed."""

    def __init__(self, state: State, pod: Object) -> None:
        self._state, self._pod = state, pod
        self.state = PodStatus(state, pod)
        self.processes: dict[str, Process] = {}
        self.end_reason = ""
        self._ending = asyncio.Event()
        self._grace_s = 0

    async def run(self) -> None:
        """Run the pod to its end."""
        script = next((one for one in self._state.scripts if one.steps and one.fits(self._pod)), None)
        if script is not None and script.times is not None:
            script.times -= 1
        self.state.begin()
        life = asyncio.create_task(self._walk(script.steps) if script else self._start())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([life, ending], return_when=asyncio.FIRST_COMPLETED)
            if not life.done():
                await self._end(life)
            if not life.cancelled():
                life.result()
            await ending
        finally:
            if left := [task for task in (life, ending) if task.cancel()]:
                await asyncio.gather(*left, return_exceptions=True)
        await self._forget()

    def end(self, grace_s: int) -> None:
        """Stop the containers of a pod that is being deleted, within so many seconds."""
        self._grace_s = grace_s
        self._ending.set()

    def kill(self) -> None:
        """Kill its processes at once, without a report."""
        for process in self.processes.values():
            process.kill()

    async def _end(self, life: "asyncio.Task[None]") -> None:
        for name, process in self.processes.items():
            self.state.note("Killing", f"Stopping container {name}", part=name)
            process.signal(signal.SIGTERM)
        if self.processes:
            await asyncio.wait([life], timeout=self._grace_s)
            self.kill()
            await asyncio.wait([life])
            return
        life.cancel()
        await asyncio.wait([life])
        pod = self.state.pod
        for one in (pod or {}).get("status", {}).get("containerStatuses", ()):
            if "terminated" not in one["state"]:
                self.state.terminate(
                    one["name"],
                    143 if "running" in one["state"] else 137,
                    "" if "running" in one["state"] else "ContainerStatusUnknown",
                )

    async def _forget(self) -> None:
        """Report to the API server that nothing of the pod is left on the node."""
        while self.state.silent:
            await asyncio.sleep(0.1)
        pod = self.state.pod
        if pod is not None:
            delete(self._state.store, POD, pod, Options("Background", 0))

    async def _walk(self, steps: list[scripts.Step]) -> None:
        """Do what a script says."""
        name = self._pod["spec"]["containers"][0]["name"]
        state = self.state
        for step in steps:
            match step:
                case scripts.Pause(seconds):
                    await asyncio.sleep(seconds)
                case scripts.Until(holds):
                    while not holds():
                        await asyncio.sleep(0.02)
                case scripts.Note(reason, message, warning, part):
                    state.note(reason, message, warning=warning, part=name if part else "")
                case scripts.Waiting(reason, message):
                    state.waiting(name, reason, message)
                case scripts.Running(ready):
                    state.running(name, ready=ready)
                case scripts.Log(text):
                    with state.log_of[name].open("a") as log:
                        log.write(text if text.endswith("\n") else f"{text}\n")
                case scripts.Exit(code, reason):
                    state.terminate(name, code, reason)
                case scripts.Reject(reason, message):
                    state.note(reason, message, warning=True)
                    state.rejected(reason, message)
                case scripts.Disrupt(reason, message):
                    state.disrupted(reason, message)
                case scripts.Gone():
                    delete(self._state.store, POD, state.pod or self._pod, Options("Background"))
        await asyncio.Event().wait()

    async def _start(self) -> None:
        """Volumes, then the containers; returns when all of them have ended."""
        folder = self._state.folder / "pods" / self.state.uid
        while True:
            try:
                volumes = sources(self._state, self._pod, folder)
                break
            except NotYet as why:
                self.state.note("FailedMount", str(why), warning=True)
                await asyncio.sleep(_AGAIN_S)
        containers = self._pod["spec"]["containers"]
        await asyncio.gather(*(self._contain(one, volumes) for one in containers))

    async def _contain(self, container: Object, volumes: dict[str, Object]) -> None:
        name = container["name"]
        image = await self._pull(container)
        while True:
            try:
                orders = self._orders(container, volumes, image)
                break
            except BadConfig as why:
                self.state.note("Failed", f"Error: {why}", warning=True, part=name)
                self.state.waiting(name, "CreateContainerConfigError", str(why))
                await asyncio.sleep(_AGAIN_S)
        self.state.note("Created", "Container created", part=name)
        try:
            process = await Process.start(orders)
        except CannotStart as why:
            message = (
                "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create "
                f"failed: unable to start container process: error during container init: {why}"
            )
            self.state.note("Failed", f"Error: {message}", warning=True, part=name)
            self.state.terminate(name, 128, "StartError")
            return
        self.processes[name] = process
        self.state.note("Started", "Container started", part=name)
        probes = asyncio.create_task(watch_probes(self.state, container, process))
        try:
            code = await process.wait()
        finally:
            probes.cancel()
        del self.processes[name]
        self.state.terminate(name, code, self.end_reason)

    def _orders(self, container: Object, volumes: dict[str, Object], image: Image) -> Object:
        env = environment(self._state, self._pod, container, image)
        user, group, groups = identity(self._pod, container)
        hosts = {"source": str(self._state.folder / "hosts"), "target": "/etc/hosts", "read_only": False}
        command = [expanded(word, env) for word in (*container.get("command", ()), *container.get("args", ()))]
        if not command:
            raise BadConfig("no command specified")
        return {
            "name": self._pod["metadata"]["name"][:63],
            "command": command,
            "env": env,
            "mounts": [hosts, *mounts(container, volumes)],
            "root": str(self._state.folder / "roots" / f"{self.state.uid}.{container['name']}"),
            "ways": ways(image),
            "kept": image_folders(),
            "read_only": bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem")),
            "user": user if self._state.as_user else None,
            "group": group,
            "groups": groups,
            "folder": container.get("workingDir") or "/",
            "log": str(self.state.log_of[container["name"]]),
        }

    async def _pull(self, container: Object) -> Image:
        """The stand-in of the image; waits for ever where there is none."""
        name, reference = container["name"], container["image"]
        if reference in self._state.images:
            message = f'Container image "{reference}" already present on machine and can be accessed by the pod'
            self.state.note("Pulled", message, part=name)
            return self._state.images[reference]
        if not _REFERENCE.fullmatch(reference):
            steps = scripts.invalid_name(reference)
        elif container["imagePullPolicy"] == "Never":
            steps = scripts.never_pulled(reference)
        else:
            steps = scripts.pull_fails(reference)
        await self._walk(steps)
        raise AssertionError("a script never ends")
