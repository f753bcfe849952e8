"""A cluster for tests: a context manager around the double, with what a test may do to it."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.cluster import claims
from tests.cluster.deletion import Options, delete
from tests.cluster.disruption import disrupt
from tests.cluster.kinds import (
    CONFIG_MAP,
    JOB,
    NAMESPACE,
    NODE,
    POD,
    QUOTA,
    RUNTIME_CLASS,
    SERVICE_ACCOUNT,
    VOLCANO_JOB,
    VOLCANO_QUEUE,
    Kind,
    Object,
)
from tests.cluster.node_controller import node
from tests.cluster.running import RunningCluster
from tests.cluster.scripts import Script, Step
from tests.cluster.state import Image


class Cluster(RunningCluster):
    """An API server on 127.0.0.1 with nodes, from `with` until its end.

    Args:
        namespace: made at once, with Pod Security's level `restricted` enforced and warned of.
        images: what stands for each image reference; a pod of any other image cannot pull it.
        as_user: containers run as the user that their pod says, not as root.
    """

    def _furnish(self) -> None:
        self.add_namespace("default", enforce="privileged")
        self.add_namespace(self.namespace)
        self.queue("default")

    # What there is

    def add_namespace(self, name: str, enforce: str = "restricted") -> None:
        """A namespace with its default service account."""
        level = {f"pod-security.kubernetes.io/{mode}": enforce for mode in ("enforce", "warn")}
        self.create(NAMESPACE, {"metadata": {"name": name, "labels": level}})
        self.create(SERVICE_ACCOUNT, {"metadata": {"name": "default"}}, name)
        self.create(CONFIG_MAP, {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "none"}}, name)

    def node(
        self, name: str, gpus: int = 0, taints: Sequence[Object] = (), labels: dict[str, str] | None = None
    ) -> None:
        """A node that is ready."""
        obj = node(name, gpus, list(taints), labels or {})
        self._do(lambda: self._state.store.create(NODE, obj))

    def gpus(self, node: str, count: int) -> None:
        """Change how many healthy GPUs a node has."""

        def change(new: Object) -> None:
            new["status"]["allocatable"]["nvidia.com/gpu"] = str(count)

        self._do(lambda: self._state.store.edit(NODE, "", node, change))

    def lose_node(self, name: str, evict_after_s: float | None = None, *, silent_s: float = 2.0) -> None:
        """Lose a node as 50 s after its last heartbeat; pods are evicted as they tolerate, or so many seconds later.

        The API server finds out after `silent_s` that the node does not answer for a log or a command.
        """
        self._streams.node_delay_s = silent_s
        self._do(lambda: self._nodes.lose(name, evict_after_s))

    def find_node(self, name: str) -> None:
        """A lost node is back."""
        self._do(lambda: self._nodes.find(name))

    def claim(
        self, name: str, directory: Path | None, *, node: str = "", namespace: str = "", bound: bool = True
    ) -> None:
        """A claim, bound to a volume that is a directory of this machine; of one node alone where one is given."""
        namespace = namespace or self.namespace

        def do() -> None:
            if directory is not None:
                self._state.claims[namespace, name] = Path(directory)
            claims.make(self._state, namespace, name, node, bound)

        self._do(do)

    def bind(self, name: str, *, namespace: str = "") -> None:
        """Bind a pending claim."""
        self._do(lambda: claims.bind(self._state, namespace or self.namespace, name, ""))

    def storage_class(self, name: str, folder: Path) -> None:
        """A storage class, whose claims are bound to new folders below `folder`."""

        async def begin() -> None:
            provisioner = claims.Provisioner(self._state, folder, name)
            self._tasks.append(asyncio.create_task(provisioner.controller.run()))

        self._await(begin)

    def runtime_class(self, name: str = "nvidia") -> None:
        """A RuntimeClass."""
        self.create(RUNTIME_CLASS, {"metadata": {"name": name}, "handler": name})

    def service_account(self, name: str, namespace: str = "") -> None:
        """A service account."""
        self.create(SERVICE_ACCOUNT, {"metadata": {"name": name}}, namespace)

    def quota(self, hard: dict[str, str], name: str = "quota", namespace: str = "") -> None:
        """A quota of a namespace."""
        self.create(QUOTA, {"metadata": {"name": name}, "spec": {"hard": hard}}, namespace)

    def queue(self, name: str, capability: dict[str, str] | None = None) -> None:
        """An open queue of Volcano, with how much its jobs may have at once."""
        spec: Object = {"weight": 1, "reclaimable": True, **({"capability": capability} if capability else {})}
        self.create(VOLCANO_QUEUE, {"metadata": {"name": name}, "spec": spec, "status": {"state": "Open"}})

    def image(self, reference: str, path: Sequence[Path] = (), env: dict[str, str] | None = None) -> None:
        """Add an image."""
        self._do(lambda: self._state.images.update({reference: Image(tuple(path), env or {})}))

    def script(
        self, pattern: str, steps: Sequence[Step] = (), *, unschedulable: str = "", times: int | None = None
    ) -> None:
        """Steps of pods whose own or Job's name matches a pattern, in place of their command."""
        self._do(lambda: self._state.scripts.insert(0, Script(pattern, list(steps), unschedulable, times)))

    # What others do

    def create(self, kind: Kind, obj: Object, namespace: str = "") -> Object:
        """Create an object without authorisation; admission applies."""
        return self._do(lambda: self._state.create(kind, obj, namespace or self.namespace)[0])

    def all(self, kind: Kind, namespace: str = "") -> list[Object]:
        """All objects of a kind; do not change them."""
        return self._do(lambda: self._state.store.all(kind, namespace))

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """An object or None; do not change it."""
        return self._do(lambda: self._state.store.find(kind, namespace or self.namespace, name))

    def delete(self, kind: Kind, name: str, namespace: str = "", **options: Any) -> None:
        """Delete an object as another user would."""
        namespace = namespace or self.namespace
        delete_options = Options(**{"propagation": "Background", **options})
        self._do(lambda: delete(self._state.store, kind, self._state.store.get(kind, namespace, name), delete_options))

    def delete_job(self, name: str, namespace: str = "") -> None:
        """Delete a Job and its pods, as another user would."""
        self.delete(JOB, name, namespace)

    def delete_volcano_job(self, name: str, namespace: str = "") -> None:
        """Delete a job of Volcano and its pods, as another user would."""
        self.delete(VOLCANO_JOB, name, namespace)

    def edit(self, kind: Kind, name: str, change: Callable[[Object], None], namespace: str = "") -> None:
        """Change an object without any check."""
        self._do(lambda: self._state.store.edit(kind, namespace or self.namespace, name, change))

    def evict(
        self,
        pod: str,
        reason: str = "EvictionByEvictionAPI",
        message: str = "Eviction API: evicting",
        namespace: str = "",
    ) -> None:
        """Disrupt a pod and delete it."""
        key = (namespace or self.namespace, pod)

        def do() -> None:
            disrupt(self._state, self._state.store.get(POD, *key), reason, message)
            delete(self._state.store, POD, self._state.store.get(POD, *key), Options("Background"))

        self._do(do)

    def kill(self, pod: str, reason: str = "OOMKilled", namespace: str = "") -> None:
        """Kill a pod's processes, as the kernel does at the memory limit."""

        def do() -> None:
            run = self._kubelets.run_of(self._state.store.get(POD, namespace or self.namespace, pod))
            assert run is not None and run.processes, f"nothing runs in pod {pod}"
            run.end_reason = reason
            run.kill()

        self._do(do)
