"""The files of one benchmark, read into frozen records. What is absent is None; what is damaged is a `problem`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.errors import BadInput
from harness.files import read_json
from harness.report import logs
from harness.report.input_models import EngineFile, FailureFile, File, ManifestFile, OutcomeFile, PlanFile, StatusFile
from harness.scoring.scores import Score, merge
from harness.spec import Spec, explain, parse_spec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadGenRun:
    """One LoadGen's run directory."""

    host: str
    path: Path
    spec: Spec | None
    status: StatusFile | None
    outcome: OutcomeFile
    manifest: ManifestFile
    performance: logs.LoadGenLog | None
    accuracy: logs.LoadGenLog | None
    score: Score | None
    problems: tuple[str, ...]

    @property
    def nodes(self) -> dict[str, str]:
        """The node that each engine of this run stands on."""
        return {ref.name: ref.node for ref in self.spec.engines} if self.spec else {}


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
        """What was asked, as any of the LoadGens was told."""
        return next((loadgen.spec for loadgen in self.loadgens if loadgen.spec), None)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes that made tokens, in order: the plan's, else those of the engines the runs name."""
        if self.plan and self.plan.nodes:
            return tuple(name for name, node in self.plan.nodes.items() if node.get("engines"))
        listed = [ref.node for loadgen in self.loadgens if loadgen.spec for ref in loadgen.spec.engines]
        return tuple(dict.fromkeys([*listed, *(engine.node for engine in self.engines)]))


def output_directory(results: Path) -> Path:
    """Where a report goes: beside plan.json of a benchmark; into report/ of a lone run directory."""
    lone = not (results / "plan.json").exists() and any(
        (results / name).exists() for name in ("spec.json", "status.json")
    )
    return results / "report" if lone else results


def load(path: Path) -> Inputs:
    """Read `results/<run_id>` of a benchmark, or the lone run directory that `harness run` wrote.

    Raises:
        BadInput: the directory holds neither.
    """
    if not path.is_dir():
        raise BadInput(f"results {path} is not a directory; give results/<run_id> or a run directory")
    problems: list[str] = []
    if (path / "spec.json").exists() or (path / "status.json").exists():
        return _lone(path, problems)
    # A benchmark that came to nothing has its failures alone.
    if not any((path / name).exists() for name in ("plan.json", "nodes", "failures.json")):
        raise BadInput(
            f"results {path} holds no plan.json, nodes/ or spec.json; give results/<run_id> or a run directory"
        )
    plan = _optional(path / "plan.json", PlanFile, problems)
    hosts = sorted(entry.name for entry in (path / "nodes").glob("*") if entry.is_dir())
    runs = {host: path / "nodes" / host for host in hosts if (path / "nodes" / host / "spec.json").exists()}
    loadgens = [_loadgen_run(host, run) for host, run in runs.items()]
    engines = [engine for host in hosts for engine in _engines(host, path / "nodes" / host / "engines", problems)]
    found = {engine.node for engine in engines}
    engines += [
        _embedded(loadgen, entry)
        for loadgen in loadgens
        for entry in loadgen.manifest.engines
        if loadgen.host not in found and loadgen.nodes.get(str(entry.get("name"))) not in found
    ]
    failures = (
        _try(lambda: read_json(path / "failures.json", "failures"), problems)
        if (path / "failures.json").exists()
        else []
    )
    return Inputs(
        path=path,
        run_id=plan.run_id if plan else path.name,
        plan=plan,
        loadgens=tuple(loadgens),
        engines=tuple(engines),
        failures=tuple(FailureFile.model_validate(entry) for entry in failures or []),
        problems=tuple(problems),
    )


def _lone(path: Path, problems: list[str]) -> Inputs:
    loadgen = _loadgen_run("localhost", path)
    engines = [_embedded(loadgen, entry) for entry in loadgen.manifest.engines]
    return Inputs(path, path.name, None, (loadgen,), tuple(engines), (), tuple(problems))


def _embedded(loadgen: LoadGenRun, entry: dict[str, Any]) -> Engine:
    file = EngineFile.model_validate(entry)
    return Engine(loadgen.nodes.get(file.name, loadgen.host), file, None)


def _loadgen_run(host: str, path: Path) -> LoadGenRun:
    problems: list[str] = []
    spec = _try(lambda: parse_spec(read_json(path / "spec.json", "spec")), problems)
    outcome = _optional(path / "outcome.json", OutcomeFile, problems)
    wanted = spec.mode.value if spec else "both"

    def log(mode: str) -> logs.LoadGenLog | None:
        due = wanted in (mode, "both")
        return _try(lambda: logs.read(path / mode), problems) if due or (path / mode).is_dir() else None

    return LoadGenRun(
        host=(spec.node if spec and host == "localhost" else host),
        path=path,
        spec=spec,
        status=_optional(path / "status.json", StatusFile, problems),
        outcome=outcome or OutcomeFile(),
        manifest=_optional(path / "manifest.json", ManifestFile, problems) or ManifestFile(),
        performance=log("performance"),
        accuracy=log("accuracy"),
        score=_score(path / "accuracy", problems),
        problems=tuple(problems),
    )


def _score(path: Path, problems: list[str]) -> Score | None:
    return _try(lambda: merge([path]), problems) if (path / "score.json").exists() else None


def _engines(host: str, directory: Path, problems: list[str]) -> list[Engine]:
    found = []
    for folder in sorted(entry for entry in directory.glob("*") if entry.is_dir()):
        file = _optional(folder / "engine.json", EngineFile, problems)
        if file:
            telemetry = folder / "telemetry.csv"
            found.append(Engine(host, file, telemetry if telemetry.exists() else None))
    return found


_M = TypeVar("_M", bound=File)


def _optional(path: Path, kind: type[_M], problems: list[str]) -> _M | None:
    def load() -> _M:
        try:
            return kind.model_validate(read_json(path, path.stem))
        except ValidationError as error:
            raise BadInput(f"{path}: {explain(error)}") from None

    return _try(load, problems)


def _try(load: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return load()
    except BadInput as error:
        problems.append(str(error))
        return None
