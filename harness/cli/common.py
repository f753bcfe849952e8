"""Options and output functions that the commands share."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.errors import BadInput
from harness.files import read_json
from harness.printable import printable

PATH = click.Path(path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., Any])

root_option = click.option(
    "--root",
    type=PATH,
    default=Path(".mlperf"),
    envvar="HARNESS_ROOT",
    show_default=True,
    callback=lambda context, option, value: value.absolute(),
    help="Directory of this node's engines and runs.",
)
resume_option = click.option(
    "--resume", "resumed", is_flag=True, help="Go on with a run of this id that ended without a result."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")


def env_option(name: str) -> Callable[[_Command], _Command]:
    """The option for a file with values of an engine's `env`, apart from its other settings."""
    text = "Values of the engine's env, which its settings then only name: a JSON file."
    return click.option(name, type=PATH, hidden=True, help=text)


def with_env(settings: Any, file: Path | None) -> Any:
    """An engine's settings with the values of its `env` from a file, where there is one."""
    return {**settings, "env": read_json(file, "env")} if file and isinstance(settings, dict) else settings


def say(line: str) -> None:
    """Print a line of progress to standard error; standard output has the result only."""
    click.echo(printable(line), err=True)


def show(value: Any, as_json: bool, text: str) -> None:
    """Print a result: `value` for programs, `text` for people."""
    click.echo(json.dumps(value) if as_json else printable(text))


def read_values(source: str, description: str) -> Any:
    """JSON from a file, or from standard input when `source` is "-"; error messages call it by its `description`.

    Raises:
        BadInput: the file is missing, or not JSON.
    """
    if source != "-":
        return read_json(Path(source), description)
    try:
        return json.loads(sys.stdin.read())
    except ValueError as error:
        raise BadInput(f"{description} on standard input is not JSON: {error}") from None
