"""How servers are asked: API keys, private certificates, path prefixes, model names; and where keys are not."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness import servers
from harness.engine import endpoint, keys, parse_config
from harness.engine import state as states
from harness.errors import BadInput
from harness.load.client import Client, Request
from harness.node import probe
from harness.servers import Access
from harness.spec import EngineRef
from tests.engines import write_model

KEY = "correct-horse-100%"
EVENT = {"choices": [{"token_ids": [7, 8], "finish_reason": "length"}]}


class Handler(BaseHTTPRequestHandler):
    """A gateway with two models below /llm, of which the second is ours; it wants a key, and writes no blanks."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("authorization")))  # type: ignore[attr-defined]
        if self.path.startswith("/moved"):
            self._answer(302, "", location="/llm/v1/models")
        elif not self._knows():
            self._answer(401, '{"error": "Unauthorized"}')
        elif self.path == "/llm/v1/models":
            self._answer(200, json.dumps({"data": [{"id": "base"}, {"id": "ours", "max_model_len": 2668}]}))
        else:
            self._answer(404, "{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, self.headers.get("authorization")))  # type: ignore[attr-defined]
        if not self._knows() or self.path != "/llm/v1/completions" or body["model"] != "ours":
            self._answer(401, "{}")
        else:
            self._answer(200, f"data:{json.dumps(EVENT)}\n\ndata:[DONE]\n\n", kind="text/event-stream")

    def _knows(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {KEY}"

    def _answer(self, status: int, text: str, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_accesses", {})


@pytest.fixture
def gateway() -> Iterator[Any]:
    yield from _served()


def _served(context: ssl.SSLContext | None = None) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}/llm"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the certificate and key of a server on loopback, which signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "private")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    return file


@pytest.fixture
def tls(certificate: Path) -> Iterator[Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    yield from _served(context)


def complete(url: str) -> list[int]:
    """The ids that the client gets from a server."""

    async def ask() -> list[int]:
        client, over = Client(url, 1024, 10), asyncio.get_running_loop().create_future()
        body = json.dumps({"model": "ours"}).encode()
        client.send(
            Request(body, lambda ids: None, lambda: None, over.set_result, lambda why: over.set_exception(OSError(why)))
        )
        answer = await over
        client.close()
        ids: list[int] = answer.token_ids
        return ids

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(ask())


def test_a_server_below_a_path_is_asked_with_its_key_for_its_model(gateway: Any) -> None:
    servers.know(gateway.url, Access(KEY, model="ours"))
    assert probe.model_card(gateway.url) == {"id": "ours", "root": None, "max_model_len": 2668}
    assert complete(gateway.url) == [7, 8]
    assert gateway.seen == [("/llm/v1/models", f"Bearer {KEY}"), ("/llm/v1/completions", f"Bearer {KEY}")]


def test_a_missing_key_a_wrong_one_and_another_model_are_said(gateway: Any) -> None:
    with pytest.raises(BadInput, match=r"wants an API key \(HTTP 401\); name its key with api_key_file or api_key_env"):
        probe.model_card(gateway.url)
    servers.know(gateway.url, Access("wrong"))
    with pytest.raises(BadInput, match="refused the API key that it was given") as error:
        probe.model_card(gateway.url)
    assert "wrong" not in str(error.value)
    servers.know(gateway.url, Access(KEY, model="theirs"))
    with pytest.raises(BadInput, match="serves no model 'theirs', but base, ours; correct served_model"):
        probe.model_card(gateway.url)


def test_no_redirect_is_followed_with_a_key(gateway: Any) -> None:
    moved = gateway.url.removesuffix("/llm") + "/moved"
    servers.know(moved, Access(KEY))
    assert probe.get(moved, "/v1/models").status == 302
    assert [path for path, _ in gateway.seen] == ["/moved/v1/models"]


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"])
def test_a_server_that_drips_is_given_up_in_time(head: bytes) -> None:
    def drip() -> None:
        connection = server.accept()[0]
        with connection, contextlib.suppress(OSError):
            connection.sendall(head)
            for _ in range(99):
                connection.sendall(b"a")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            probe.get(f"http://127.0.0.1:{server.getsockname()[1]}", "/v1/models", timeout_s=0.5)
        assert time.monotonic() - began < 5
        thread.join()


def test_a_private_certificate_is_trusted_where_it_is_named(tls: Any, certificate: Path) -> None:
    servers.know(tls.url, Access(KEY, model="ours"))
    with pytest.raises(
        BadInput, match=r"certificate of https://.* is not trusted: .*; name the one of its CA with ca_file"
    ):
        probe.model_card(tls.url)
    with pytest.raises(OSError, match="certificate verify failed"):
        complete(tls.url)
    servers.know(tls.url, Access(KEY, certificate, "ours"))
    assert probe.model_card(tls.url)["id"] == "ours"
    assert complete(tls.url) == [7, 8]


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("no certificate", "holds no certificate")])
def test_a_wrong_ca_file_is_said(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    servers.know("https://h", Access(ca_file=file))
    with pytest.raises(BadInput, match=f"ca_file = .*{message}"):
        servers.tls("https://h")


def test_a_worker_knows_what_it_is_handed_and_records_show_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    servers.know("http://a", Access(KEY, Path("/ca"), "ours"))
    handed = json.loads(json.dumps(servers.hand_down(["http://a", "http://b"])))
    monkeypatch.setattr(servers, "_accesses", {})
    servers.take_over(handed)
    assert (servers.access("http://a"), servers.access("http://b")) == (Access(KEY, Path("/ca"), "ours"), Access())
    assert KEY not in repr(servers.access("http://a"))


ENDPOINT = {"name": "e", "kind": "endpoint", "model": "/m"}


def test_an_endpoint_is_attached_with_all_of_it(gateway: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", KEY)
    given = {"url": f"{gateway.url}/v1/", "served_model": "ours", "api_key_env": "TEAM_KEY"}
    config = parse_config({**ENDPOINT, **given})
    assert config.base_url == gateway.url
    attached = endpoint.attach(config)
    assert (attached.state, attached.url, attached.verified["model"]) == ("ready", gateway.url, "ours")
    # The gateway has no /health, and is well.
    assert endpoint.why_failed(attached) is None
    assert KEY not in json.dumps(attached.document()) + repr(config)
    directory = tmp_path / "engines" / "e"
    directory.mkdir(parents=True)
    keys.make(directory, config)
    monkeypatch.setattr(servers, "_accesses", {})
    states.write(directory, attached)
    keys.introduce_all(tmp_path, [EngineRef(name="e", url=gateway.url)], {})
    assert servers.access(gateway.url).key == KEY


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"api_key_env": "NOT_SET"}, "api_key_env = 'NOT_SET' holds no API key"),
        ({"api_key_file": "/nowhere"}, "api_key_file = '/nowhere' cannot be read: No such file"),
        ({"api_key": "two words"}, "api_key holds no API key"),
    ],
)
def test_a_key_that_cannot_be_read_is_said(more: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        parse_config({**ENDPOINT, "url": "http://h", **more}).key()
    assert "two words" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"url": "http://me:hunter2@h"},
        {"url": "http://h", "env": {"TOKEN": "hunter2"}},
        {"url": "http://h", "api_key": ["hunter2"]},
        {"kind": "vllm", "port": 1, "env": {"TOKEN": ["hunter2"]}},
        {"kind": "vllm", "port": 1, "env": "TOKEN=hunter2"},
    ],
)
def test_no_message_shows_a_value_that_may_be_a_secret(values: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as error:
        parse_config({**ENDPOINT, **values})
    assert "hunter2" not in str(error.value)


def test_every_start_has_a_key_of_its_own_that_goes_with_the_engine(tmp_path: Path) -> None:
    config = parse_config({"name": "own", "model": str(write_model(tmp_path / "m")), "port": 8100})
    directory = tmp_path / "engines" / "own"
    made = []
    for _ in range(2):
        keys.make(directory, config)
        file = tmp_path / "keys" / "own"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        made.append(file.read_text())
    assert made[0] != made[1]
    assert min(map(len, made)) >= 32
    engine = states.initial_state(config, log="")
    assert keys.introduce(directory, engine) == made[1]
    with pytest.raises(ZeroDivisionError), keys.deleted(directory):
        _ = 1 / 0
    assert not file.exists()


def test_the_key_of_another_server_at_the_same_name_is_not_sent(tmp_path: Path) -> None:
    config = parse_config({"name": "own", "model": "/m", "port": 8100})
    directory = tmp_path / "engines" / "own"
    directory.mkdir(parents=True)
    keys.make(directory, config)
    states.write(directory, states.initial_state(config, log=""))
    here = EngineRef(name="own", url="http://127.0.0.1:8100")
    other = EngineRef(name="own", url="http://somebody.example")
    keys.introduce_all(tmp_path, [here, other], {})
    assert (servers.access(here.url).key is None, servers.access(other.url).key) == (False, None)
    keys.introduce_all(tmp_path, [other], {"own": KEY})
    assert servers.access(other.url).key == KEY
