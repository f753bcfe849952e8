"""Reads the files of one benchmark into frozen records. An absent file is None, a damaged one a `problem` in words."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from harness import accuracy_parts
from harness.attempt_record import AttemptRecord
from harness.errors import BadInput
from harness.files import read_json
from harness.report import journals, logs
from harness.report.input_models import (
    Calibration,
    EngineFile,
    EngineLoss,
    FailureFile,
    ManifestFile,
    OutcomeFile,
    PlanFile,
    RequestFile,
    Resumed,
    StatusFile,
)
from harness.scoring.scores import Row, Score, load_rows, merge
from harness.spec import Spec, explain, parse_spec

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class LoadGenRun:
    """One LoadGen's run directory.

    `takes_over` is the lost node of whose accuracy share this is a run; None for a node's own run.
    `judged` is the folder of the performance run that counts, see `judged_folder`; `performance` is LoadGen's log of
    it, None where LoadGen could not write one because the attempt was ended early. `interrupted` are the logs of the
    parts of the accuracy run that were interrupted, and `accuracy` is that of the part which ended.
    """

    host: str
    path: Path
    judged: Path
    takes_over: str | None
    spec: Spec | None
    status: StatusFile | None
    outcome: OutcomeFile
    manifest: ManifestFile
    attempts: tuple[AttemptRecord, ...]
    performance: logs.LoadGenLog | None
    accuracy: logs.LoadGenLog | None
    compliance: logs.LoadGenLog | None
    interrupted: tuple[logs.LoadGenLog, ...]
    score: Score | None
    score_rows: tuple[Row, ...]
    journal: journals.Journal
    problems: tuple[str, ...]

    @property
    def nodes(self) -> dict[str, str]:
        """The node that each engine of this run stands on."""
        return {ref.name: ref.node for ref in self.spec.engines} if self.spec else {}

    def log_of(self, mode: str) -> logs.LoadGenLog | None:
        """LoadGen's log of the judged performance run or of the accuracy run."""
        return self.performance if mode == "performance" else self.accuracy

    @property
    def logs(self) -> Iterator[tuple[str, Path, logs.LoadGenLog]]:
        """Mode, folder and log of each LoadGen run that has one."""
        for mode, folder in (("performance", self.judged), ("accuracy", self.path)):
            if log := self.log_of(mode):
                yield mode, folder / mode, log

    def unreadable(self, name: str) -> bool:
        """Whether a file of this run is missing or damaged, which is a problem already."""
        return any(str(self.path / name) in problem for problem in self.problems)

    @property
    def accuracy_resumed(self) -> tuple[Resumed, ...]:
        """When the accuracy run was resumed with answers of before."""
        return tuple(one for one in self.outcome.resumed if one.kept and not one.accuracy_finished)

    def losses_in(self, folder: Path) -> tuple[EngineLoss, ...]:
        """Engines that the performance run in a folder such as `judged` lost; those of an earlier version, which did
        not record the folder, count in each."""
        name = "performance" if folder == self.path else folder.relative_to(self.path).as_posix()
        losses = self.outcome.engine_losses
        return tuple(loss for loss in losses if loss.mode == "performance" and loss.folder in (name, None))

    @property
    def judged_losses(self) -> tuple[EngineLoss, ...]:
        """Engines that were lost in what is judged, not in a probe."""
        performance = self.losses_in(self.judged)
        return tuple(loss for loss in self.outcome.engine_losses if loss.mode != "performance" or loss in performance)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, as far as its status says."""
        return self.status is None or self.status.state == "finished"

    @property
    def target_qps(self) -> float | None:
        """Samples/s that LoadGen was to offer in the judged performance run, and in the accuracy run after it."""
        return self.last_attempt.target_qps if self.last_attempt else self.outcome.target_qps

    @property
    def last_attempt(self) -> AttemptRecord | None:
        """The attempt that is judged; None for a rate given as a number, and where it ended without its record."""
        return next((attempt for attempt in self.attempts if self.judged.name == str(attempt.number)), None)


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine of one node; `telemetry` is its supervisor's CSV where there is one.

    `folder` is the name of its folder. `observed`: no engine.json was collected, and the LoadGen's manifest describes
    it.
    """

    node: str
    file: EngineFile
    telemetry: Path | None
    folder: str | None = None
    observed: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything one report is made from. `replaced` are lost nodes whose run is left out, since others made theirs."""

    path: Path
    run_id: str
    plan: PlanFile | None
    loadgens: tuple[LoadGenRun, ...]
    engines: tuple[Engine, ...]
    failures: tuple[FailureFile, ...]
    problems: tuple[str, ...]
    replaced: frozenset[str] = frozenset()
    request: RequestFile | None = None
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    def shown(self, path: Path) -> str:
        """A file's path from the results' folder on."""
        return path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else str(path)

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
    # Where a benchmark failed before its plan, failures.json is all there is; where it was killed, what was asked for.
    if not any((path / name).exists() for name in ("plan.json", "nodes", "failures.json", "request.json")):
        raise BadInput(
            f"results {path} holds no plan.json, nodes/ or spec.json; give results/<run_id> or a run directory"
        )
    problems: list[str] = []
    plan = _read(path / "plan.json", PlanFile, problems)
    homes = {entry.name: entry for entry in sorted((path / "nodes").glob("*")) if entry.is_dir()}
    loadgens = [loadgen_run(host, home) for host, home in homes.items() if (home / "spec.json").exists()]
    for host, home in homes.items():
        shares = sorted(file.parent for file in (home / "shares").glob("*/spec.json"))
        loadgens += [loadgen_run(host, share, takes_over=share.name) for share in shares]
    # A node that was given up while it lived may have finished after others had begun its share.
    scored = {run.host for run in loadgens if not run.takes_over and run.finished and run.score}
    loadgens = [run for run in loadgens if run.takes_over not in scored]
    engines = [engine for host, home in homes.items() for engine in _engines(host, home / "engines", problems)]
    known = {engine.node for engine in engines}
    replaced = _replaced(plan, loadgens)
    loadgens = [loadgen for loadgen in loadgens if loadgen.takes_over or loadgen.host not in replaced]
    for loadgen in loadgens:
        if loadgen.host not in known:
            engines += [engine for engine in _observed(loadgen) if engine.node not in known]
    return Inputs(
        path=path,
        run_id=plan.run_id if plan else path.name,
        plan=plan,
        loadgens=tuple(loadgens),
        engines=tuple(engines),
        failures=_failures(path / "failures.json", problems, ended=plan is not None),
        request=_read_if_there(path / "request.json", RequestFile, problems),
        calibrations=_calibrations(homes, problems),
        problems=tuple(problems),
        replaced=replaced,
    )


def _replaced(plan: PlanFile | None, loadgens: Sequence[LoadGenRun]) -> frozenset[str]:
    """Nodes that had to measure accuracy only, and whose whole share others have taken over."""
    taken: dict[str, int] = {}
    for run in loadgens:
        if run.takes_over and run.finished and run.score and run.spec:
            taken[run.takes_over] = taken.get(run.takes_over, 0) + run.spec.window.stop - run.spec.window.start
    if plan is None or plan.asked.get("mode") != "accuracy":
        return frozenset()
    shares = {node: (plan.nodes.get(node) or {}).get("share") or {} for node in taken}
    return frozenset(
        node for node in taken if taken[node] == shares[node].get("stop", 0) - shares[node].get("start", 0)
    )


def _lone_run(path: Path) -> Inputs:
    run = loadgen_run("localhost", path)
    return Inputs(path, path.name, None, (run,), tuple(_observed(run)), (), ())


def judged_folder(run: Path) -> Path:
    """The folder with `performance/` and `journal.jsonl` of the performance run that counts.

    It is that of the last attempt, `attempts/<highest number>`, or the run directory where there are no attempts.
    """
    folders = attempt_folders(run)
    return folders[max(folders)] if folders else run


def attempt_folders(run: Path) -> dict[int, Path]:
    """The folder of each attempt by its number. Folders of other names than a number's are no attempts."""
    return numbered_folders(run / "attempts")


def numbered_folders(path: Path) -> dict[int, Path]:
    """The folders in `path` whose names are numbers from 1, by number."""
    folders = [entry for entry in path.glob("*") if re.fullmatch("[1-9][0-9]{0,8}", entry.name)]
    return {int(entry.name): entry for entry in sorted(folders) if entry.is_dir()}


def read_file(path: Path, kind: type[M]) -> M:
    """One JSON file as its model.

    Raises:
        BadInput: it is missing, damaged or does not hold what it should.
    """
    problems: list[str] = []
    content = _read(path, kind, problems)
    if content is None:
        raise BadInput(problems[0])
    return content


def loadgen_run(host: str, path: Path, takes_over: str | None = None) -> LoadGenRun:
    """Read the run directory `path` of the LoadGen on `host`; `takes_over` as in the record."""
    problems: list[str] = []
    spec = _or_problem(lambda: parse_spec(read_json(path / "spec.json", "spec")), problems)
    outcome = _read(path / "outcome.json", OutcomeFile, problems)
    judged = judged_folder(path)
    attempts = _attempts(path, problems)
    modes = spec.mode.runs if spec else ("performance", "accuracy")
    ended_early = any(attempt.ended_early for attempt in attempts if str(attempt.number) == judged.name)

    def log(folder: Path) -> logs.LoadGenLog | None:
        expected = folder.name.partition(".")[0] in modes or folder.is_dir()
        return _or_problem(lambda: logs.read(folder), problems) if expected else None

    last, cut = _accuracy_folders(path, outcome or OutcomeFile())
    interrupted = [_or_problem(partial(logs.read, folder, cut=True), problems) for folder in cut]
    journal, journal_problems = journals.read(folder / "journal.jsonl" for folder in dict.fromkeys((judged, path)))
    return LoadGenRun(
        host=(spec.node if spec and host == "localhost" else host),
        path=path,
        judged=judged,
        takes_over=takes_over,
        spec=spec,
        status=_read(path / "status.json", StatusFile, problems),
        outcome=outcome or OutcomeFile(),
        manifest=_read(path / "manifest.json", ManifestFile, problems) or ManifestFile(),
        attempts=attempts,
        performance=None if ended_early else log(judged / "performance"),
        accuracy=log(last) if last else None,
        compliance=log(path / "compliance"),
        interrupted=tuple(one for one in interrupted if one),
        score=_score(path / "accuracy", problems),
        score_rows=_score_rows(path / "accuracy", problems),
        journal=journal,
        problems=(*problems, *journal_problems),
    )


def _accuracy_folders(run: Path, outcome: OutcomeFile) -> tuple[Path | None, list[Path]]:
    """The folder of the accuracy run's part that ended, and those of its interrupted parts.

    None ended where the last answer had come when a run was interrupted, so that nothing was left to be issued.
    """
    folders = accuracy_parts.folders(run)
    if not folders:
        return run / accuracy_parts.FIRST, []
    *cut, last = folders
    if outcome.resumed and not outcome.resumed[-1].missing and not accuracy_parts.Part(last, ()).whole:
        return None, [*cut, last]
    return last, cut


def _attempts(run: Path, problems: list[str]) -> tuple[AttemptRecord, ...]:
    attempts = [_read(folder / "attempt.json", AttemptRecord, problems) for folder in attempt_folders(run).values()]
    return tuple(sorted((attempt for attempt in attempts if attempt), key=lambda attempt: attempt.number))


def _score(path: Path, problems: list[str]) -> Score | None:
    return _or_problem(lambda: merge([path]), problems) if (path / "score.json").exists() else None


def _score_rows(path: Path, problems: list[str]) -> tuple[Row, ...]:
    return tuple(_or_problem(lambda: load_rows(path), problems) or ()) if (path / "scores.csv").exists() else ()


def _calibrations(homes: Mapping[str, Path], problems: list[str]) -> dict[str, Calibration]:
    """What was measured before the runs, by host."""
    files = {host: home / "calibration" / "calibration.json" for host, home in homes.items()}
    read = {host: _read_if_there(file, Calibration, problems) for host, file in files.items()}
    return {host: calibration for host, calibration in read.items() if calibration}


def _engines(host: str, directory: Path, problems: list[str]) -> list[Engine]:
    engines = []
    for folder in sorted(entry for entry in directory.glob("*") if entry.is_dir()):
        file = _read(folder / "engine.json", EngineFile, problems)
        if file:
            telemetry = folder / "telemetry.csv"
            engines.append(Engine(host, file, telemetry if telemetry.exists() else None, folder.name))
    return engines


def _observed(loadgen: LoadGenRun) -> list[Engine]:
    """Engines that only the run's manifest describes: those of `harness run`, and endpoints."""
    return [
        Engine(loadgen.nodes.get(file.name, loadgen.host), file, None, observed=True)
        for file in loadgen.manifest.engines
    ]


def _failures(path: Path, problems: list[str], *, ended: bool) -> tuple[FailureFile, ...]:
    """What failed on the hosts; a benchmark that was brought to its end always has the file."""
    if not path.exists() and not ended:
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


def _read_if_there(path: Path, kind: type[M], problems: list[str]) -> M | None:
    return _read(path, kind, problems) if path.exists() else None


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
