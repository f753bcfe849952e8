"""Entry point of the `harness` command; turns errors into messages and exit codes."""

import json
import sys

import click

from harness.cli import cli
from harness.errors import HarnessError
from harness.printable import printable


def main() -> None:
    """Run the command; an error is printed as one line, with --json also as one JSON object, and sets the exit code."""
    try:
        code = cli.main(prog_name="harness", standalone_mode=False)
    except HarnessError as error:
        sys.exit(_report(str(error), error.exit_code))
    except click.ClickException as error:
        sys.exit(_report(error.format_message(), 2))
    except OSError as error:
        sys.exit(_report(f"{error.filename or 'a file'}: {error.strerror}; check its owner and the disk", 3))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_report("interrupted", 130))
    sys.exit(code if isinstance(code, int) else 0)


def _report(message: str, code: int) -> int:
    if "--json" in sys.argv:
        print(json.dumps({"error": message, "exit": code}))
    print(f"harness: {printable(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
