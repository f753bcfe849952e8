"""Faults of one engine: a supervisor over a fake vLLM."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import engine
from harness.errors import HarnessError
from tests.engine_bench import Bench
from tests.engines import until
from tests.faults.ending import BUSY_S, MARK, Ending, left_running

_END_S = 60.0


@dataclass(frozen=True, kw_only=True)
class OneEngine:
    """An engine into which a fault comes once it is ready, or while it starts.

    Args:
        inject: makes the fault happen.
        fake: how the fake vLLM behaves.
        config: settings of the engine.
        starts: whether it gets ready.
        waits: whether the fault comes only then.
    """

    inject: Callable[[Bench, engine.EngineState], object] = lambda bench, state: None
    fake: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    starts: bool = True
    waits: bool = True

    def play(self, folder: Path) -> Ending:
        """Start the engine, make the fault happen, wait for its end; then start it again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MARK, str(folder))
            bench = Bench(folder, patch)
            bench.fake = dict(self.fake)
            try:
                return self._play(bench, folder)
            finally:
                engine.down(bench.root, "e1")

    def _play(self, bench: Bench, folder: Path) -> Ending:
        happened_s, error, code = time.monotonic(), "", 0
        try:
            state = engine.up(bench.root, bench.config(**self.config), wait=self.waits)
            happened_s = time.monotonic()
            self.inject(bench, state)
        except HarnessError as refusal:
            error, code = str(refusal), refusal.exit_code
        assert (code == 0) is self.starts, error
        assert until(lambda: not engine.status(bench.root, "e1").running, _END_S)
        noticed_s = time.monotonic() - happened_s
        until(lambda: not bench.alive(), BUSY_S)
        after = engine.status(bench.root, "e1")
        left = left_running(folder) | bench.alive()
        bench.fake = {}
        following = engine.up(bench.root, bench.config())
        return Ending(
            exit_code=code,
            output=f"{error}\n{after.reason}",
            noticed_s=noticed_s,
            level=f"engine {after.state}",
            left=left,
            next_exit_code=0 if (following.state, following.changed) == ("ready", True) else 1,
        )
