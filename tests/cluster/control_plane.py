"""The double as the control plane of booted hosts: `python -m tests.cluster.control_plane --port 6443 --store FILE`.

Its objects are kept in the file, over restarts. Nodes are what real hosts report of themselves: one that has not
reported for some seconds is lost. Every pod ends well at once.
"""

import argparse
import asyncio
import json
import signal
import threading
from pathlib import Path

from tests.cluster import scripts
from tests.cluster.cluster import Cluster
from tests.cluster.kinds import DEFINITION, EVENT, NAMESPACE, NODE, POD, Object, defined
from tests.cluster.node_controller import UNREACHABLE
from tests.cluster.other_controllers import OtherControllers
from tests.cluster.rbac import ADMIN, User
from tests.cluster.store import Change, seconds_since

TOKEN = "stand-in"
SILENT_S = 6.0
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class ControlPlane(Cluster):
    """An API server on a host.

    Args:
        file: where the objects are kept.
        port: of the API server; 0 for any.
        address: of the API server; by default all of the host's.
    """

    def __init__(self, file: Path, port: int, address: str = "0.0.0.0") -> None:
        super().__init__("default", address=address, port=port)
        self._file = file
        self._state.users[TOKEN] = User("kubernetes-admin", {"": [ADMIN]})

    async def _begin(self) -> None:
        # Before any controller looks.
        self._restore()
        await super()._begin()
        self._state.store.listeners.append(self._keep)
        others = OtherControllers(self._state).parts
        self._tasks += [asyncio.create_task(one) for one in (self._watch_nodes(), *(part.run() for part in others))]

    def _furnish(self) -> None:
        for name in _NAMESPACES:
            if self.find(NAMESPACE, name) is None:
                self.create(NAMESPACE, {"metadata": {"name": name}})
        self.script("*", scripts.exits(0))

    def _restore(self) -> None:
        objects: list[Object] = json.loads(self._file.read_text()) if self._file.exists() else []
        store = self._state.store
        for definition in (obj for obj in objects if obj["kind"] == DEFINITION.kind):
            for kind in defined(definition):
                store.serve(kind)
        kinds = {(kind.api_version, kind.kind): kind for kind in store.kinds.values()}
        for obj in objects:
            store.restore(kinds[obj["apiVersion"], obj["kind"]], obj)

    def _keep(self, _change: Change) -> None:
        # Pods end with the process that plays them.
        objects = [obj for kind, obj in self._state.store.everything() if kind not in (EVENT, POD)]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(objects))
        new.replace(self._file)

    async def _watch_nodes(self) -> None:
        # Nodes that were well before a restart are heard again by then.
        await asyncio.sleep(SILENT_S)
        while True:
            for node in self._state.store.all(NODE):
                self._judge(node)
            await asyncio.sleep(1)

    def _judge(self, node: Object) -> None:
        name, conditions = node["metadata"]["name"], node.get("status", {}).get("conditions", ())
        ready = next((one for one in conditions if one["type"] == "Ready"), None)
        if ready is None or ready["status"] == "Unknown":
            return
        if seconds_since(ready["lastHeartbeatTime"]) > SILENT_S:
            self._nodes.lose(name, None)
        elif any(taint["key"] == UNREACHABLE for taint in node["spec"].get("taints", ())):
            self._nodes.untaint(name)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.control_plane", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", type=Path, required=True)
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with ControlPlane(options.store, options.port):
        stop.wait()


if __name__ == "__main__":
    main()
