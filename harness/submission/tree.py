"""Write a submission's tree: LoadGen's files as they are, and descriptions of system, weights and commands."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import harness
from harness import compliance
from harness.files import write_atomic, write_json
from harness.submission.rules import BENCHMARK, MOST_LOG_BYTES, VIEWABLE_BYTES
from harness.submission.runs import Run
from harness.submission.system import counted, quantized, weight_type

_BUNDLE = Path(harness.__file__).parents[1]
_SOURCES = ("harness", "playbooks", "plugins", "roles", "requirements", "container")
_SOURCE_FILES = ("ansible.cfg", "benchmark.yml", "site.yml", "pyproject.toml", "LICENSE")
_NO_SOURCE = ("__pycache__",)


def write(
    root: Path, runs: Sequence[Run], system: str, description: Mapping[str, str], answers: Mapping[str, str]
) -> None:
    """Write `<root>/<division>/<submitter>/…`.

    Args:
        runs: one of each scenario.
        system: the system's name in paths.
        description: content of systems/<system>.json, which names division and submitter.
        answers: what the submitter answered.
    """
    home = root / description["division"] / description["submitter"]
    write_json(home / "systems" / f"{system}.json", dict(description))
    for run in runs:
        _scenario(home / "results" / system / BENCHMARK / run.scenario, run, answers)
    write_atomic(home / "documentation" / "calibration.md", _calibration(runs, answers))
    _sources(home / "src" / BENCHMARK, runs)


def _scenario(folder: Path, run: Run, answers: Mapping[str, str]) -> None:
    performance, accuracy, test = (run.folders[mode] for mode in ("performance", "accuracy", "compliance"))
    for name in ("mlperf_log_summary.txt", "mlperf_log_detail.txt"):
        _copy(performance / name, folder / "performance" / "run_1" / name)
        _copy(accuracy / name, folder / "accuracy" / name)
    _copy(accuracy / "accuracy.txt", folder / "accuracy" / "accuracy.txt")
    _truncate(accuracy / "mlperf_log_accuracy.json", folder / "accuracy" / "mlperf_log_accuracy.json")
    _copy(test / compliance.VERIFIED, folder / compliance.TEST / compliance.VERIFIED)
    _copy(test / compliance.LOG, folder / compliance.TEST / "accuracy" / compliance.LOG)
    _copy(performance / "user.conf", folder / "user.conf")
    write_json(folder / "measurements.json", _measurements(run, answers))
    write_atomic(folder / "README.md", _readme(run))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _truncate(source: Path, target: Path) -> None:
    """Copy an accuracy log; of one that is longer than a tree may hold, its beginning and its end."""
    content = source.read_bytes()
    if len(content) > MOST_LOG_BYTES:
        content = content[:VIEWABLE_BYTES] + b"\n\n...\n\n" + content[-VIEWABLE_BYTES:]
    write_atomic(target, content)


def _measurements(run: Run, answers: Mapping[str, str]) -> dict[str, str]:
    names = {machine.model_name for machine in run.machines} - {None}
    return {
        "input_data_types": "int32",
        "retraining": answers["retraining"],
        "starting_weights_filename": " and ".join(sorted(map(str, names))),
        "weight_data_types": weight_type(run.machines, run.engines),
        "weight_transformations": answers["weight_transformations"],
    }


def _readme(run: Run) -> str:
    request, result = run.result.asked, run.result
    reasons = "".join(f"- {reason}\n" for reason in run.reasons) or "Every rule of the project's own verdict holds.\n"
    if run.open_reasons:
        reasons += "\nThe submission is in the Open division because of:\n\n" + "".join(
            f"- {one}\n" for one in run.open_reasons
        )
    engines = "".join(
        f"- {engine.name}: {engine.kind}, {engine.dtype}, quantization {engine.quantization or 'none'}, "
        f"max_num_seqs {engine.max_num_seqs}, context {engine.max_model_len}, prefix caching "
        f"{'on' if engine.prefix_caching else 'off'}\n"
        for engine in run.engines
    )
    return f"""\
# {BENCHMARK}, {run.scenario}

Run `{result.run_id}` of mlperf-distributed, whose source is in `src/{BENCHMARK}`. One LoadGen drove
{counted(len(run.engines), "engine")} on {counted(len(run.machines), "node")}; samples and answers are token ids.

To repeat it, install the source on the nodes, describe them in an inventory, and run:

    ansible-playbook -i INVENTORY site.yml
    ansible-playbook -i INVENTORY benchmark.yml -e scenario={request.scenario} -e mode=all \\
      -e samples={request.samples} -e target_qps={_rate(run)}

## Engines

{engines}
All their settings are in `src/{BENCHMARK}/runs/{run.scenario}.json`.

## Verdict of the project, not verified by MLCommons Association: {result.verdict.level}

{reasons}"""


def _rate(run: Run) -> str:
    rates = [phase.target_qps for phase in run.result.phases if phase.mode == "performance" and phase.target_qps]
    return f"{rates[0]:g}" if rates else str(run.result.asked.target_qps)


def _calibration(runs: Sequence[Run], answers: Mapping[str, str]) -> str:
    engines = [engine for run in runs for engine in run.engines]
    machines = [machine for run in runs for machine in run.machines]
    hashes = sorted({str(machine.model_sha256) for machine in machines})
    text = f"""\
# Calibration

Weights: {weight_type(machines, engines)}; SHA-256 over the names and hashes of their files: {", ".join(hashes)}.

"""
    if quantized(machines, engines):
        return f"{text}{answers['calibration']}\n"
    return f"{text}The weights were not quantized, so no calibration was made.\n"


def _sources(folder: Path, runs: Sequence[Run]) -> None:
    """The package and the playbooks of this checkout, as far as they are here, and each run's settings."""
    folders = [path for name in _SOURCES for path in sorted((_BUNDLE / name).rglob("*"))]
    for path in (*folders, *(_BUNDLE / name for name in _SOURCE_FILES)):
        if path.is_file() and not set(path.parts) & set(_NO_SOURCE):
            _copy(path, folder / path.relative_to(_BUNDLE))
    for run in runs:
        content = {"specification": json.loads(run.spec.model_dump_json()), "engines": run.settings}
        write_json(folder / "runs" / f"{run.scenario}.json", content)
    versions = sorted({str(machine.versions.get("harness")) for run in runs for machine in run.machines})
    write_atomic(
        folder / "README.md",
        f"""\
# Source

mlperf-distributed {harness.__version__}: the Python package `harness`, which drives LoadGen, starts vLLM and judges a
run, and the playbooks that call it. The runs were made with version {", ".join(versions)}. `runs` holds the
specification of each scenario's run and all settings of its engines.
""",
    )
