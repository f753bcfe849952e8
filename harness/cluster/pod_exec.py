"""A command in a running pod, through the API's `pods/exec`."""

import json
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any

import urllib3
import websocket
from kubernetes import stream
from kubernetes.client.exceptions import ApiException

from harness.cluster.api import Api
from harness.cluster.diagnosis.evidence import printed
from harness.collected import Refused
from harness.errors import RunFailed

_SILENCE_S = 120.0
_STDIN, _STDOUT, _STDERR, _STATUS = 0, 1, 2, 3
"""Channels of a command in a pod; on the last one the API server sends the command's exit status."""


def execute(
    api: Api, pod: str, command: list[str], out: IO[bytes], *, most_bytes: int, data: Iterable[bytes] = ()
) -> None:
    """Run a command in a pod with `data` as its standard input, and write its standard output to `out`.

    The input is not closed at its end, which older servers cannot do: the command must know its length.

    Raises:
        Refused: it prints more than `most_bytes`, at which it is stopped.
        RunFailed: it failed, or the connection broke.
        NotReady: the right to run it is missing.
    """
    connection = _connect(api, pod, command, stdin=data != ())
    stderr = status = b""
    received = 0
    try:
        for part in data:
            connection.write_channel(_STDIN, part)
        last_data = time.monotonic()
        is_open = True
        while is_open:
            # Data that arrived before the connection was closed is read in one more round.
            is_open = connection.is_open()
            connection.update(timeout=1)
            output, errors = connection.read_channel(_STDOUT), connection.read_channel(_STDERR)
            if (received := received + len(output)) > most_bytes:
                raise Refused(f"pod {pod} sends more than {most_bytes} bytes, and was stopped; see what runs there")
            _keep(output, out)
            stderr, status = (stderr + errors)[-2000:], status + connection.read_channel(_STATUS)
            last_data = time.monotonic() if output or errors else last_data
            if time.monotonic() - last_data > _SILENCE_S:
                raise RunFailed(f"pod {pod} has sent nothing for {_SILENCE_S:.0f} s")
    except (websocket.WebSocketException, OSError) as error:
        raise RunFailed(f"the connection to pod {pod} broke: {error}") from None
    finally:
        connection.close()
    _check_status(f"`{' '.join(command[:2])}` in pod {pod}", status, printed(stderr.decode(errors="replace"), 2000))


def _keep(data: bytes, out: IO[bytes]) -> None:
    try:
        out.write(data)
    except OSError as error:
        raise Refused(f"results cannot be kept here: {error.strerror}; free some space in the folder TMPDIR") from None


def _connect(api: Api, pod: str, command: list[str], *, stdin: bool) -> Any:
    websocket.setdefaulttimeout(_SILENCE_S)
    options = {"stdin": stdin, "stdout": True, "stderr": True, "tty": False, "binary": True, "_preload_content": False}
    method = api.core.connect_get_namespaced_pod_exec
    try:
        return stream.stream(method, pod, api.namespace, command=command, **options)
    except (ApiException, AttributeError, urllib3.exceptions.HTTPError, OSError) as error:
        # The client raises errors of its own while it handles the API server's response.
        errors = list(_contexts(error))
        response = next((one for one in errors if isinstance(one, websocket.WebSocketBadStatusException)), None)
        if response is None:
            raise RunFailed(f"no connection to pod {pod} through {api.address}: {errors[-1]}") from None
        failure = ApiException(status=response.status_code, reason=str(response))
        failure.body = response.resp_body
        raise api.explain(failure, f"execute a command in pod {pod}") from None


def _contexts(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def _check_status(command: str, status: bytes, stderr: str) -> None:
    try:
        result = json.loads(status)
    except ValueError:
        raise RunFailed(f"the connection broke before the end of {command}") from None
    if result.get("status") != "Success":
        raise RunFailed(f"{command} failed: {stderr or result.get('message')}")
