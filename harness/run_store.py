"""Run directories: validate a spec, create, start, list and stop runs."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import dataset
from harness.errors import BadInput, NotReady, RunFailed
from harness.files import describe_differences, differences, read_json, tail, write_json
from harness.node.model import model_files
from harness.scoring import punkt
from harness.spec import Mode, Spec
from harness.status import alive, look

_BASE_BYTES = 64 << 20
_BYTES_PER_SAMPLE = 16 << 10
_START_TIMEOUT_S = 60.0
_DECISION = "decision.json"
# Longer than a run's own engine may take to stop.
_STOP_TIMEOUT_S = 60.0


def run_directory(root: Path, run_id: str) -> Path:
    """The directory of a run's files."""
    return root / "runs" / run_id


def validate(spec: Spec, root: Path) -> dataset.Dataset:
    """Check everything that a run needs, before anything is started; returns the samples of this LoadGen.

    Raises:
        BadInput: model, data set, reference answers or Punkt's data are missing or invalid.
        NotReady: too little disk space.
    """
    _check_files(spec, root)
    samples = dataset.load(spec.dataset, vocab_size=dataset.vocab_size(spec.model), limit=spec.samples)
    return samples.share(spec.window.start, spec.window.stop)


def _check_files(spec: Spec, root: Path) -> None:
    """All checks of `validate` except reading the data set, which takes a second."""
    model_files(spec.model)
    punkt.find(spec.punkt, root)
    if spec.reference_ids and not spec.reference_ids.is_file():
        raise BadInput(f"reference_ids {spec.reference_ids} does not exist; build it with `harness sandbox`")
    needed = _BASE_BYTES + _BYTES_PER_SAMPLE * (spec.window.stop - spec.window.start)
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise NotReady(
            f"disk of {root} has {free / 2**20:.0f} MiB free, this run needs {needed / 2**20:.0f} MiB; "
            "free some space or choose another --root"
        )


def compare(spec: Spec, root: Path) -> dict[str, tuple[Any, Any]] | None:
    """How an existing run's spec differs: {key: (its value, this value)}; None when there is no run of this id."""
    path = run_directory(root, spec.run_id) / "spec.json"
    if not path.exists():
        return None
    old, new = read_json(path, "spec"), spec.document()
    return {**differences(old["common"], new["common"]), **differences(old["node"], new["node"])}


def reject_different_spec(spec: Spec, root: Path) -> bool:
    """Whether the run is new; False when it exists with the same spec.

    Raises:
        BadInput: a run of this id exists with another spec.
    """
    different = compare(spec, root)
    if different:
        raise BadInput(
            f"run_id {spec.run_id} exists with another spec ({describe_differences(different)}); choose another run_id"
        )
    return different is None


def create(spec: Spec, root: Path) -> bool:
    """Create the run's directory and spec.json; False when the run exists with the same spec.

    Raises:
        BadInput: a run of this id exists with another spec.
    """
    run_dir = run_directory(root, spec.run_id)
    with _locked(root / "runs"):
        new = reject_different_spec(spec, root)
        if new:
            write_json(run_dir / "spec.json", spec.document())
    return new


def start(spec: Spec, root: Path) -> tuple[bool, dict[str, Any]]:
    """Start the run in a detached process; returns (changed, status). An existing run is not changed.

    The new process reads the data set first; if that fails, the run's directory is deleted.

    Raises:
        HarnessError: as `validate` and `create`, or the process did not start.
    """
    _check_files(spec, root)
    changed = create(spec, root)
    run_dir = run_directory(root, spec.run_id)
    with _locked(run_dir):
        if not (run_dir / "status.json").exists():
            try:
                _detach(run_dir, root)
            except (BadInput, NotReady):
                shutil.rmtree(run_dir)
                raise
            changed = True
    return changed, look(run_dir)


def stop(root: Path, run_id: str) -> tuple[bool, dict[str, Any]]:
    """Stop a run and its child processes; returns (changed, status)."""
    run_dir = run_directory(root, run_id)
    status = look(run_dir)
    if not alive(status):
        return False, status
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        os.kill(status["pid"], signal.SIGTERM)
        while alive(status) and time.monotonic() < deadline:
            time.sleep(0.1)
        if alive(status):
            os.kill(status["pid"], signal.SIGKILL)
    return True, look(run_dir)


def decide(root: Path, run_id: str, attempt: int, repeat: bool) -> bool:
    """Tell a run that waits after an attempt whether all LoadGens repeat theirs; False if it was told before.

    Raises:
        BadInput: the run has not finished that attempt, or was told the opposite.
    """
    folder = run_directory(root, run_id) / "attempts" / str(attempt)
    if not (folder / "attempt.json").exists():
        raise BadInput(f"run {run_id} has not finished attempt {attempt}; `harness status {run_id}` shows its progress")
    path = folder / _DECISION
    if path.exists():
        if read_json(path, "decision")["repeat"] != repeat:
            raise BadInput(f"attempt {attempt} of run {run_id} already has the opposite decision; see {path}")
        return False
    write_json(path, {"schema": 1, "repeat": repeat})
    return True


def decision(run_dir: Path, attempt: int, timeout_s: float) -> bool | None:
    """Wait for `decide`: whether to repeat the attempt; None without a decision in time."""
    path, deadline = run_dir / "attempts" / str(attempt) / _DECISION, time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if path.exists():
            return bool(read_json(path, "decision")["repeat"])
        time.sleep(0.2)
    return None


def warnings(spec: Spec, root: Path) -> list[str]:
    """What will make the result UNOFFICIAL without preventing the run."""
    if spec.mode is not Mode.PERFORMANCE and punkt.find(spec.punkt, root) is None:
        return [
            "Punkt's data is missing, so ROUGE-Lsum and gen_len will not be measured and the result is UNOFFICIAL; "
            "`harness doctor` says how to get it"
        ]
    return []


def runs(root: Path) -> list[dict[str, Any]]:
    """The status of every run under `root`, oldest first."""
    statuses = [look(path.parent) for path in (root / "runs").glob("*/status.json")]
    return sorted(statuses, key=lambda status: float(status["started_unix"]))


def _detach(run_dir: Path, root: Path) -> None:
    with (run_dir / "harness.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.run_phases", str(run_dir), str(root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (run_dir / "status.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            error = {kind.exit_code: kind for kind in (BadInput, NotReady)}.get(process.wait())
            if error:
                raise error(" ".join(tail(run_dir / "harness.log", 1)))
            raise RunFailed(f"harness did not start: {' '.join(tail(run_dir / 'harness.log', 3))}")
        time.sleep(0.02)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        # Pods and login users share a group, and either may create the file.
        with contextlib.suppress(PermissionError):
            os.fchmod(lock.fileno(), 0o664)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
