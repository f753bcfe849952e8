"""The files of one benchmark, read into frozen records. What is absent is None; what is damaged is a `trouble`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import BadInput
from harness.files import read_json
from harness.report import logs
from harness.spec import Spec, explain, parse_spec

T = TypeVar("T")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Part(_File):
    """One LoadGen run as its harness saw it (a half of outcome.json); times in unix seconds."""

    started_unix: float
    finished_unix: float
    samples: int
    tokens: int
    issued: int
    failures: tuple[dict[str, Any], ...] = ()
    one_token_answers: tuple[int, ...] = ()
    client_cpu_s: float | None = None


class Cost(_File):
    """What telemetry itself used."""

    cpu_s: float
    samples: int
    wall_s: float


class Calibration(_File):
    """The short measurement that chose the target rate."""

    samples_per_s: float
    by_engine: dict[str, float] = {}
    target_qps: float | None = None
    tried: tuple[dict[str, Any], ...] = ()
    seconds: float | None = None
    samples: int | None = None


class OutcomeFile(_File):
    """outcome.json."""

    performance: Part | None = None
    accuracy: Part | None = None
    calibration: Calibration | None = None
    telemetry_cost: Cost | None = None
    target_qps: float | None = None


class StatusFile(_File):
    """status.json, the parts a judge needs."""

    state: str
    phase: str | None = None
    reason: str | None = None
    log: str | None = None
    started_unix: float | None = None
    elapsed_s: float | None = None


class ModelFacts(_File):
    """The weights a node served. `sandbox` and the sizes come from the model's directory."""

    name: str | None = None
    sha256: str | None = None
    weights_bytes: int | None = None
    dtype: str | None = None
    hidden_size: int | None = None
    layers: int | None = None
    vocab_size: int | None = None
    sandbox: bool | None = None


class DatasetFacts(_File):
    """The data set a node read."""

    sha256: str | None = None
    samples: int | None = None


class Gpu(_File):
    """One GPU as the node's driver describes it."""

    index: int | None = None
    name: str | None = None
    memory_gib: float | None = None
    power_limit_w: float | None = None
    sm_clock_max_mhz: float | None = None
    pcie_gen: int | None = None
    pcie_width: int | None = None


class ManifestFile(_File):
    """manifest.json: what a node's run ran on."""

    node: str | None = None
    hostname: str | None = None
    os: str | None = None
    kernel: str | None = None
    python: str | None = None
    cpu_model: str | None = None
    cpu_count: int | None = None
    memory_gib: float | None = None
    versions: dict[str, str | None] = {}
    environment_sha256: str | None = None
    image_digest: str | None = None
    model: ModelFacts = ModelFacts()
    dataset: DatasetFacts = DatasetFacts()
    tokenizer_sha256: str | None = None
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    engines: tuple[dict[str, Any], ...] = ()


class EngineFile(_File):
    """engine.json: one engine, what was asked of it and what the running server showed."""

    name: str
    kind: str = "vllm"
    state: str
    reason: str | None = None
    model: str | None = None
    config: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    verified: dict[str, Any] = {}
    unverified: tuple[str, ...] = ()
    version: dict[str, str | None] = {}
    machine: ManifestFile | None = None


class ScoreFile(_File):
    """score.json: accuracy of one share, or of all shares merged."""

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 - the published name of the metric
    rougeLsum: float | None  # noqa: N815
    gen_len: int | None
    gen_num: int
    samples_expected: int
    missing: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()
    foreign: tuple[int, ...] = ()
    end_token_violations: tuple[int, ...] = ()
    one_token_answers: tuple[int, ...] = ()
    punkt: bool | None = None
    reference: dict[str, Any] | None = None
    log_sha256: str | None = None


class PlanFile(_File):
    """plan.json: what Ansible decided before the run."""

    run_id: str
    created_unix: float | None = None
    topology: str | None = None
    launcher: str | None = None
    asked: dict[str, Any] = {}
    nodes: dict[str, dict[str, Any]] = {}
    loadgens: tuple[str, ...] = ()
    shared_machine: bool = False


class FailureFile(_File):
    """One entry of failures.json: what Ansible saw fail."""

    host: str
    phase: str | None = None
    reason: str
    log: str | None = None


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
    score: ScoreFile | None
    troubles: tuple[str, ...]

    def node_of(self, engine: str) -> str:
        """The node an engine of this run stands on; a lone run's engines stand where it runs."""
        nodes = {ref.name: ref.node for ref in self.spec.engines} if self.spec else {}
        return nodes.get(engine, self.host)


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
    if not (path / "plan.json").exists() and not (path / "nodes").is_dir():
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
        if issuer.host not in found and issuer.node_of(str(entry.get("name"))) not in found
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
    return Engine(issuer.node_of(file.name), file, None)


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
        score=_optional(path / "accuracy" / "score.json", ScoreFile, troubles if wanted != "performance" else []),
        troubles=tuple(troubles),
    )


def _engines(host: str, directory: Path, troubles: list[str]) -> list[Engine]:
    found = []
    for folder in sorted(entry for entry in directory.glob("*") if entry.is_dir()):
        file = _optional(folder / "engine.json", EngineFile, troubles)
        if file:
            telemetry = folder / "telemetry.csv"
            found.append(Engine(host, file, telemetry if telemetry.exists() else None))
    return found


_M = TypeVar("_M", bound=_File)


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
