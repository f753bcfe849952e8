"""The kubelets of all nodes: they run bound pods, and write the names of Services."""

import asyncio
import traceback

from tests.cluster.kinds import NODE, POD, SERVICE, Object
from tests.cluster.pod_process import PodProcess
from tests.cluster.state import State
from tests.cluster.store import Change, key_of

_LOCAL = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


class Kubelets:
    """Runs each bound pod, and removes it when it is deleted."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.runs: dict[str, PodProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        state.store.listeners.append(self._on_change)
        self._write_hosts()

    def run_of(self, pod: Object) -> PodProcess | None:
        """The life of a pod."""
        return self.runs.get(pod["metadata"]["uid"])

    def lost(self, node: str) -> bool:
        """Whether a node is lost."""
        result = self._state.store.find(NODE, "", node)
        conditions = result["status"].get("conditions", ()) if result else ()
        return not any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    async def stop(self) -> None:
        """End every process of every pod."""
        for run in self.runs.values():
            run.kill()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for run in self.runs.values():
            for process in run.processes.values():
                await process.wait()

    def _on_change(self, change: Change) -> None:
        if change.kind in (POD, SERVICE):
            self._write_hosts()
        if change.kind is NODE:
            self._hear(change.new["metadata"]["name"])
        if change.kind is not POD:
            return
        pod, uid = change.new, change.new["metadata"]["uid"]
        node, run = pod["spec"].get("nodeName"), self.runs.get(uid)
        if run is None and node and change.type != "DELETED" and pod["status"].get("phase") == "Pending":
            if not self.lost(node) and "deletionTimestamp" not in pod["metadata"]:
                self._begin(pod)
        elif (
            run is not None
            and ("deletionTimestamp" in pod["metadata"] or change.type == "DELETED")
            and not run.state.silent
        ):
            run.end(int(pod["metadata"].get("deletionGracePeriodSeconds") or 0))

    def _begin(self, pod: Object) -> None:
        run = PodProcess(self._state, pod)
        self.runs[pod["metadata"]["uid"]] = run
        task = asyncio.get_running_loop().create_task(self._live(pod, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, pod: Object, run: PodProcess) -> None:
        try:
            await run.run()
            self.runs.pop(pod["metadata"]["uid"], None)
        except asyncio.CancelledError:
            raise
        except Exception:
            self._state.problems.append(f"pod {key_of(pod)}: {traceback.format_exc()}")
            run.kill()

    def _hear(self, node: str) -> None:
        """A node is new, lost, or back."""
        silent = self.lost(node)
        for pod in self._state.store.all(POD):
            if pod["spec"].get("nodeName") != node:
                continue
            run = self.run_of(pod)
            if run is None and not silent and pod["status"].get("phase") == "Pending":
                self._begin(pod)
            elif run is not None and silent:
                run.state.silent = True
            elif run is not None and run.state.silent:
                run.state.speak()
                if "deletionTimestamp" in pod["metadata"]:
                    run.end(int(pod["metadata"].get("deletionGracePeriodSeconds") or 0))

    def _write_hosts(self) -> None:
        """Write the names of Services with a ready pod; in place, since containers mount this file."""
        lines = [_LOCAL]
        for service in self._state.store.all(SERVICE):
            namespace, name = key_of(service)
            selector = service["spec"].get("selector") or {}
            early = service["spec"].get("publishNotReadyAddresses", False)
            if selector and any(_serves(pod, selector, early) for pod in self._state.store.all(POD, namespace)):
                full = f"{name}.{namespace}.svc"
                lines.append(f"127.0.0.1 {full} {full}.cluster.local {name}.{namespace} {name}\n")
        file = self._state.folder / "hosts"
        text = "".join(lines)
        if not file.exists() or file.read_text() != text:
            with file.open("r+" if file.exists() else "w") as out:
                out.write(text)
                out.truncate()
            file.chmod(0o644)


def _serves(pod: Object, selector: dict[str, str], early: bool) -> bool:
    labels = pod["metadata"].get("labels") or {}
    conditions = pod["status"].get("conditions", ())
    ready = early or any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return pod["status"].get("phase") == "Running" and ready and selector.items() <= labels.items()
