"""Reads the files of one benchmark into frozen records. An absent file is None, a damaged one a `problem` in words."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from harness.errors import BadInput
from harness.files import read_json
from harness.report import logs
from harness.report.input_models import (
    Attempt,
    EngineFile,
    FailureFile,
    ManifestFile,
    OutcomeFile,
    PlanFile,
    StatusFile,
)
from harness.scoring.scores import Score, merge
from harness.spec import Spec, explain, parse_spec

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class LoadGenRun:
    """One LoadGen's run directory.

    `judged` is the folder of the performance run that counts, see `judged_folder`; `performance` is LoadGen's log of
    it, None where LoadGen could not write one because the attempt was ended early.
    """

    host: str
    path: Path
    judged: Path
    spec: Spec | None
    status: StatusFile | None
    outcome: OutcomeFile
    manifest: ManifestFile
    attempts: tuple[Attempt, ...]
    performance: logs.LoadGenLog | None
    accuracy: logs.LoadGenLog | None
    score: Score | None
    problems: tuple[str, ...]

    @property
    def nodes(self) -> dict[str, str]:
        """The node that each engine of this run stands on."""
        return {ref.name: ref.node for ref in self.spec.engines} if self.spec else {}

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, as far as its status says."""
        return self.status is None or self.status.state == "finished"

    @property
    def last_attempt(self) -> Attempt | None:
        """The attempt that is judged; None for a rate given as a number, and where it ended without its record."""
        return next((attempt for attempt in self.attempts if self.judged.name == str(attempt.number)), None)


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine of one node; `telemetry` is its supervisor's CSV where there is one."""

    node: str
    file: EngineFile
    telemetry: Path | None


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything one report is made from."""

    path: Path
    run_id: str
    plan: PlanFile | None
    loadgens: tuple[LoadGenRun, ...]
    engines: tuple[Engine, ...]
    failures: tuple[FailureFile, ...]
    problems: tuple[str, ...]

    @property
    def spec(self) -> Spec | None:
        """The run's specification; what is common to all nodes is the same in each of them."""
        return next((loadgen.spec for loadgen in self.loadgens if loadgen.spec), None)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes with engines, in order: the plan's, else those of the engines that the runs name."""
        if self.plan and self.plan.nodes:
            return tuple(name for name, node in self.plan.nodes.items() if node.get("engines"))
        listed = [ref.node for loadgen in self.loadgens if loadgen.spec for ref in loadgen.spec.engines]
        return tuple(dict.fromkeys([*listed, *(engine.node for engine in self.engines)]))


def output_directory(results: Path) -> Path:
    """Where a report goes: beside plan.json of a benchmark; into report/ of a lone run directory."""
    lone = not (results / "plan.json").exists() and _is_run_directory(results)
    return results / "report" if lone else results


def _is_run_directory(path: Path) -> bool:
    return (path / "spec.json").exists() or (path / "status.json").exists()


def load(path: Path) -> Inputs:
    """Read `results/<run_id>` of a benchmark, or the lone run directory that `harness run` wrote.

    Raises:
        BadInput: the directory holds neither.
    """
    if not path.is_dir():
        raise BadInput(f"results {path} is not a directory; give results/<run_id> or a run directory")
    if _is_run_directory(path):
        return _lone_run(path)
    # Where a benchmark failed before its plan, failures.json is all there is.
    if not any((path / name).exists() for name in ("plan.json", "nodes", "failures.json")):
        raise BadInput(
            f"results {path} holds no plan.json, nodes/ or spec.json; give results/<run_id> or a run directory"
        )
    problems: list[str] = []
    plan = _read(path / "plan.json", PlanFile, problems)
    homes = {entry.name: entry for entry in sorted((path / "nodes").glob("*")) if entry.is_dir()}
    loadgens = [loadgen_run(host, home) for host, home in homes.items() if (home / "spec.json").exists()]
    engines = [engine for host, home in homes.items() for engine in _engines(host, home / "engines", problems)]
    known = {engine.node for engine in engines}
    for loadgen in loadgens:
        if loadgen.host not in known:
            engines += [engine for engine in _observed(loadgen, problems) if engine.node not in known]
    return Inputs(
        path=path,
        run_id=plan.run_id if plan else path.name,
        plan=plan,
        loadgens=tuple(loadgens),
        engines=tuple(engines),
        failures=_failures(path / "failures.json", problems),
        problems=tuple(problems),
    )


def _lone_run(path: Path) -> Inputs:
    problems: list[str] = []
    run = loadgen_run("localhost", path)
    return Inputs(path, path.name, None, (run,), tuple(_observed(run, problems)), (), tuple(problems))


def judged_folder(run: Path) -> Path:
    """The folder with `performance/` and `journal.jsonl` of the performance run that counts.

    It is that of the last attempt, `attempts/<highest number>`, or the run directory where there are no attempts.
    """
    folders = [entry for entry in (run / "attempts").glob("*") if entry.name.isdigit() and entry.is_dir()]
    return max(folders, key=lambda entry: int(entry.name), default=run)


def loadgen_run(host: str, path: Path) -> LoadGenRun:
    """Read the run directory `path` of the LoadGen on `host`."""
    problems: list[str] = []
    spec = _or_problem(lambda: parse_spec(read_json(path / "spec.json", "spec")), problems)
    outcome = _read(path / "outcome.json", OutcomeFile, problems)
    judged = judged_folder(path)
    attempts = _attempts(path, problems)
    modes = ("performance", "accuracy") if spec is None or spec.mode.value == "both" else (spec.mode.value,)
    ended_early = any(attempt.ended_early for attempt in attempts if str(attempt.number) == judged.name)

    def log(folder: Path) -> logs.LoadGenLog | None:
        expected = folder.name in modes or folder.is_dir()
        return _or_problem(lambda: logs.read(folder), problems) if expected else None

    return LoadGenRun(
        host=(spec.node if spec and host == "localhost" else host),
        path=path,
        judged=judged,
        spec=spec,
        status=_read(path / "status.json", StatusFile, problems),
        outcome=outcome or OutcomeFile(),
        manifest=_read(path / "manifest.json", ManifestFile, problems) or ManifestFile(),
        attempts=attempts,
        performance=None if ended_early else log(judged / "performance"),
        accuracy=log(path / "accuracy"),
        score=_score(path / "accuracy", problems),
        problems=tuple(problems),
    )


def _attempts(run: Path, problems: list[str]) -> tuple[Attempt, ...]:
    files = [entry / "attempt.json" for entry in (run / "attempts").glob("*") if entry.name.isdigit()]
    attempts = [_read(file, Attempt, problems) for file in files]
    return tuple(sorted((attempt for attempt in attempts if attempt), key=lambda attempt: attempt.number))


def _score(path: Path, problems: list[str]) -> Score | None:
    return _or_problem(lambda: merge([path]), problems) if (path / "score.json").exists() else None


def _engines(host: str, directory: Path, problems: list[str]) -> list[Engine]:
    engines = []
    for folder in sorted(entry for entry in directory.glob("*") if entry.is_dir()):
        file = _read(folder / "engine.json", EngineFile, problems)
        if file:
            telemetry = folder / "telemetry.csv"
            engines.append(Engine(host, file, telemetry if telemetry.exists() else None))
    return engines


def _observed(loadgen: LoadGenRun, problems: list[str]) -> list[Engine]:
    """Engines that only the run's manifest describes: those of `harness run`, and endpoints."""
    where = str(loadgen.path / "manifest.json")
    entries = [_validated(EngineFile, entry, where, problems) for entry in loadgen.manifest.engines]
    return [Engine(loadgen.nodes.get(file.name, loadgen.host), file, None) for file in entries if file]


def _failures(path: Path, problems: list[str]) -> tuple[FailureFile, ...]:
    if not path.exists():
        return ()

    def read() -> tuple[FailureFile, ...]:
        try:
            return TypeAdapter(tuple[FailureFile, ...]).validate_python(read_json(path, "failures"))
        except ValidationError as error:
            raise BadInput(f"{path}: {explain(error)}") from None

    return _or_problem(read, problems) or ()


def _read(path: Path, kind: type[M], problems: list[str]) -> M | None:
    content = _or_problem(lambda: read_json(path, path.stem), problems)
    return None if content is None else _validated(kind, content, str(path), problems)


def _validated(kind: type[M], content: Any, where: str, problems: list[str]) -> M | None:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems.append(f"{where}: {explain(error)}")
        return None


def _or_problem(read: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return read()
    except BadInput as error:
        problems.append(str(error))
        return None
