"""A cluster that runs: its parts in a thread of their own, its API server, and faults between clients and it."""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import yaml

from tests.cluster import rbac
from tests.cluster.deletion import Collector
from tests.cluster.faults import Fault
from tests.cluster.job_controller import Jobs
from tests.cluster.kinds import Object
from tests.cluster.kubelet import Kubelets
from tests.cluster.node_controller import Nodes
from tests.cluster.rbac import Request, User
from tests.cluster.scheduler import Scheduler
from tests.cluster.server import Server
from tests.cluster.state import Image, State
from tests.cluster.streams import Streams
from tests.cluster.volcano_controller import VolcanoJobs
from tests.cluster.volcano_scheduler import VolcanoScheduler

ADMIN = "admin-token"
_T = TypeVar("_T")
_PATIENCE_S = 30.0


class RunningCluster:
    """The running part of `Cluster`, without its objects."""

    def __init__(
        self,
        namespace: str = "mlperf",
        images: dict[str, Image] | None = None,
        *,
        as_user: bool = True,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.namespace, self._address, self._port = namespace, address, port
        self._folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        # Containers run as other users, and what they are given lies in here.
        self._folder.chmod(0o755)
        self._state = State(self._folder, images=images or {}, as_user=as_user)
        self._state.users[ADMIN] = User("kubernetes-admin", {"": [rbac.ADMIN]})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._await(self._begin)
        self._furnish()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._await(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if kind is None:
            assert not self._state.problems, "the double itself failed:\n" + "\n".join(self._state.problems)

    def _furnish(self) -> None:
        """Create the initial objects."""

    async def _begin(self) -> None:
        state = self._state
        self._kubelets = Kubelets(state)
        self._nodes = Nodes(state)
        self._streams = Streams(state, self._kubelets)
        self._server = Server(state, self._streams, self._address, self._port)
        parts = (Jobs(state).controller, Scheduler(state).controller, self._nodes.controller, Collector(state.store))
        parts = (*parts, VolcanoJobs(state).controller, VolcanoScheduler(state).groups)
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
        """Write a kubeconfig for the bearer of a token; by default an administrator's."""
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
        granted = {namespace: list(rules), "": list(everywhere)}
        user = User(name or f"system:serviceaccount:{namespace}:{token}", granted)
        self._do(lambda: self._state.users.update({token: user}))
        return self.kubeconfig(token)

    @property
    def requests(self) -> list[Request]:
        """Every request, allowed or forbidden, in order."""
        return self._do(lambda: list(self._state.requests))

    def rights_used(self, user: str = "") -> set[tuple[str, str, str]]:
        """(API group, resource, verb) of every allowed request, of one user or all."""
        return {one.right for one in self.requests if one.allowed and user in ("", one.user)}

    def down(self) -> None:
        """Stop the API server: connections break, new ones are refused. Pods continue."""
        self._await(self._server.down)

    def up(self) -> None:
        """Start the API server again at the same address."""
        self._await(self._server.up)

    def fail(self, code: int, verb: str = "", resource: str = "", times: int | None = 1) -> None:
        """Answer the next `times` requests with 401, 403, 410, 429, 500 or 503."""
        self._do(lambda: self._state.faults.planned.append(Fault(verb, resource, times, code)))

    def slow(self, seconds: float, verb: str = "", resource: str = "", times: int | None = None) -> None:
        """Delay responses by so many seconds."""
        self._do(lambda: self._state.faults.planned.append(Fault(verb, resource, times, 0, seconds)))

    def well(self) -> None:
        """Clear all faults."""

        def clear() -> None:
            self._state.faults.planned.clear()
            self._state.faults.drops = 0

        self._do(clear)

    def drop_watches(self, after: int = 0, times: int = 1) -> None:
        """Break the next `times` watches after so many events each."""

        def plan() -> None:
            self._state.faults.watch_events, self._state.faults.drops = after, times

        self._do(plan)

    def expire(self, *, in_stream: bool = True) -> None:
        """Make every resource version seen so far too old; reported by an event of the watch or by status 410."""

        def do() -> None:
            self._state.faults.expire_in_stream = in_stream
            self._state.store.expire()

        self._do(do)

    def _do(self, action: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return action()

        return self._await(call)

    def _await(self, action: Callable[[], Awaitable[_T]]) -> _T:
        async def call() -> _T:
            return await action()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_PATIENCE_S)
