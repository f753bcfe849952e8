"""engine.json: what an engine is, does and was asked for. Written whole, read by everyone."""

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import state_file
from harness.engine.config import EngineConfig
from harness.files import read_json, write_json

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class EngineState:
    """The content of engine.json; `changed` tells a caller whether his call changed anything and is not stored.

    `state` is starting, ready, failed (then `reason` says why) or stopped. `asked` are the settings asked for,
    `verified` what the running server showed of them, `unverified` the rule-relevant ones it does not show. `pid` is
    the supervisor, `pid_born` the clock tick at which it was started, `engine_pid` the server and its session.
    `machine` is what it runs on and the weights it serves, as in manifest.json; None for an endpoint. `telemetry_cost`
    is what sampling took while the engine was up (CPU seconds `cpu_s`, `samples`, `wall_s`), known at its end.
    """

    name: str
    kind: str
    state: str
    url: str
    model: str
    config: dict[str, Any]
    asked: dict[str, Any]
    max_in_flight: int
    started_unix: float
    boot_id: str
    log: str
    reason: str | None = None
    progress: str = ""
    pid: int | None = None
    pid_born: int | None = None
    engine_pid: int | None = None
    ready_unix: float | None = None
    stopped_unix: float | None = None
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    version: dict[str, str] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)
    unverified: list[str] = field(default_factory=list)
    machine: dict[str, Any] | None = None
    telemetry_cost: dict[str, Any] | None = None
    changed: bool = False

    @property
    def running(self) -> bool:
        """Whether the engine is up or coming up."""
        return self.state in ("starting", "ready")

    def document(self) -> dict[str, Any]:
        """The JSON form, without `changed`."""
        plain = {"schema": SCHEMA, **dataclasses.asdict(self)}
        del plain["changed"]
        return plain


def first_state(config: EngineConfig, **more: Any) -> EngineState:
    """The state of an engine that is about to be started or attached."""
    return EngineState(
        name=config.name,
        kind=config.kind,
        state="starting",
        url=config.base_url,
        model=str(config.model),
        config=config.public(),
        asked=config.asked(),
        max_in_flight=config.max_in_flight,
        started_unix=time.time(),
        boot_id=state_file.boot_id(),
        **more,
    )


def write(directory: Path, state: EngineState) -> EngineState:
    """Store a state and return it."""
    write_json(directory / "engine.json", state.document())
    return state


def stored(directory: Path) -> EngineState | None:
    """The state as last written; None when there never was an engine here."""
    path = directory / "engine.json"
    if not path.exists():
        return None
    plain = read_json(path, "engine state")
    return EngineState(**{key.name: plain[key.name] for key in dataclasses.fields(EngineState) if key.name in plain})


def actual(directory: Path) -> EngineState | None:
    """The stored state, corrected when the process that kept it is gone."""
    state = stored(directory)
    if state is None:
        return None
    judged = state_file.judge_here(state.document())
    return dataclasses.replace(state, state=judged["state"], reason=judged["reason"])
