"""Requests that the API server passes to nodes: logs, and commands in a container over a websocket."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Container

from aiohttp import WSMsgType, web

from tests.cluster.api_errors import ApiError, bad_request
from tests.cluster.kinds import POD, Object
from tests.cluster.kubelet import Kubelets
from tests.cluster.pod_process import PodProcess
from tests.cluster.processes import Process
from tests.cluster.rbac import Attributes
from tests.cluster.state import State
from tests.cluster.store import stamp

_CHUNK = 64 * 1024
_STDOUT, _STDERR, _ERROR, _CLOSE = 1, 2, 3, 255
_V5 = "v5.channel.k8s.io"


class Streams:
    """Logs and executed commands of one cluster's pods."""

    def __init__(self, state: State, kubelets: Kubelets) -> None:
        self._state, self._kubelets = state, kubelets
        self.node_delay_s = 2.0

    async def log(self, request: web.Request, attributes: Attributes) -> web.StreamResponse:
        """The log of a container.

        Raises:
            ApiError: there is none, or its node does not respond.
        """
        pod = self._state.store.get(POD, attributes.namespace, attributes.name)
        name = _container(pod, request.query.get("container", ""))
        if not pod["spec"].get("nodeName"):
            return web.Response(text="")
        await self._reach(pod, f"containerLogs/{attributes.namespace}/{attributes.name}/{name}")
        status = next((one for one in pod["status"].get("containerStatuses", ()) if one["name"] == name), None)
        if request.query.get("previous") == "true":
            raise bad_request(f'previous terminated container "{name}" in pod "{attributes.name}" not found')
        if status is None or "waiting" in status["state"]:
            raise bad_request(f'container "{name}" in pod "{attributes.name}" is waiting to start: {_why(status)}')
        file = self._state.folder / "logs" / f"{pod['metadata']['uid']}.{name}.log"
        text = file.read_bytes() if file.exists() else b""
        if request.query.get("tailLines"):
            line_count = int(request.query["tailLines"])
            text = b"".join(deque(text.splitlines(keepends=True), line_count))
        if request.query.get("limitBytes"):
            text = text[: int(request.query["limitBytes"])]
        timestamps = request.query.get("timestamps") in ("true", "1", "True")
        text = _with_time(text) if timestamps else text
        if request.query.get("follow") not in ("true", "1", "True"):
            return web.Response(body=text, content_type="text/plain")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(text)
        at = file.stat().st_size if file.exists() else 0
        while True:
            has_ended = not self._runs(pod, name)
            with file.open("rb") if file.exists() else contextlib.nullcontext() as log:
                more = b""
                if log is not None:
                    log.seek(at)
                    more = log.read()
            at += len(more)
            if more:
                await response.write(_with_time(more) if timestamps else more)
            if has_ended:
                return response
            await asyncio.sleep(0.1)

    async def exec(self, request: web.Request, attributes: Attributes) -> web.StreamResponse:
        """A command in a container, over a websocket as `kubernetes.stream` opens it.

        Raises:
            ApiError: the pod or its container is not running.
        """
        pod = self._state.store.get(POD, attributes.namespace, attributes.name)
        name = _container(pod, request.query.get("container", ""))
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            message = f"cannot exec into a container in a completed pod; current phase is {pod['status']['phase']}"
            raise bad_request(message)
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {attributes.name} does not have a host assigned")
        command = request.query.getall("command", [])
        if not command:
            raise bad_request("you must specify at least 1 command for the container")
        await self._reach(pod, f"exec/{attributes.namespace}/{attributes.name}/{name}")
        run = self._kubelets.run_of(pod)
        process = run.processes.get(name) if run else None
        if process is None:
            raise ApiError(
                500,
                "InternalError",
                f'Internal error occurred: unable to upgrade connection: container not found ("{name}")',
                {"causes": [{"message": "unable to upgrade connection: container not found"}]},
            )
        socket = web.WebSocketResponse(protocols=(_V5, "v4.channel.k8s.io"), max_msg_size=0)
        if not socket.can_prepare(request).ok:
            raise bad_request("Upgrade request required")
        await socket.prepare(request)
        await self._talk(socket, process, command, request.query)
        await socket.close()
        return socket

    async def _talk(
        self, socket: web.WebSocketResponse, process: Process, command: list[str], query: Container[str]
    ) -> None:
        if not process.find(command[0]):
            message = (
                f"error executing command in container: failed to exec in container: failed to start exec: OCI runtime "
                f'exec failed: exec failed: unable to start container process: exec: "{command[0]}": executable file '
                "not found in $PATH"
            )
            await _status(
                socket,
                {
                    "status": "Failure",
                    "message": message,
                    "code": 500,
                    "reason": "InternalError",
                    "details": {"causes": [{"message": message}]},
                },
            )
            return
        child = await process.execute(command)
        listening = asyncio.create_task(_listen(socket, child))
        channels = [(_STDOUT, "stdout", child.stdout), (_STDERR, "stderr", child.stderr)]
        try:
            await asyncio.gather(*(_pump(socket, channel, pipe, word in query) for channel, word, pipe in channels))
            code = await child.wait()
        finally:
            listening.cancel()
            if child.returncode is None:
                child.kill()
                await child.wait()
        if code == 0:
            await _status(socket, {"status": "Success"})
            return
        cause = {"reason": "ExitCode", "message": str(code if code > 0 else 128 - code)}
        message = f"command terminated with non-zero exit code: exit status {cause['message']}"
        more = {"message": message, "reason": "NonZeroExitCode", "details": {"causes": [cause]}}
        await _status(socket, {"status": "Failure", **more})

    async def _reach(self, pod: Object, path: str) -> None:
        """Reach the pod's node; a lost one fails after a while."""
        if not self._kubelets.lost(pod["spec"]["nodeName"]):
            return
        await asyncio.sleep(self.node_delay_s)
        message = f'Get "https://127.0.0.1:10250/{path}": dial tcp 127.0.0.1:10250: i/o timeout'
        raise ApiError(500, "InternalError", message)

    def _runs(self, pod: Object, name: str) -> bool:
        run: PodProcess | None = self._kubelets.run_of(pod)
        now = run.state.pod if run else None
        states = [
            one["state"] for one in (now or {}).get("status", {}).get("containerStatuses", ()) if one["name"] == name
        ]
        return any("running" in state for state in states)


async def _pump(socket: web.WebSocketResponse, channel: int, pipe: asyncio.StreamReader | None, forward: bool) -> None:
    assert pipe
    while data := await pipe.read(_CHUNK):
        if forward:
            await socket.send_bytes(bytes([channel]) + data)


async def _listen(socket: web.WebSocketResponse, child: asyncio.subprocess.Process) -> None:
    """Forward stdin; end the command when the client disconnects."""
    assert child.stdin
    async for message in socket:
        if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
            continue
        data = message.data if isinstance(message.data, bytes) else message.data.encode()
        if data[:1] == b"\0":
            child.stdin.write(data[1:])
        elif data[:2] == bytes([_CLOSE, 0]):
            child.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        child.kill()


async def _status(socket: web.WebSocketResponse, status: Object) -> None:
    await socket.send_bytes(bytes([_ERROR]) + json.dumps({"metadata": {}, **status}).encode())


def _container(pod: Object, name: str) -> str:
    names = [one["name"] for one in pod["spec"]["containers"]]
    if not name and len(names) > 1:
        listed = " ".join(names)
        raise bad_request(
            f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{listed}]"
        )
    if name and name not in names:
        raise bad_request(f"container {name} is not valid for pod {pod['metadata']['name']}")
    return name or names[0]


def _with_time(text: bytes) -> bytes:
    """Lines with timestamps; here that of the request."""
    return b"".join(f"{stamp()} ".encode() + line for line in text.splitlines(keepends=True))


def _why(status: Object | None) -> str:
    reason = str((status or {}).get("state", {}).get("waiting", {}).get("reason", "ContainerCreating"))
    explanations = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}
    return explanations.get(reason, reason)
