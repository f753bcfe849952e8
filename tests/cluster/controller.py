"""A control loop: each changed key is reconciled once, and again when requested."""

import asyncio
import traceback
from collections.abc import Callable

from tests.cluster.kinds import Key
from tests.cluster.state import State


class Controller:
    """A queue of keys. `look` returns after how many seconds it wants to see a key again, or None."""

    def __init__(self, state: State, name: str, reconcile: Callable[[Key], float | None]) -> None:
        self._state, self._name, self._reconcile = state, name, reconcile
        self._waiting: dict[Key, None] = {}
        self._later: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def add(self, key: Key) -> None:
        """Queue a key."""
        self._waiting[key] = None
        self._wake.set()

    async def run(self) -> None:
        """Reconcile queued keys for ever; failures are recorded and retried."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(0)
            self._wake.clear()
            keys, self._waiting = list(self._waiting), {}
            for key in keys:
                if handle := self._later.pop(key, None):
                    handle.cancel()
                try:
                    again = self._reconcile(key)
                except Exception:
                    self._state.problems.append(f"{self._name} {key}: {traceback.format_exc()}")
                    again = 1.0
                if again is not None:
                    self._later[key] = asyncio.get_running_loop().call_later(again, self.add, key)
