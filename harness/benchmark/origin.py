"""Where a benchmark was started from: the inventory, the limit and the folder that commands about it need."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.spec import Record


class Commands(Record):
    """Commands about a run, as they are typed in the checkout: pick it up, end it, resume it."""

    pick_up: str
    end: str
    resume: str

    @property
    def advice(self) -> str:
        """What to do about a run that is not finished, as the end of a sentence."""
        return f"pick it up with `{self.pick_up}`, or end it with `{self.end}`"


class Origin(Record):
    """What an `ansible-playbook` was given, beside public settings; empty where it was not given.

    Paths inside the checkout are relative to it, all others absolute.
    """

    inventory: tuple[str, ...] = ()
    limit: str = ""
    results: str = ""

    def commands(self, run_id: str) -> Commands:
        """The commands about a run that was started so."""
        run = f"run_id={run_id}"
        return Commands(
            pick_up=self._command("benchmark.yml", run),
            end=self._command("playbooks/stop.yml", run),
            resume=self._command("benchmark.yml", run, "resume=true"),
        )

    def repeat(self, run_id: str) -> str:
        """The command that repeats such a run."""
        return self._command("playbooks/replay.yml", f"from={run_id}")

    def _command(self, playbook: str, *values: str) -> str:
        words = ["ansible-playbook"]
        for inventory in self.inventory:
            words += ["-i", inventory]
        words += ["--limit", self.limit] if self.limit else []
        settings = [*values, *([f"harness_results={self.results}"] if self.results else [])]
        return shlex.join([*words, playbook, *(word for setting in settings for word in ("-e", setting))])


def typed(paths: Sequence[str], checkout: Path) -> tuple[str, ...]:
    """Inventories as they are typed in the checkout; a list of hosts, which has a comma, stays."""
    return tuple(path if "," in path else _relative(Path(path).absolute(), checkout) for path in paths)


def _relative(path: Path, checkout: Path) -> str:
    return str(path.relative_to(checkout)) if path.is_relative_to(checkout) else str(path)
