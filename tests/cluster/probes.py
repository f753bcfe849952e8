"""Startup and readiness probes over HTTP or TCP; liveness probes are left out."""

import asyncio
import contextlib

from tests.cluster.kinds import Object
from tests.cluster.pod_status import PodStatus
from tests.cluster.processes import Process


async def watch_probes(state: PodStatus, container: Object, process: Process) -> None:
    """Report a running container as started and ready, as its probes succeed."""
    name = container["name"]
    startup, readiness = container.get("startupProbe"), container.get("readinessProbe")
    state.running(name, ready=not (startup or readiness), started=not startup)
    if startup:
        await asyncio.sleep(startup.get("initialDelaySeconds", 0))
        failed = 0
        while (why := await _probe(container, startup)) is not None:
            failed += 1
            state.note("Unhealthy", f"Startup probe failed: {why}", warning=True, part=name)
            if failed >= startup["failureThreshold"]:
                state.note("Killing", f"Container {name} failed startup probe", part=name)
                process.kill()
                return
            await asyncio.sleep(startup["periodSeconds"])
        state.running(name, ready=not readiness)
    while readiness:
        why = await _probe(container, readiness)
        state.running(name, ready=why is None)
        if why is not None:
            state.note("Unhealthy", f"Readiness probe failed: {why}", warning=True, part=name)
        await asyncio.sleep(readiness["periodSeconds"])


async def _probe(container: Object, probe: Object) -> str | None:
    """None when it succeeds, else the reason."""
    attributes = probe.get("httpGet") or probe.get("tcpSocket")
    if attributes is None:
        return None
    port = attributes["port"]
    if isinstance(port, str):
        port = next(one["containerPort"] for one in container.get("ports", ()) if one.get("name") == port)
    url = f"http://127.0.0.1:{port}{attributes.get('path', '/')}"
    try:
        async with asyncio.timeout(probe["timeoutSeconds"]):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if "tcpSocket" in probe:
                writer.close()
                return None
            writer.write(
                f"GET {attributes.get('path', '/')} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
            )
            line = (await reader.readline()).split()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except OSError as error:
        if isinstance(error, TimeoutError):
            return f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
        return f'Get "{url}": dial tcp 127.0.0.1:{port}: connect: connection refused'
    code = int(line[1]) if len(line) > 1 else 0
    return None if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"
