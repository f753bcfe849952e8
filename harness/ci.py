"""A benchmark from CI, in Python or as `python -m harness.ci --samples 50`. Needs the extras `ansible` and `report`.

run = benchmark(samples=50)
for look in run:             # what progress.jsonl gets, as it happens
    print(look["host"], look["kind"], look["status"])
print(run.result.verdict.level, run.directory / "junit.xml")
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

import click

from harness.benchmark import progress, public_settings
from harness.benchmark.playbook import Play
from harness.errors import FINISHED_BUT_INVALID, SLOWER, BadInput, HarnessError, RunFailed
from harness.files import read_json
from harness.printable import printable
from harness.report import COMPARISON, REPEATS
from harness.report.record import Level, Result

DOOR = "benchmark.yml"
_LOOK_EVERY_S = 0.5
_INTERRUPTED = 130


def benchmark(
    *,
    samples: int | None = None,
    inventory: Path | str | None = None,
    limit: str | None = None,
    project: Path | None = None,
    on_output: Callable[[str], None] = lambda text: None,
    **public: Any,
) -> "Benchmark":
    """Prepare one benchmark; iterate over what is returned to run it.

    Args:
        samples: how many samples of the data set, 1 to 13,368; None leaves it to the inventory.
        inventory: an inventory as Ansible takes it; None is the project's own (inventory/local).
        limit: run on these hosts only, as in `ansible-playbook --limit`.
        project: the directory of benchmark.yml; None looks upwards from the working directory.
        on_output: called with the output of ansible-playbook as it appears.
        public: the other settings listed at the top of benchmark.yml.

    Raises:
        BadInput: a value is wrong, or project or inventory is not there. Nothing was started.
    """
    values = _checked({"samples": samples, **public})
    root = _project(project)
    if inventory is not None and not (place := Path(inventory).expanduser().absolute()).exists():
        raise BadInput(f"inventory {place} does not exist; check the path")
    values.setdefault("run_id", f"ci-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    return Benchmark(root, Path(inventory).expanduser().absolute() if inventory else None, limit, values, on_output)


class Benchmark:
    """One benchmark of the project at `root`: iterate once to run it and to get every look at a node as a record.

    A record is a line of progress.jsonl: {"unix", "host", "kind", "status", "lost"}. Leaving the iteration early ends
    the benchmark on all nodes. `directory` is where the results are; `result` is there when the iteration is over.
    """

    def __init__(
        self,
        root: Path,
        inventory: Path | None,
        limit: str | None,
        values: dict[str, Any],
        on_output: Callable[[str], None],
    ) -> None:
        self.run_id: str = values["run_id"]
        self.directory = root / "results" / self.run_id
        self._root, self._inventory, self._limit = root, inventory, limit
        self._values, self._on_output = values, on_output
        self._result: Result | None = None
        self._failure_code = 0
        self._written_before: int | None = None

    @property
    def result(self) -> Result:
        """The record of the finished benchmark.

        Raises:
            RunFailed: it has not been run to its end.
        """
        if self._result is None:
            raise RunFailed(f"run {self.run_id} has no result yet; iterate over it to its end first")
        return self._result

    @property
    def exit_code(self) -> int:
        """0 finished, 6 slower than its baseline, 5 it or a repeat is INVALID, 4 failed, 2 the baseline cannot serve.

        The first of 4 on a node, 5, 6 and the others that is so.
        """
        if self.result.failures:
            return RunFailed.exit_code
        if self.result.verdict.level == Level.INVALID or Level.INVALID in self._product(REPEATS).get("verdicts", ()):
            return FINISHED_BUT_INVALID
        if (self._product(COMPARISON).get("gate") or {}).get("failed"):
            return SLOWER
        return self._failure_code

    def _product(self, name: str) -> dict[str, Any]:
        """What repeats or a comparison left; nothing where there were none."""
        file = self.directory / name
        content: dict[str, Any] = read_json(file, "conclusion") if file.exists() else {}
        return content

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Run it.

        Raises:
            HarnessError: it ended before there was a result; BadInput, NotReady if a node refused with that exit code.
        """
        self._written_before = self._written()
        play = Play(
            self._root, DOOR, self._inventory, self._limit, self._values, self._on_output, self._takes_results_from
        )
        try:
            looks = _looks(lambda: self.directory / "progress.jsonl", play.running)
            yield from (look for look in looks if look.get("kind") != progress.SHOWN)
        except BaseException:
            self._stop(play)
            raise
        failed = play.return_code != 0
        if self._written() == self._written_before and (failed or self._written_before is None):
            raise play.error(f"run {self.run_id} has no result")
        self._failure_code = play.error(f"run {self.run_id}").exit_code if failed else 0
        self._result = Result.model_validate(read_json(self.directory / "result.json", "result"))

    def _takes_results_from(self, directory: Path) -> None:
        """Use another folder of results, which the inventory names; nothing has been written there yet."""
        if directory != self.directory:
            self.directory = directory
            self._written_before = self._written()

    def _written(self) -> int | None:
        """When the result was written last; a refused second start leaves an old one as it was."""
        path = self.directory / "result.json"
        return path.stat().st_mtime_ns if path.exists() else None

    def _stop(self, play: "Play") -> None:
        """End the play, then what it left running on the nodes."""
        play.cancel()
        if (self.directory / "request.json").exists():
            ended = {"run_id": self.run_id}
            Play(self._root, "playbooks/stop.yml", self._inventory, self._limit, ended, self._on_output).wait()


def _looks(place: Callable[[], Path], running: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Lines of a growing file, from those added after now until nobody writes any more; `place` may change once."""
    path, alive = place(), True
    position = path.stat().st_size if path.exists() else 0
    while alive:
        alive = running()  # before reading: what is written until then is read below
        if path != place():
            path = place()
            position = path.stat().st_size if path.exists() else 0
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(position)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    yield json.loads(line)
        if alive:
            time.sleep(_LOOK_EVERY_S)


def _project(given: Path | None) -> Path:
    start = (given or Path.cwd()).expanduser().absolute()
    places = [start] if given else [start, *start.parents]
    root = next((place for place in places if (place / DOOR).is_file()), None)
    if root is None:
        raise BadInput(f"{start} has no {DOOR}; run this in the project or name its directory")
    return root


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, each with a value that benchmark.yml takes."""
    values = {name: value.value if isinstance(value, StrEnum) else value for name, value in given.items()}
    values = {name: value for name, value in values.items() if value is not None}
    public_settings.check(values)
    return values


@click.command(name="python -m harness.ci")
@click.option("--samples", type=int, help="How many samples of the data set.")
@click.option("--scenario", help="server, offline or interactive.")
@click.option("--mode", help="performance, accuracy, compliance, both or all.")
@click.option("--target-qps", help="Samples per second to offer, auto, or peak.")
@click.option("--peak-budget-minutes", type=float, help="With peak: minutes for the search and the accuracy run.")
@click.option("--rate-attempts", type=int, help="How many performance runs at most where the rate is found.")
@click.option("--on-engine-loss", help="When one of several engines is lost: continue or fail.")
@click.option("--allow-long", is_flag=True, default=None, help="Allow a benchmark of more than a day.")
@click.option("--topology", help="fleet or per_node.")
@click.option("--launcher", help="process, kubernetes or torchx.")
@click.option("--repeats", type=int, help="How often the whole benchmark runs, at the rate found once.")
@click.option("--restart-engines", is_flag=True, default=None, help="Start the engines anew before each repeat.")
@click.option("--baseline", help="Compare with a run, latest or pinned.")
@click.option(
    "--regression-percent", type=float, help="End with 6 where it is slower by more than this with certainty."
)
@click.option("--run-id", help="Name of the run and of its directory in results/.")
@click.option("--resume", is_flag=True, default=None, help="Go on with that run, which ended without a result.")
@click.option("--inventory", type=click.Path(path_type=Path), help="An inventory; the project's own without it.")
@click.option("--limit", help="Only these hosts, as in ansible-playbook --limit.")
@click.option("--project", type=click.Path(path_type=Path), help="Directory of benchmark.yml.")
def command(**options: Any) -> None:
    """Run benchmark.yml.

    Ends with 0: finished, 6: slower than its baseline, 5: it or a repeat is INVALID, 4: failed, 3: not ready, 2: bad
    input.

    Ctrl-C and SIGTERM end the benchmark on all nodes, then this with 130.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run = benchmark(on_output=lambda text: click.echo(text), **options)
        for _ in run:
            pass
    except HarnessError as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("error: interrupted; the benchmark was ended on all nodes", err=True)
        sys.exit(_INTERRUPTED)
    click.echo(f"{run.result.verdict.level}: {run.directory / 'report.html'}, {run.directory / 'junit.xml'}")
    sys.exit(run.exit_code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    command()
