"""Notices a server that hangs: one that does not answer, or that has requests and makes no token."""

from time import monotonic

from harness.node import probe

_TOKENS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
_QUEUES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_TOKENS_EVERY = 8  # parts of the limit; reading a page of metrics costs the server some milliseconds
_MOST_PASSED_S = 5.0  # between two looks, so that a pause of this process is not taken for one of the server
_PAGE_TIMEOUT_S = 2.0
_LAST_TIMEOUT_S = 10.0  # a server that streams thousands of answers may be late without hanging


class HangWatch:
    """Looks at a server that is ready, about twice a second.

    Args:
        url: where it answers.
        limit_s: how long it may give no sign before it counts as hanging.
    """

    def __init__(self, url: str, limit_s: float) -> None:
        self._url, self._limit_s = url, limit_s
        self.reset()

    def reset(self) -> None:
        """Forget what was seen: the server is a new one."""
        self.unanswered_s = self._idle_s = self._until_page_s = 0.0
        self._tokens: float | None = None
        self._looked = monotonic()

    def look(self, answered: bool) -> str | None:
        """Why the server counts as hanging, None while it does not; `answered` says whether /health has just answered.

        `unanswered_s` is how long that has not been so.
        """
        now = monotonic()
        passed_s, self._looked = min(now - self._looked, _MOST_PASSED_S), now
        self.unanswered_s = 0.0 if answered else self.unanswered_s + passed_s
        self._idle_s += passed_s if answered else 0.0
        self._until_page_s -= passed_s
        if self._until_page_s <= 0 and answered:
            self._until_page_s = self._limit_s / _TOKENS_EVERY
            self._look_at_tokens()
        if self.unanswered_s > self._limit_s and not self._answers_late():
            return f"no answer to /health for {self.unanswered_s:.0f} s"
        if answered and self._idle_s > self._limit_s:
            return f"it has requests and has made no token for {self._idle_s:.0f} s"
        return None

    def _answers_late(self) -> bool:
        """Ask once more, with patience, before the server is given up."""
        try:
            probe.get(self._url, "/health", min(_LAST_TIMEOUT_S, self._limit_s))
        except (OSError, ValueError):
            return False
        self.unanswered_s, self._looked = 0.0, monotonic()
        return True

    def _look_at_tokens(self) -> None:
        """Note whether the server has made a token since the last page, or has nothing to do, or does not tell."""
        try:
            page = probe.values(probe.get(self._url, "/metrics", _PAGE_TIMEOUT_S).body, (*_TOKENS, *_QUEUES))
        except (OSError, ValueError):
            page = {}
        tokens = sum(sum(page[name]) for name in _TOKENS if name in page) if page.keys() & set(_TOKENS) else None
        queued = sum(sum(page.get(name, ())) for name in _QUEUES)
        if tokens is None or not queued or tokens != self._tokens:
            self._idle_s = 0.0
        self._tokens = tokens
