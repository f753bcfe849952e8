"""The runs of a submission: which there must be, that each is VALID, and that all ran on one system."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import compliance
from harness.errors import BadInput
from harness.report import EngineSettings, Machine, Reason, Result, judged
from harness.spec import Scenario, Spec
from harness.submission.rules import FOLDERS

OPEN_ALLOWS = frozenset({"GEN_LEN", "NO_REFERENCE", "ROUGE", "SAMPLING_SEED", "SPECULATIVE", "TINY_MODEL"})
"""Codes of the verdict's reasons that keep a run out of the Closed division alone: another model than Llama-3.1-8B or
other weights, the accuracy that they reach, and another way to choose tokens. All other rules hold in Open, too."""
_FILES = {
    "performance": ("mlperf_log_summary.txt", "mlperf_log_detail.txt", "user.conf"),
    "accuracy": ("mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json", "accuracy.txt"),
    "compliance": (compliance.LOG, compliance.VERIFIED),
}


@dataclass(frozen=True)
class Run:
    """One run of one scenario: its record, and the folders of LoadGen's files by mode.

    `settings` are all settings of each engine, by node. `sandbox`: its model or its targets are those of the sandbox,
    which no division takes.
    """

    path: Path
    result: Result
    spec: Spec
    folders: dict[str, Path]
    settings: dict[str, list[dict[str, Any]]]
    sandbox: bool

    @property
    def scenario(self) -> str:
        """The scenario's name in a tree."""
        return FOLDERS[self.spec.scenario]

    @property
    def machines(self) -> list[Machine]:
        """The machines with engines."""
        return [node.machine for node in self.result.nodes]

    @property
    def engines(self) -> list[EngineSettings]:
        """All engines."""
        return [engine for node in self.result.nodes for engine in node.engines]

    @property
    def reasons(self) -> list[str]:
        """Why it is not VALID, a sentence each."""
        return [_text(reason) for reason in self.result.verdict.reasons]

    @property
    def open_reasons(self) -> list[str]:
        """Those that Open allows and Closed does not."""
        return [_text(reason) for reason in self.result.verdict.reasons if reason.code in OPEN_ALLOWS]

    @property
    def refused(self) -> bool:
        """Whether there is a reason that no division allows."""
        return self.sandbox or any(reason.code not in OPEN_ALLOWS for reason in self.result.verdict.reasons)


def read_runs(paths: Sequence[Path], unofficial: bool) -> list[Run]:
    """The runs in result directories, one for each scenario; Offline and one of the others at least.

    Args:
        paths: `results/<run_id>` of each.
        unofficial: whether runs are taken that no division allows.

    Raises:
        BadInput: a run is missing or incomplete, has a reason that no division allows, or they did not run on one
            system.
    """
    runs = [_read(path) for path in paths]
    scenarios = [run.spec.scenario for run in runs]
    if twice := sorted({FOLDERS[scenario] for scenario in scenarios if scenarios.count(scenario) > 1}):
        raise BadInput(f"two runs are of scenario {', '.join(twice)}; give one run of each scenario")
    if Scenario.OFFLINE not in scenarios or len(scenarios) < 2:
        given = ", ".join(FOLDERS[scenario] for scenario in scenarios) or "none"
        raise BadInput(f"runs of scenario {given}: give one of Offline and one of Server or Interactive")
    if not unofficial and (refused := [run for run in runs if run.refused]):
        reasons = "; ".join(
            f"run {run.result.run_id} is {run.result.verdict.level}: {' '.join(run.reasons)}" for run in refused
        )
        raise BadInput(f"{reasons}. Repeat that run, or ask for an unofficial tree")
    _check_same_system(runs)
    return sorted(runs, key=lambda run: list(FOLDERS).index(run.spec.scenario))


def division(runs: Sequence[Run]) -> str:
    """Closed; Open where a run has a reason that Open allows and Closed does not."""
    return "open" if any(run.open_reasons for run in runs) else "closed"


def _read(path: Path) -> Run:
    result, inputs = judged(path)
    if len(inputs.loadgens) != 1 or inputs.spec is None:
        count = len(inputs.loadgens)
        raise BadInput(f"run {path.name} has {count} LoadGens: a submission has one; run again with topology=fleet")
    loadgen = inputs.loadgens[0]
    folders = {
        "performance": loadgen.judged / "performance",
        "accuracy": loadgen.path / "accuracy",
        "compliance": loadgen.path / "compliance",
    }
    missing = [
        f"{mode}/{name}" for mode, names in _FILES.items() for name in names if not (folders[mode] / name).is_file()
    ]
    if missing:
        raise BadInput(
            f"run {path.name} lacks {', '.join(missing)}: a submission needs performance, accuracy and compliance of "
            "each scenario; run again with mode=all"
        )
    models = [run.manifest.model for run in inputs.loadgens] + [engine.file.served for engine in inputs.engines]
    sandbox = any(model.sandbox for model in models) or inputs.spec.reference_ids is not None
    settings: dict[str, list[dict[str, Any]]] = {}
    for engine in inputs.engines:
        settings.setdefault(engine.node, []).append(engine.file.config)
    return Run(path, result, inputs.spec, folders, settings, sandbox)


def _text(reason: Reason) -> str:
    return f"[{reason.level}] {reason.sentence}"


def _check_same_system(runs: Sequence[Run]) -> None:
    """All runs must describe the same machines and weights; LoadGen's rate and the engines' settings may differ."""
    facts: dict[str, list[Any]] = {
        "the number of nodes": [len(run.machines) for run in runs],
        "the processors": [[machine.cpu_model for machine in run.machines] for run in runs],
        "the GPUs": [[[gpu.name for gpu in machine.gpus] for machine in run.machines] for run in runs],
        "the operating system": [[machine.os for machine in run.machines] for run in runs],
        "the image": [[machine.image_digest for machine in run.machines] for run in runs],
        "the driver": [[machine.driver for machine in run.machines] for run in runs],
        "the software": [[machine.environment_sha256 for machine in run.machines] for run in runs],
        "the weights": [[machine.model_sha256 for machine in run.machines] for run in runs],
        "the data set": [[machine.dataset_sha256 for machine in run.machines] for run in runs],
    }
    for what, values in facts.items():
        if any(value != values[0] for value in values):
            shown = "; ".join(f"{run.result.run_id}: {value}" for run, value in zip(runs, values, strict=True))
            raise BadInput(f"the runs are not of one system: {what} differ ({shown}); run all scenarios on the same")
