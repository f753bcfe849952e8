"""A cluster for tests: a context manager around the double, with what a test may do to it."""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from tests.cluster import claims, rbac
from tests.cluster.deletion import Collector, Options, delete
from tests.cluster.faults import Fault
from tests.cluster.jobs import Jobs
from tests.cluster.kinds import (
    CLAIM,
    CONFIG_MAP,
    JOB,
    NAMESPACE,
    NODE,
    POD,
    QUOTA,
    RUNTIME_CLASS,
    SERVICE_ACCOUNT,
    Kind,
    Object,
)
from tests.cluster.kubelet import Kubelets
from tests.cluster.nodes import Nodes, node
from tests.cluster.rbac import Request, User
from tests.cluster.scheduler import Scheduler
from tests.cluster.scripts import Script, Step
from tests.cluster.server import Server
from tests.cluster.streams import Streams
from tests.cluster.world import Image, World

ADMIN = "admin-token"
_T = TypeVar("_T")
_PATIENCE_S = 30.0


class Cluster:
    """An API server on 127.0.0.1 with nodes, from `with` until its end.

    Args:
        namespace: made at once, with Pod Security's level `restricted` enforced and warned of.
        images: what stands for each image reference; a pod of any other image cannot pull it.
        as_user: containers run as the user that their pod says, not as root.
    """

    def __init__(
        self, namespace: str = "mlperf", images: dict[str, Image] | None = None, *, as_user: bool = True
    ) -> None:
        self.namespace = namespace
        self._folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        # Containers run as other users, and what they are given lies in here.
        self._folder.chmod(0o755)
        self._world = World(self._folder, images=images or {}, as_user=as_user)
        self._world.users[ADMIN] = User("kubernetes-admin", {"": [rbac.ADMIN]})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._await(self._begin)
        self.add_namespace("default", enforce="privileged")
        self.add_namespace(self.namespace)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._await(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if kind is None:
            assert not self._world.problems, "the double itself failed:\n" + "\n".join(self._world.problems)

    async def _begin(self) -> None:
        world = self._world
        self._kubelets = Kubelets(world)
        self._nodes = Nodes(world)
        self._streams = Streams(world, self._kubelets)
        self._server = Server(world, self._streams)
        parts = (Jobs(world).controller, Scheduler(world).controller, self._nodes.controller, Collector(world.store))
        self._tasks = [asyncio.create_task(part.run()) for part in parts]
        await self._server.up()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.down()
        await self._kubelets.stop()

    # The API server

    @property
    def url(self) -> str:
        """The address of the API server."""
        return f"http://127.0.0.1:{self._server.port}"

    def kubeconfig(self, token: str = ADMIN, path: Path | None = None) -> Path:
        """Write a kubeconfig for the bearer of a token; by default for one who may do everything."""
        path = path or self._folder / f"kubeconfig-{token}"
        context = {"cluster": "double", "user": "user", "namespace": self.namespace}
        values = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "double", "context": context}],
        }
        path.write_text(yaml.safe_dump(values))
        return path

    def user(
        self,
        token: str,
        rules: Iterable[Object] = (),
        everywhere: Iterable[Object] = (),
        name: str = "",
        namespace: str = "",
    ) -> Path:
        """A kubeconfig for a user with the rules of a Role in a namespace and of a ClusterRole everywhere."""
        namespace = namespace or self.namespace
        held = {namespace: list(rules), "": list(everywhere)}
        user = User(name or f"system:serviceaccount:{namespace}:{token}", held)
        self._do(lambda: self._world.users.update({token: user}))
        return self.kubeconfig(token)

    @property
    def requests(self) -> list[Request]:
        """Every request that was authorised or refused, in order."""
        return self._do(lambda: list(self._world.requests))

    def rights_used(self, user: str = "") -> set[tuple[str, str, str]]:
        """(API group, resource, verb) of every allowed request, of one user or all."""
        return {one.right for one in self.requests if one.allowed and user in ("", one.user)}

    def down(self) -> None:
        """The API server goes away: connections break, new ones are refused. Pods go on."""
        self._await(self._server.down)

    def up(self) -> None:
        """The API server is back, at the same address."""
        self._await(self._server.up)

    def fail(self, code: int, verb: str = "", resource: str = "", times: int | None = 1) -> None:
        """Answer the next `times` requests with 401, 410, 429, 500 or 503."""
        self._do(lambda: self._world.faults.planned.append(Fault(verb, resource, times, code)))

    def slow(self, seconds: float, verb: str = "", resource: str = "", times: int | None = None) -> None:
        """Answer so many seconds later."""
        self._do(lambda: self._world.faults.planned.append(Fault(verb, resource, times, 0, seconds)))

    def well(self) -> None:
        """No faults any more."""

        def clear() -> None:
            self._world.faults.planned.clear()
            self._world.faults.drops = 0

        self._do(clear)

    def drop_watches(self, after: int = 0, times: int = 1) -> None:
        """Break the next `times` watches after so many events each."""

        def plan() -> None:
            self._world.faults.watch_events, self._world.faults.drops = after, times

        self._do(plan)

    def expire(self, *, in_stream: bool = True) -> None:
        """Make every resource version seen so far too old; said as an event of the watch, or as the answer 410."""

        def do() -> None:
            self._world.faults.expire_in_stream = in_stream
            self._world.store.expire()

        self._do(do)

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
        made = node(name, gpus, list(taints), labels or {})
        self._do(lambda: self._world.store.create(NODE, made))

    def gpus(self, node: str, count: int) -> None:
        """Change how many healthy GPUs a node has."""

        def change(new: Object) -> None:
            new["status"]["allocatable"]["nvidia.com/gpu"] = str(count)

        self._do(lambda: self._world.store.edit(NODE, "", node, change))

    def lose_node(self, name: str, evict_after_s: float | None = None) -> None:
        """As 50 s after a node's kubelet was last heard of; eviction as the pods tolerate, or so many seconds later."""
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
                self._world.claims[namespace, name] = Path(directory)
            claims.make(self._world, namespace, name, node, bound)

        self._do(do)

    def bind(self, name: str, *, namespace: str = "") -> None:
        """Bind a claim that waited."""
        self._do(lambda: claims.bind(self._world, namespace or self.namespace, name, ""))

    def runtime_class(self, name: str = "nvidia") -> None:
        """A RuntimeClass."""
        self.create(RUNTIME_CLASS, {"metadata": {"name": name}, "handler": name})

    def service_account(self, name: str, namespace: str = "") -> None:
        """A service account."""
        self.create(SERVICE_ACCOUNT, {"metadata": {"name": name}}, namespace)

    def quota(self, hard: dict[str, str], name: str = "quota", namespace: str = "") -> None:
        """A quota of a namespace."""
        self.create(QUOTA, {"metadata": {"name": name}, "spec": {"hard": hard}}, namespace)

    def image(self, reference: str, path: Sequence[Path] = (), env: dict[str, str] | None = None) -> None:
        """Let an image be there."""
        self._do(lambda: self._world.images.update({reference: Image(tuple(path), env or {})}))

    def script(
        self, pattern: str, steps: Sequence[Step] = (), *, unschedulable: str = "", times: int | None = None
    ) -> None:
        """What pods go through whose own or Job's name matches a pattern, instead of running their command."""
        self._do(lambda: self._world.scripts.insert(0, Script(pattern, list(steps), unschedulable, times)))

    def unscript(self, pattern: str) -> None:
        """Forget the scripts of a pattern, and look at all pods again."""

        def do() -> None:
            self._world.scripts = [one for one in self._world.scripts if one.pattern != pattern]
            for pod in self._world.store.all(POD):
                self._world.store.edit(POD, pod["metadata"]["namespace"], pod["metadata"]["name"], _touched)

        self._do(do)

    # What others do

    def create(self, kind: Kind, thing: Object, namespace: str = "") -> Object:
        """Create an object past authorisation; admission holds."""
        return self._do(lambda: self._world.create(kind, thing, namespace or self.namespace)[0])

    def all(self, kind: Kind, namespace: str = "") -> list[Object]:
        """All objects of a kind; do not change them."""
        return self._do(lambda: self._world.store.all(kind, namespace))

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """An object or None; do not change it."""
        return self._do(lambda: self._world.store.find(kind, namespace or self.namespace, name))

    def delete(self, kind: Kind, name: str, namespace: str = "", **options: Any) -> None:
        """Delete an object as someone else does."""
        namespace = namespace or self.namespace
        given = Options(**{"propagation": "Background", **options})
        self._do(lambda: delete(self._world.store, kind, self._world.store.get(kind, namespace, name), given))

    def delete_job(self, name: str, namespace: str = "") -> None:
        """Someone deletes a Job, and its pods with it."""
        self.delete(JOB, name, namespace)

    def edit(self, kind: Kind, name: str, change: Callable[[Object], None], namespace: str = "") -> None:
        """Change an object past every check."""
        self._do(lambda: self._world.store.edit(kind, namespace or self.namespace, name, change))

    def delete_claim(self, name: str, namespace: str = "") -> None:
        """Delete a claim."""
        self.delete(CLAIM, name, namespace)

    def _do(self, what: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return what()

        return self._await(call)

    def _await(self, what: Callable[[], Awaitable[_T]]) -> _T:
        async def call() -> _T:
            return await what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_PATIENCE_S)


def _touched(thing: Object) -> None:
    thing["metadata"].setdefault("annotations", {})["double/touched"] = "true"
