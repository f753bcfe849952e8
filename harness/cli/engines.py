"""harness engine up | serve | status | down."""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common import env_option, json_option, read_values, root_option, say, show, with_env
from harness.errors import BadInput, Stopped
from harness.linux import stoppable

if TYPE_CHECKING:
    from harness.engine import EngineState


@click.group()
def engine() -> None:
    """Start, inspect and stop inference servers."""


@engine.command()
@root_option
@click.option(
    "--config", default="-", show_default=True, help='EngineConfig as JSON: a file, or "-" for standard input.'
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is ready and verified.")
@click.option("--check", is_flag=True, help="Start nothing; report whether it would start, or why it could not.")
@json_option
def up(root: Path, config: str, wait: bool, check: bool, as_json: bool) -> None:
    """Start an engine and verify its settings; changes nothing if it is running."""
    from harness import engine as engines

    requested = engines.parse_config(read_values(config, "engine config"))
    if check:
        would_change = engines.check(root, requested)
        show({"would_change": would_change}, as_json, "would start" if would_change else "is already running")
        return
    for name in engines.not_inherited(os.environ, requested):
        say(f"{name} of this login is not passed on to the engine; give it in env if it is meant for it")
    with stoppable():
        state = engines.up(root, requested, wait=wait, on_progress=say)
    show({**state.document(), "changed": state.changed}, as_json, _line(state))


@engine.command()
@root_option
@click.option(
    "--config", default="-", show_default=True, help='EngineConfig as JSON: a file, or "-" for standard input.'
)
@env_option("--env")
@click.option("--json", "as_json", is_flag=True, help="Print its state as one JSON object a second, for programs.")
def serve(root: Path, config: str, env: Path | None, as_json: bool) -> None:
    """Run an engine in the foreground, as in a container; a signal stops it."""
    from harness import engine as engines
    from harness.node.telemetry import queue

    printed = ""

    def print_state(state: "EngineState") -> None:
        nonlocal printed
        # Readers of a container's output cannot read its files, so the queue is included.
        document = {**state.document(), "telemetry": queue(Path(state.log).with_name("telemetry.csv"))}
        line = json.dumps(document) if as_json else _line(state)
        if as_json or line != printed:
            printed = line
            click.echo(line)

    with stoppable(), contextlib.suppress(Stopped):
        values = with_env(read_values(config, "engine config"), env)
        engines.serve(root, engines.parse_config(values), print_state)


@engine.command()
@root_option
@click.argument("name", required=False)
@json_option
def status(root: Path, name: str | None, as_json: bool) -> None:
    """Show one engine, or all of this root."""
    from harness import engine as engines

    if name:
        state = engines.status(root, name)
        show(state.document(), as_json, _line(state))
        return
    states, unreadable = [], []
    for each in engines.names(root):
        try:
            states.append(engines.status(root, each))
        except BadInput as error:
            unreadable.append(f"{each}  {error}")
    documents = [state.document() for state in states]
    lines = [*map(_line, states), *unreadable] or [f"no engines under {root}"]
    show({"engines": documents, "unreadable": unreadable}, as_json, "\n".join(lines))


@engine.command()
@root_option
@click.argument("name")
@json_option
def down(root: Path, name: str, as_json: bool) -> None:
    """Stop an engine and all its processes; changes nothing if it is not running."""
    from harness import engine as engines

    state = engines.down(root, name)
    show({**state.document(), "changed": state.changed}, as_json, _line(state))


def _line(state: "EngineState") -> str:
    return "  ".join(filter(None, [state.name, state.state, state.url, state.reason]))
