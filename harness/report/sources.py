"""The files of one benchmark, read into frozen records. What is absent is None; what is damaged is a `trouble`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.errors import BadInput
from harness.files import read_json
from harness.report import logs
from harness.report.documents import EngineFile, FailureFile, File, ManifestFile, OutcomeFile, PlanFile, StatusFile
from harness.scoring.scores import Score, merge
from harness.spec import Spec, explain, parse_spec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Issuer:
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
    troubles: tuple[str, ...]

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
class Sources:
    """Everything one report is made from."""

    path: Path
    run_id: str
    plan: PlanFile | None
    issuers: tuple[Issuer, ...]
    engines: tuple[Engine, ...]
    failures: tuple[FailureFile, ...]
    troubles: tuple[str, ...]

    @property
    def spec(self) -> Spec | None:
        """What was asked, as any of the LoadGens was told."""
        return next((issuer.spec for issuer in self.issuers if issuer.spec), None)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes that made tokens, in order: the plan's, else those of the engines the runs name."""
        if self.plan and self.plan.nodes:
            return tuple(name for name, node in self.plan.nodes.items() if node.get("engines"))
        listed = [ref.node for issuer in self.issuers if issuer.spec for ref in issuer.spec.engines]
        return tuple(dict.fromkeys([*listed, *(engine.node for engine in self.engines)]))


def read(path: Path) -> Sources:
    """Read `results/<run_id>` of a benchmark, or the lone run directory that `harness run` wrote.

    Raises:
        BadInput: the directory holds neither.
    """
    if not path.is_dir():
        raise BadInput(f"results {path} is not a directory; give results/<run_id> or a run directory")
    troubles: list[str] = []
    if (path / "spec.json").exists() or (path / "status.json").exists():
        return _lone(path, troubles)
    # A benchmark that came to nothing has its failures alone.
    if not any((path / name).exists() for name in ("plan.json", "nodes", "failures.json")):
        raise BadInput(
            f"results {path} holds no plan.json, nodes/ or spec.json; give results/<run_id> or a run directory"
        )
    plan = _optional(path / "plan.json", PlanFile, troubles)
    hosts = sorted(entry.name for entry in (path / "nodes").glob("*") if entry.is_dir())
    issuers = [_issuer(host, path / "nodes" / host) for host in hosts if (path / "nodes" / host / "spec.json").exists()]
    engines = [engine for host in hosts for engine in _engines(host, path / "nodes" / host / "engines", troubles)]
    found = {engine.node for engine in engines}
    engines += [
        _embedded(issuer, entry)
        for issuer in issuers
        for entry in issuer.manifest.engines
        if issuer.host not in found and issuer.nodes.get(str(entry.get("name"))) not in found
    ]
    failures = (
        _try(lambda: read_json(path / "failures.json", "failures"), troubles)
        if (path / "failures.json").exists()
        else []
    )
    return Sources(
        path=path,
        run_id=plan.run_id if plan else path.name,
        plan=plan,
        issuers=tuple(issuers),
        engines=tuple(engines),
        failures=tuple(FailureFile.model_validate(entry) for entry in failures or []),
        troubles=tuple(troubles),
    )


def _lone(path: Path, troubles: list[str]) -> Sources:
    issuer = _issuer("localhost", path)
    engines = [_embedded(issuer, entry) for entry in issuer.manifest.engines]
    return Sources(path, path.name, None, (issuer,), tuple(engines), (), tuple(troubles))


def _embedded(issuer: Issuer, entry: dict[str, Any]) -> Engine:
    file = EngineFile.model_validate(entry)
    return Engine(issuer.nodes.get(file.name, issuer.host), file, None)


def _issuer(host: str, path: Path) -> Issuer:
    troubles: list[str] = []
    spec = _try(lambda: parse_spec(read_json(path / "spec.json", "spec")), troubles)
    outcome = _optional(path / "outcome.json", OutcomeFile, troubles)
    wanted = spec.mode.value if spec else "both"

    def log(mode: str) -> logs.LoadGenLog | None:
        due = wanted in (mode, "both")
        return _try(lambda: logs.read(path / mode), troubles) if due or (path / mode).is_dir() else None

    return Issuer(
        host=(spec.node if spec and host == "localhost" else host),
        path=path,
        spec=spec,
        status=_optional(path / "status.json", StatusFile, troubles),
        outcome=outcome or OutcomeFile(),
        manifest=_optional(path / "manifest.json", ManifestFile, troubles) or ManifestFile(),
        performance=log("performance"),
        accuracy=log("accuracy"),
        score=_score(path / "accuracy", troubles),
        troubles=tuple(troubles),
    )


def _score(path: Path, troubles: list[str]) -> Score | None:
    return _try(lambda: merge([path]), troubles) if (path / "score.json").exists() else None


def _engines(host: str, directory: Path, troubles: list[str]) -> list[Engine]:
    found = []
    for folder in sorted(entry for entry in directory.glob("*") if entry.is_dir()):
        file = _optional(folder / "engine.json", EngineFile, troubles)
        if file:
            telemetry = folder / "telemetry.csv"
            found.append(Engine(host, file, telemetry if telemetry.exists() else None))
    return found


_M = TypeVar("_M", bound=File)


def _optional(path: Path, kind: type[_M], troubles: list[str]) -> _M | None:
    def load() -> _M:
        try:
            return kind.model_validate(read_json(path, path.stem))
        except ValidationError as error:
            raise BadInput(f"{path}: {explain(error)}") from None

    return _try(load, troubles)


def _try(load: Callable[[], T], troubles: list[str]) -> T | None:
    try:
        return load()
    except BadInput as error:
        troubles.append(str(error))
        return None
