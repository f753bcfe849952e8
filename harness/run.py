"""One run, from its spec to its files: prepare, start detached, execute, look, stop.

spec ─► preparing ─► [starting engine] ─► [calibrating] ─► warming up ─► performance ─► accuracy ─► scoring
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from harness import accuracy, dataset, engine, punkt
from harness.calibrate import Calibration, calibrate
from harness.errors import BadInput, HarnessError, NotReady, RunFailed
from harness.files import differences, read_json, tail, write_json
from harness.loadgen import RunMode, SamplesFailed, run_loadgen, warm_up
from harness.manifest import manifest
from harness.progress import Progress
from harness.spec import Mode, Spec, parse_spec
from harness.status import TERMINAL, Heartbeat, alive, look
from harness.telemetry import Sampler

_BASE_BYTES = 64 << 20
_BYTES_PER_SAMPLE = 16 << 10
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0


class Stopped(HarnessError):
    """Somebody asked the run to end."""


def run_directory(root: Path, run_id: str) -> Path:
    """Where a run's files live."""
    return root / "runs" / run_id


def validate(spec: Spec, root: Path) -> dataset.Dataset:
    """Check everything a run needs before anything is started; returns the samples of this LoadGen.

    Raises:
        BadInput: model or data set missing or broken.
        NotReady: too little disk.
    """
    samples = dataset.load(spec.dataset, vocab_size=dataset.vocab_size(spec.model), limit=spec.samples)
    if spec.reference_ids and not spec.reference_ids.is_file():
        raise BadInput(f"reference_ids {spec.reference_ids} does not exist; build it with `harness sandbox`")
    needed = _BASE_BYTES + _BYTES_PER_SAMPLE * (spec.window.stop - spec.window.start)
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise NotReady(
            f"disk of {root} has {free / 2**20:.0f} MiB free, this run needs {needed / 2**20:.0f} MiB; "
            "make room or choose another --root"
        )
    return samples.share(spec.window.start, spec.window.stop)


def compare(spec: Spec, root: Path) -> dict[str, tuple[Any, Any]] | None:
    """How an existing run of this id was asked differently: {key: (its value, this value)}; None when there is none."""
    path = run_directory(root, spec.run_id) / "spec.json"
    if not path.exists():
        return None
    old, new = read_json(path, "spec"), spec.document()
    return {**differences(old["common"], new["common"]), **differences(old["node"], new["node"])}


def create(spec: Spec, root: Path) -> bool:
    """Make the run's directory with its spec.json, written once; False when the same run exists.

    Raises:
        BadInput: the id is taken by a run that was asked differently.
    """
    run_dir = run_directory(root, spec.run_id)
    with _locked(root / "runs"):
        different = compare(spec, root)
        if different is None:
            write_json(run_dir / "spec.json", spec.document())
            return True
    if different:
        values = "; ".join(f"{key}: it has {old!r}, you ask {new!r}" for key, (old, new) in different.items())
        raise BadInput(f"run_id {spec.run_id} exists with another spec ({values}); choose another run_id")
    return False


def start(spec: Spec, root: Path) -> tuple[bool, dict[str, Any]]:
    """Start the run detached from this process; (changed, status). A run that exists is left as it is."""
    validate(spec, root)
    changed = create(spec, root)
    run_dir = run_directory(root, spec.run_id)
    with _locked(run_dir):
        if not (run_dir / "status.json").exists():
            _detach(run_dir, root)
            changed = True
    return changed, look(run_dir)


def stop(root: Path, run_id: str) -> tuple[bool, dict[str, Any]]:
    """End a run and its children; (changed, status)."""
    run_dir = run_directory(root, run_id)
    status = look(run_dir)
    pid = status["pid"]
    if status["state"] in TERMINAL and not alive(pid, status["boot_id"]):
        return False, status
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    os.kill(pid, signal.SIGTERM)
    while alive(pid, status["boot_id"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    if alive(pid, status["boot_id"]):
        os.kill(pid, signal.SIGKILL)
    return True, look(run_dir)


def runs(root: Path) -> list[dict[str, Any]]:
    """Every run under `root`, oldest first, as its status."""
    found = [look(path.parent) for path in (root / "runs").glob("*/status.json")]
    return sorted(found, key=lambda status: float(status["started_unix"]))


def execute(
    spec: Spec,
    root: Path,
    *,
    own_engine: engine.EngineConfig | None = None,
    on_status: Callable[[dict[str, Any]], None] = lambda status: None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Path:
    """Carry a created run through all its phases in this process; returns its directory.

    Args:
        own_engine: an engine to bring up for this run and to take down after it.
        on_status: called with the content of status.json about once a second.
        on_line: told how the engine's start and the scoring come along.

    Raises:
        HarnessError: what ended the run; status.json and outcome.json say the same.
    """
    run_dir = run_directory(root, spec.run_id)
    heartbeat = Heartbeat(run_dir, spec.run_id, run_dir / "harness.log")
    outcome: dict[str, Any] = {
        "schema": 1,
        "performance": None,
        "accuracy": None,
        "calibration": None,
        "telemetry_cost": None,
        "failures": [],
        "target_qps": None,
        "target_qps_asked": spec.target_qps,
    }
    try:
        with _stoppable():
            _phases(spec, root, run_dir, heartbeat, outcome, own_engine, on_status, on_line)
    except Stopped:
        heartbeat.finish("stopped", "stopped on request")
        raise
    except HarnessError as error:
        heartbeat.finish("failed", str(error))
        raise
    except Exception as error:
        heartbeat.finish("failed", f"harness broke: {type(error).__name__}: {error}")
        raise
    finally:
        write_json(run_dir / "outcome.json", outcome)
    heartbeat.finish("finished")
    on_status(heartbeat.snapshot())
    return run_dir


def _phases(
    spec: Spec,
    root: Path,
    run_dir: Path,
    heartbeat: Heartbeat,
    outcome: dict[str, Any],
    own_engine: engine.EngineConfig | None,
    on_status: Callable[[dict[str, Any]], None],
    on_line: Callable[[str], None],
) -> None:
    def enter(name: str) -> None:
        heartbeat.phase(name)
        on_status(heartbeat.snapshot())

    def tell(progress: Progress) -> None:
        heartbeat.progress(progress)
        on_status(heartbeat.snapshot())

    samples = validate(spec, root)
    with ExitStack() as cleanup:
        if own_engine:
            enter("starting engine")
            cleanup.callback(engine.down, root, own_engine.name)
            engine.up(root, own_engine, wait=True, on_progress=on_line, die_with_parent=True)
        write_json(run_dir / "manifest.json", manifest(spec, root))
        sampler = Sampler(run_dir / "telemetry.csv", {ref.name: ref.url for ref in spec.engines})
        sampler.start()
        cleanup.callback(lambda: outcome.update(telemetry_cost=asdict(sampler.stop())))
        target_qps = None if spec.target_qps == "auto" else spec.target_qps
        if spec.calibrate_only or target_qps is None:
            enter("calibrating")
            found: Calibration = calibrate(spec, run_dir, tell)
            outcome["calibration"] = asdict(found)
            target_qps = found.target_qps
        outcome["target_qps"] = target_qps
        if spec.calibrate_only:
            return
        enter("warming up")
        warm_up(spec, run_dir)
        modes: tuple[RunMode, ...] = ("performance", "accuracy")
        for mode in modes:
            if spec.mode in (mode, Mode.BOTH):
                enter(mode)
                try:
                    outcome[mode] = asdict(run_loadgen(spec, mode, run_dir, target_qps, tell))
                except SamplesFailed as error:
                    outcome["failures"] = [{"mode": mode, **asdict(failure)} for failure in error.failures]
                    raise
    if spec.mode in (Mode.ACCURACY, Mode.BOTH):
        enter("scoring")
        accuracy.score(
            run_dir / "accuracy" / "mlperf_log_accuracy.json",
            samples,
            spec.model,
            reference_ids=spec.reference_ids,
            punkt_dir=punkt.find(spec.punkt, root),
            out_dir=run_dir / "accuracy",
            on_progress=on_line,
        )


def main(arguments: Sequence[str]) -> int:
    """Entry of the detached process: run directory and root as arguments."""
    run_dir, root = map(Path, arguments)
    spec = parse_spec(read_json(run_dir / "spec.json", "spec"))
    try:
        execute(spec, root)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _detach(run_dir: Path, root: Path) -> None:
    with (run_dir / "harness.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.run", str(run_dir), str(root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (run_dir / "status.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RunFailed(f"harness did not start: {' '.join(tail(run_dir / 'harness.log', 3))}")
        time.sleep(0.02)


@contextmanager
def _stoppable() -> Iterator[None]:
    def stop_now(number: int, frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop_now) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
