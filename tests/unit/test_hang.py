"""When a server counts as hanging, on a clock and pages of the test's own."""

from dataclasses import dataclass

import pytest

from harness.engine import hang
from harness.engine.hang import HangWatch
from harness.node import probe

LIMIT_S = 60.0


@dataclass
class Server:
    """A server that is looked at once a second, and what its metrics page says; no page where `tokens` is None."""

    clock_s: float = 0.0
    running: int = 3
    tokens: int | None = 0
    late_s: float = float("inf")

    def page(self, url: str, path: str, timeout_s: float) -> probe.Reply:
        if self.tokens is None or (path == "/health" and timeout_s < self.late_s):
            raise OSError("refused")
        body = f'vllm:num_requests_running{{engine="0"}} {self.running}\nvllm:generation_tokens_total {self.tokens}\n'
        return probe.Reply(200, "text/plain", body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(hang, "monotonic", lambda: made.clock_s)
    monkeypatch.setattr(probe, "get", made.page)
    return made


def hangs_after(watch: HangWatch, server: Server, *, answers: bool, tokens: int = 0, most_s: int = 300) -> float | None:
    """Seconds until the server counts as hanging; it makes so many tokens a second meanwhile."""
    begun_s = server.clock_s
    while server.clock_s - begun_s < most_s:
        server.clock_s += 1
        server.tokens = None if server.tokens is None else server.tokens + tokens
        if watch.look(answers):
            return server.clock_s - begun_s
    return None


def test_a_server_without_an_answer_hangs_after_the_limit(server: Server) -> None:
    watch = HangWatch("http://a:1", LIMIT_S)
    assert hangs_after(watch, server, answers=False) == LIMIT_S + 1
    assert watch.look(False) == "no answer to /health for 61 s"
    assert watch.look(True) is None and watch.unanswered_s == 0


def test_a_server_that_answers_late_does_not_hang(server: Server) -> None:
    server.late_s = 5.0
    assert hangs_after(HangWatch("http://a:1", LIMIT_S), server, answers=False) is None


def test_a_server_with_requests_that_makes_no_token_hangs_though_it_answers(server: Server) -> None:
    watch = HangWatch("http://a:1", LIMIT_S)
    assert hangs_after(watch, server, answers=True, tokens=1) is None
    seconds = hangs_after(watch, server, answers=True)
    assert seconds is not None and LIMIT_S < seconds < 1.2 * LIMIT_S
    assert str(watch.look(True)).startswith("it has requests and has made no token for 6")


@pytest.mark.parametrize("values", [{"running": 0}, {"tokens": None}], ids=["idle", "no page"])
def test_a_server_that_has_nothing_to_do_or_does_not_tell_does_not_hang(
    server: Server, values: dict[str, int | None]
) -> None:
    watch = HangWatch("http://a:1", LIMIT_S)
    for name, value in values.items():
        setattr(server, name, value)
    assert hangs_after(watch, server, answers=True) is None


def test_a_pause_of_the_watching_process_is_no_hang(server: Server) -> None:
    watch = HangWatch("http://a:1", LIMIT_S)
    for _ in range(5):
        server.clock_s += 3600
        assert watch.look(False) is None


def test_a_new_server_has_all_the_time_again(server: Server) -> None:
    watch = HangWatch("http://a:1", LIMIT_S)
    assert hangs_after(watch, server, answers=False)
    watch.reset()
    assert hangs_after(watch, server, answers=False) == LIMIT_S + 1
