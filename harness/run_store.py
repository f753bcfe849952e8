"""Run directories: validate a spec, create, start, list and stop runs."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import dataset, resume, state_file
from harness.errors import BadInput, NotReady, RunFailed
from harness.files import describe_differences, differences, read_json, tail, write_json
from harness.linux import check_open_files
from harness.node.model import model_files
from harness.scoring import punkt
from harness.spec import Spec
from harness.status import alive, ends_within, look

_BASE_BYTES = 64 << 20
_BYTES_PER_SAMPLE = 16 << 10
_OWN_FILES = 256  # libraries, logs, the journal, pipes, and connections that are being made anew
_START_TIMEOUT_S = 60.0
_DECISION = "decision.json"
# Longer than a run's own engine may take to stop.
_STOP_TIMEOUT_S = 60.0
_KILL_TIMEOUT_S = 10.0


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
    check_open_files(open_files(spec), f"a run with {_in_flight(spec):,} requests in flight")
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


def open_files(spec: Spec) -> int:
    """Files and connections that the process which issues samples may have open at once."""
    return _in_flight(spec) + _OWN_FILES


def _in_flight(spec: Spec) -> int:
    """The most requests at once; each has a connection of its own."""
    return sum(engine.max_in_flight for engine in spec.engines)


def compare(spec: Spec, root: Path, *, planned: bool = True) -> dict[str, tuple[Any, Any]] | None:
    """How an existing run's spec differs: {key: (its value, this value)}; None when there is no run of this id.

    One that is not `planned` yet lacks what follows from calibration: only what all nodes have in common is compared.
    """
    path = run_directory(root, spec.run_id) / "spec.json"
    if not path.exists():
        return None
    old, new = read_json(path, "spec"), spec.document()
    if not isinstance(old, dict) or not all(isinstance(old.get(part), dict) for part in ("common", "node")):
        raise BadInput(f"spec {path} is damaged; look into {path.parent}, then choose another run_id")
    own = differences(old["node"], new["node"]) if planned else {}
    return {**differences(old["common"], new["common"]), **own}


def reject_different_spec(spec: Spec, root: Path, *, planned: bool = True) -> bool:
    """Whether the run is new; False when it exists with the same spec, compared as `compare` does.

    Raises:
        BadInput: a run of this id exists with another spec.
    """
    different = compare(spec, root, planned=planned)
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


def start(
    spec: Spec, root: Path, *, resumed: bool = False, keys: Mapping[str, str] | None = None
) -> tuple[bool, dict[str, Any]]:
    """Start the run in a detached process; returns (changed, status). An existing run is not changed, unless `resumed`.

    `keys` are API keys of engines by their names, which the new process gets and no file.

    The new process reads the data set first; if that fails, a new run's directory is deleted.

    Raises:
        BadInput: with `resumed`, there is no run of this id, or it has finished or is running.
        HarnessError: as `validate` and `create`, or the process did not start.
    """
    _check_files(spec, root)
    run_dir = run_directory(root, spec.run_id)
    if resumed:
        check_resumable(spec, root)
    changed = create(spec, root)
    with _locked(run_dir):
        ended = (run_dir / "status.json").exists()
        if resumed and ended:
            resume.check(run_dir)
        if resumed or not ended:
            try:
                _detach(run_dir, root, keys or {}, *(["--resume"] if ended else []))
            except (BadInput, NotReady):
                if not ended:
                    shutil.rmtree(run_dir)
                raise
            changed = True
    return changed, look(run_dir)


def may_resume(status: dict[str, Any]) -> bool:
    """Whether a run with this status ended without a result."""
    return status["state"] not in state_file.RUNNING | {"finished"}


def exists_already(root: Path, run_id: str) -> str:
    """What to do about a run that exists, which is not run again."""
    run_dir = run_directory(root, run_id)
    if (run_dir / "status.json").exists() and may_resume(status := look(run_dir)):
        return (
            f"run {run_id} ended without a result ({status['reason']}): choose another run_id, or resume it with the "
            f"same command and `--run-id {run_id} --resume`"
        )
    return f"run_id {run_id} has run already; see {run_dir}"


def check_resumable(spec: Spec, root: Path) -> None:
    """Raise BadInput unless a run of this spec exists that ended without a result."""
    run_dir = run_directory(root, spec.run_id)
    if reject_different_spec(spec, root):
        raise BadInput(f"there is no run {spec.run_id} in {run_dir.parent} that could be resumed; see `harness status`")
    if (run_dir / "status.json").exists():
        resume.check(run_dir)


def stop(root: Path, run_id: str) -> tuple[bool, dict[str, Any]]:
    """Stop a run and its child processes, also a suspended one; returns (changed, status).

    Raises:
        BadInput: there is no such run.
        RunFailed: its process cannot be killed.
    """
    run_dir = run_directory(root, run_id)
    status = look(run_dir)
    if not alive(status):
        return False, status
    with contextlib.suppress(ProcessLookupError):
        os.kill(status["pid"], signal.SIGTERM)
        os.kill(status["pid"], signal.SIGCONT)
        if not ends_within(status, _STOP_TIMEOUT_S):
            os.kill(status["pid"], signal.SIGKILL)
    if not ends_within(status, _KILL_TIMEOUT_S):
        raise RunFailed(
            f"process {status['pid']} of run {run_id} cannot be killed: it waits for a disk or file server; "
            "see `dmesg`, and stop the run again when it answers"
        )
    return True, look(run_dir)


def decide(root: Path, run_id: str, attempt: int, repeat: bool) -> bool:
    """Tell a run that waits after an attempt whether all LoadGens repeat theirs; False if that was decided before.

    Raises:
        BadInput: the run has not finished that attempt, or the opposite was decided.
    """
    folder = run_directory(root, run_id) / "attempts" / str(attempt)
    if not (folder / "attempt.json").exists():
        raise BadInput(f"run {run_id} has not finished attempt {attempt}; `harness status {run_id}` shows its progress")
    path = folder / _DECISION
    before = _decided(path)
    if before is not None:
        if before != repeat:
            raise BadInput(f"attempt {attempt} of run {run_id} already has the opposite decision; see {path}")
        return False
    write_json(path, {"schema": 1, "repeat": repeat})
    return True


def decision(run_dir: Path, attempt: int, timeout_s: float) -> bool | None:
    """Wait for `decide`: whether to repeat the attempt; None without a decision in time."""
    path, deadline = run_dir / "attempts" / str(attempt) / _DECISION, time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        decided = _decided(path)
        if decided is not None:
            return decided
        time.sleep(0.2)
    return None


def _decided(path: Path) -> bool | None:
    """The decision in a file; None where there is none, or none that can be read."""
    try:
        content = read_json(path, "decision")
    except BadInput:
        return None
    repeat = content.get("repeat") if isinstance(content, dict) else None
    return repeat if isinstance(repeat, bool) else None


def warnings(spec: Spec, root: Path) -> list[str]:
    """What will make the result UNOFFICIAL without preventing the run."""
    if "accuracy" in spec.mode.runs and punkt.find(spec.punkt, root) is None:
        return [
            "Punkt's data is missing, so ROUGE-Lsum and gen_len will not be measured and the result is UNOFFICIAL; "
            "`harness doctor` says how to get it"
        ]
    return []


def runs(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The status of every run under `root`, oldest first; and a sentence for each that cannot be read."""
    statuses, unreadable = [], []
    for path in sorted((root / "runs").glob("*/status.json")):
        try:
            statuses.append(look(path.parent))
        except BadInput as error:
            unreadable.append(str(error))
    return sorted(statuses, key=lambda status: float(status.get("started_unix") or 0)), unreadable


def _detach(run_dir: Path, root: Path, keys: Mapping[str, str], *words: str) -> None:
    with (run_dir / "harness.log").open("ab") as log, os.fdopen(os.memfd_create("keys"), "w+b") as given:
        given.write(json.dumps(dict(keys)).encode())
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.run_phases", str(run_dir), str(root), *words],
            stdin=given,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _is_kept_by(process.pid, run_dir):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            error = {kind.exit_code: kind for kind in (BadInput, NotReady)}.get(process.wait())
            if error:
                raise error(" ".join(tail(run_dir / "harness.log", 1)))
            raise RunFailed(f"harness did not start: {' '.join(tail(run_dir / 'harness.log', 3))}")
        time.sleep(0.02)


def _is_kept_by(pid: int, run_dir: Path) -> bool:
    """Whether the status is that of this process; a resumed run has one of its last process."""
    try:
        record = state_file.read(str(run_dir / "status.json"))
    except (OSError, ValueError):
        return False
    return record is not None and record.get("pid") == pid


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        # Pods and login users share a group, and either may create the file.
        with contextlib.suppress(PermissionError):
            os.fchmod(lock.fileno(), 0o664)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
