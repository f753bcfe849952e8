"""engine.json: the configuration and the current state of one engine. Written atomically."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import clock, state_file
from harness.engine.config import EngineConfig
from harness.errors import BadInput
from harness.files import write_json

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class EngineState:
    """The content of engine.json, and `changed`: whether the call that returned this changed anything, not stored.

    `state` is starting, ready, failed (see `reason`) or stopped. `asked` are the requested settings, `verified` those
    that the running server reported, `unverified` the names of rule-relevant settings that it does not report. `pid` is
    the supervisor's process, `pid_born` its start time in clock ticks since boot, `engine_pid` the server's process and
    session. `machine` describes the host and the weights as manifest.json does; None for an endpoint. `telemetry_cost`
    is the overhead of sampling (CPU seconds `cpu_s`, `samples`, `wall_s`), set when the engine ends. `restarts` has an
    entry (`unix`, `reason`) for each time that the server died and was started again.
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
    started_uptime_s: float | None = None
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
    restarts: list[dict[str, Any]] = field(default_factory=list)
    changed: bool = False

    @property
    def running(self) -> bool:
        """Whether the engine is starting or ready."""
        return self.state in state_file.ENGINE_RUNNING

    def document(self) -> dict[str, Any]:
        """The JSON form, without `changed`."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        del document["changed"]
        return document


def initial_state(config: EngineConfig, **more: Any) -> EngineState:
    """The state of an engine that is about to be started or attached."""
    return EngineState(
        name=config.name,
        kind=config.kind,
        state="starting",
        url=config.base_url,
        model=str(config.model),
        config=config.public(),
        asked=config.requested(),
        max_in_flight=config.max_in_flight,
        started_unix=clock.unix(),
        started_uptime_s=state_file.uptime_s(),
        boot_id=state_file.boot_id(),
        **more,
    )


def write(directory: Path, state: EngineState) -> EngineState:
    """Store a state and return it."""
    write_json(directory / "engine.json", state.document())
    return state


def stored(directory: Path) -> EngineState | None:
    """The state as last written; None when no engine was ever started here.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        document = state_file.read(str(directory / "engine.json"))
        if document is None:
            return None
        names = [field.name for field in dataclasses.fields(EngineState)]
        return EngineState(**{name: document[name] for name in names if name in document})
    except TypeError as error:  # a key without a default is missing
        reason = str(error).partition("__init__() ")[2]
    except (OSError, ValueError) as error:
        reason = str(error)
    raise BadInput(f"engine.json cannot be read: {reason}; look into {directory}")


def actual(directory: Path) -> EngineState | None:
    """The stored state, or a failed one when the supervisor that maintains it has died. BadInput as `stored`."""
    state = stored(directory)
    if state is None:
        return None
    judged = state_file.judge_here(state.document())
    return dataclasses.replace(state, state=judged["state"], reason=judged["reason"])
