"""What the fake server does with connections."""

import http.client
import time

import pytest

from tests.fake_server import FakeServer

BODY = '{"model": "fake", "prompt": [5, 6, 7], "stream": true, "return_token_ids": true}'


def test_it_refuses_connections_for_a_while_and_serves_those_that_are_open_to_the_end_of_their_answers() -> None:
    with FakeServer(tokens=4, ms_per_token=50) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
        connection.request("POST", "/v1/completions", BODY)
        server.refuse(1.0)
        began_s = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            server.set()
        assert b"[DONE]" in connection.getresponse().read()
        assert connection.sock.recv(1) == b""  # closed
        while True:
            try:
                server.set()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        assert 0.9 < time.monotonic() - began_s < 10


def test_it_takes_connections_out_of_its_queue_at_a_pace() -> None:
    with FakeServer(accept_ms=100) as server:
        began_s = time.monotonic()
        for _ in range(5):
            server.set()
        assert time.monotonic() - began_s > 0.4
