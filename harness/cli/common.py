"""Options and output functions that the commands share."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from harness.errors import BadInput
from harness.files import read_json

PATH = click.Path(path_type=Path)

root_option = click.option(
    "--root",
    type=PATH,
    default=Path(".mlperf"),
    envvar="HARNESS_ROOT",
    show_default=True,
    callback=lambda context, option, value: value.absolute(),
    help="Directory of this node's engines and runs.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")


def say(line: str) -> None:
    """Print a line of progress to standard error; standard output has the result only."""
    click.echo(line, err=True)


def show(value: Any, as_json: bool, text: str) -> None:
    """Print a result: `value` for programs, `text` for people."""
    click.echo(json.dumps(value) if as_json else text)


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
