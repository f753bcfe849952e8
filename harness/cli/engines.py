"""harness engine up | serve | status | down."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common import json_option, read_values, root_option, say, show
from harness.errors import Stopped
from harness.linux import stoppable

if TYPE_CHECKING:
    from harness.engine import EngineState


@click.group()
def engine() -> None:
    """Start, look at and stop the servers that make tokens."""


@engine.command()
@root_option
@click.option(
    "--config", default="-", show_default=True, help='EngineConfig as JSON: a file, or "-" for standard input.'
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it answers and is verified.")
@click.option("--check", is_flag=True, help="Start nothing; say whether it would, or what would keep it from that.")
@json_option
def up(root: Path, config: str, wait: bool, check: bool, as_json: bool) -> None:
    """Start an engine and verify what it really uses; nothing changes if it is up already."""
    from harness import engine as engines

    asked = engines.parse_config(read_values(config, "engine config"))
    if check:
        change = engines.check(root, asked)
        show({"would_change": change}, as_json, "would start" if change else "is up already")
        return
    with stoppable():
        state = engines.up(root, asked, wait=wait, on_progress=say)
    show({**state.document(), "changed": state.changed}, as_json, _line(state))


@engine.command()
@root_option
@click.option(
    "--config", default="-", show_default=True, help='EngineConfig as JSON: a file, or "-" for standard input.'
)
@click.option("--json", "as_json", is_flag=True, help="Print its state as one JSON object a second, for programs.")
def serve(root: Path, config: str, as_json: bool) -> None:
    """Have an engine up for as long as this command runs, as in a container; a signal takes it down."""
    from harness import engine as engines
    from harness.node.telemetry import queue

    said = ""

    def tell(state: "EngineState") -> None:
        nonlocal said
        # Who looks from outside sees no file, so the engine's queue is told, too.
        document = {**state.document(), "telemetry": queue(Path(state.log).with_name("telemetry.csv"))}
        line = json.dumps(document) if as_json else _line(state)
        if as_json or line != said:
            said = line
            click.echo(line)

    with stoppable(), contextlib.suppress(Stopped):
        engines.serve(root, engines.parse_config(read_values(config, "engine config")), tell)


@engine.command()
@root_option
@click.argument("name", required=False)
@json_option
def status(root: Path, name: str | None, as_json: bool) -> None:
    """Show one engine, or all of this root."""
    from harness import engine as engines

    found = [engines.status(root, one) for one in ([name] if name else engines.names(root))]
    documents = [state.document() for state in found]
    lines = "\n".join(map(_line, found)) or f"no engines under {root}"
    show(documents[0] if name else {"engines": documents}, as_json, lines)


@engine.command()
@root_option
@click.argument("name")
@json_option
def down(root: Path, name: str, as_json: bool) -> None:
    """Stop an engine with all its children; nothing changes if it is down already."""
    from harness import engine as engines

    state = engines.down(root, name)
    show({**state.document(), "changed": state.changed}, as_json, _line(state))


def _line(state: "EngineState") -> str:
    return "  ".join(filter(None, [state.name, state.state, state.url, state.reason]))
