"""Resuming a run that ended without a result: whether it may be, what it has finished, and what of the rest is kept.

What is not kept is moved into `interrupted/N/` of the run directory, N being 1 for the first interruption.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from harness import accuracy_parts, clock, journal, state_file
from harness.errors import BadInput
from harness.files import differences, read_json, write_atomic, write_json
from harness.load.attempts import Attempt
from harness.load.calibrate import Calibration
from harness.spec import Spec, explain
from harness.status import ends_within, look

FINISHED = (
    *("performance", "attempts", "peak", "accuracy", "compliance"),
    *("calibration", "target_qps", "resumed", "resent"),
)
"""Keys of outcome.json that hold what a run has finished, so that it need not be done again."""
_ENDING_S = 10.0  # for a process that has written its last status
_SAME = ("tokenizer_sha256", "environment_sha256", "image_digest", "driver")
_ASKED_OF_ENGINE = ("kind", "model", "config")


def check(run_dir: Path) -> None:
    """Raise BadInput unless a run ended without a result."""
    status = look(run_dir)
    run_id = status["run_id"]
    ended = ends_within(status, _ENDING_S if status["state"] in state_file.ENDED else 0)
    if status["state"] == "finished":
        raise BadInput(f"run {run_id} has finished, so there is nothing to resume; its files are in {run_dir}")
    if not ended:
        raise BadInput(f"run {run_id} is still running (process {status['pid']}); wait for its end, or stop it first")


@dataclass(frozen=True)
class Interrupted:
    """What an interrupted run left in its directory.

    Attributes:
        phase: in which it ended.
        finished: the keys `FINISHED` of its outcome, as far as it has them.
        aside: the folder for what is not kept.
    """

    spec: Spec
    run_dir: Path
    phase: str
    finished: dict[str, Any]
    aside: Path

    def check_same(self, manifest: Mapping[str, Any]) -> None:
        """Raise BadInput if the run would go on with other weights, data, software or engines than it began with.

        An engine that is away, then or now, reports nothing to compare; where it comes back, the dispatcher compares.
        """
        path = self.run_dir / "manifest.json"
        if not path.exists():
            return
        try:
            old = read_json(path, "manifest")
            away = _away(old) | _away(manifest)
            before = _identity(old, away)
        except (AttributeError, LookupError, TypeError):
            raise BadInput(f"manifest {path} is damaged; choose another run_id") from None
        changed = differences(before, _identity(manifest, away))
        if changed:
            listed = "; ".join(f"{key}: was {old!r}, is {new!r}" for key, (old, new) in changed.items())
            raise BadInput(
                f"run {self.spec.run_id} cannot be resumed, since what it measures has changed ({listed}): its parts "
                "would not be one system's; choose another run_id"
            )

    def keep(self) -> dict[str, Any]:
        """Move aside all that is not kept; returns the entry of `resumed` in outcome.json.

        Kept are finished runs of LoadGen, and of an accuracy run the journal's whole lines that have an answer.
        """
        answers = self._keep_lines()
        for path in self._unfinished(answers):
            target = self.aside / path.relative_to(self.run_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
        window = self.spec.window
        return {
            "at_unix": clock.unix(),
            "phase": self.phase,
            "accuracy_finished": bool(self.finished.get("accuracy")),
            "kept": len(answers),
            "missing": window.stop - window.start - len(answers) if "accuracy" in self.spec.mode.runs else 0,
        }

    def _keep_lines(self) -> frozenset[int]:
        """Leave only whole lines of finished runs and of answers in the journal; returns whose answers to keep."""
        path = self.run_dir / "journal.jsonl"
        if not path.exists():
            return frozenset()
        contents = journal.read(path)
        kept: dict[tuple[str, int], journal.Line] = {}
        lines, other = [], list(contents.rejected)
        for line in contents.lines:
            key = line["mode"], line["qsl_idx"]
            # Other runs may have a sample several times, an accuracy run has it once.
            wanted = key not in kept if line["mode"] == "accuracy" else bool(self.finished.get(line["mode"]))
            if wanted and "failed" not in line:
                kept[key] = line
                lines.append(journal.seal(line))
            else:
                other.append(journal.seal(line).rstrip())
        if other:
            write_atomic(self.aside / "journal.jsonl", b"".join(raw + b"\n" for raw in other))
            write_atomic(path, b"".join(lines))
        return frozenset(sample for mode, sample in kept if mode == "accuracy")

    def _unfinished(self, answers: frozenset[int]) -> Iterator[Path]:
        """Folders of LoadGen runs that were interrupted and of which nothing is kept."""
        for mode in ("performance", "compliance"):
            if not self.finished.get(mode):
                yield from _existing(self.run_dir / mode)
        attempts = {str(attempt["number"]) for attempt in self.finished.get("attempts") or ()}
        yield from (folder for folder in _existing(*self.run_dir.glob("attempts/*")) if folder.name not in attempts)
        for folder in _existing(*self.run_dir.glob("probes/*")):
            if not (folder / "probe.json").exists():
                yield folder
        parts = accuracy_parts.parts(self.run_dir, self.spec.window)
        for part, own in reversed(list(zip(parts, accuracy_parts.answered_in(parts), strict=True))):
            if own & answers:
                return
            yield part.folder


def interrupted(spec: Spec, run_dir: Path) -> Interrupted:
    """What is left of a run that ended without a result; keeps its last status.

    Raises:
        BadInput: its status cannot be read, or what it finished is damaged.
    """
    numbers = [int(folder.name) for folder in (run_dir / "interrupted").glob("*") if folder.name.isdigit()]
    aside = run_dir / "interrupted" / str(max(numbers, default=0) + 1)
    status, outcome = look(run_dir), _outcome(run_dir)
    write_json(aside / "status.json", status)
    phases = status.get("phases") or [{"phase": status.get("phase") or "unknown"}]  # a failed run's own is "failed"
    return Interrupted(
        spec=spec,
        run_dir=run_dir,
        phase=phases[-1]["phase"],
        finished={key: outcome[key] for key in FINISHED if outcome.get(key) is not None}
        | {"engine_losses": _losses(status, outcome, run_dir)},
        aside=aside,
    )


def _losses(status: Mapping[str, Any], outcome: Mapping[str, Any], run_dir: Path) -> list[dict[str, Any]]:
    """Engines that were lost in what is kept: finished runs, and the accuracy run's answers.

    The status knows of those, too, that the interrupted phase had lost.
    """

    def is_kept(loss: Mapping[str, Any]) -> bool:
        mode = loss.get("mode") or "performance"
        kind, _, number = (loss.get("folder") or mode).partition("/")
        if kind == "attempts":
            return any(str(attempt["number"]) == number for attempt in outcome.get("attempts") or ())
        if kind == "probes":
            return (run_dir / kind / number / "probe.json").exists()
        return mode == "accuracy" or bool(outcome.get(mode))

    losses = status.get("engine_losses") or outcome.get("engine_losses") or ()
    return [loss for loss in losses if is_kept(loss)]


def answers(run_dir: Path) -> dict[int, journal.Line]:
    """The lines of the accuracy run's answers in a run's journal, by global qsl_idx."""
    path = run_dir / "journal.jsonl"
    lines = journal.read(path).answers if path.exists() else ()
    return {line["qsl_idx"]: line for line in lines if line["mode"] == "accuracy"}


def together(kept: Collection[journal.Line], outcome: Mapping[str, Any] | None) -> dict[str, Any]:
    """The outcome of a whole accuracy run from the kept answers and the outcome of its last part; None without one.

    The client's processor time is not known for a part that was interrupted.
    """
    if outcome and not kept:
        return dict(outcome)
    none = {"mode": "accuracy", "started_unix": float("inf"), "finished_unix": 0.0, "one_token_answers": ()}
    last = {**none, "samples": 0, "tokens": 0, "issued": 0, **(outcome or {})}
    short = [line["qsl_idx"] for line in kept if line["n_tokens"] == 1]
    ends = [line["issued_unix"] + line["last_s"] - line["issued_s"] for line in kept]
    return {
        **last,
        "started_unix": min(last["started_unix"], *(line["issued_unix"] for line in kept)),
        "finished_unix": max(last["finished_unix"], *ends),
        "samples": last["samples"] + len(kept),
        "tokens": last["tokens"] + sum(line["n_tokens"] for line in kept),
        "issued": last["issued"] + len(kept),
        "one_token_answers": sorted({*last["one_token_answers"], *short}),
        "client_cpu_s": None,
    }


class _LoadGenRun(BaseModel):
    """A finished LoadGen run, as `Outcome.part` gives it; what is read of it later."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    started_unix: float
    finished_unix: float
    samples: int
    tokens: int
    issued: int
    ended_early: str | None = None


class _Outcome(BaseModel):
    """What a run has finished, as outcome.json has it."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    performance: _LoadGenRun | None = None
    attempts: tuple[Attempt, ...] | None = None
    peak: dict[str, Any] | None = None
    accuracy: _LoadGenRun | None = None
    compliance: _LoadGenRun | None = None
    calibration: Calibration | None = None
    target_qps: float | None = None
    resumed: tuple[dict[str, Any], ...] | None = None
    resent: dict[str, int] | None = None
    engine_losses: tuple[dict[str, Any], ...] | None = None

    @field_validator("engine_losses")
    @classmethod
    def _readable(cls, losses: Any) -> Any:
        state_file.check({"state": "failed", "engine_losses": list(losses or ())}, "outcome.json")
        return losses


def _outcome(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "outcome.json"
    if not path.exists():
        return {}  # it ended before anything was finished
    try:
        return _Outcome.model_validate(read_json(path, "outcome")).model_dump(mode="json")
    except (BadInput, ValidationError) as error:
        why = explain(error) if isinstance(error, ValidationError) else error
        raise BadInput(
            f"outcome {path} is damaged ({why}), so what the run has finished is not known; choose another run_id, or "
            "move the file away: the run then resumes with the accuracy answers in its journal and does all else again"
        ) from None


def _existing(*folders: Path) -> list[Path]:
    return [folder for folder in folders if folder.is_dir()]


def _away(manifest: Mapping[str, Any]) -> frozenset[str]:
    """The engines of a manifest.json that did not run."""
    return frozenset(engine["name"] for engine in manifest.get("engines") or () if engine.get("state") == "failed")


def _identity(manifest: Mapping[str, Any], away: Collection[str]) -> dict[str, Any]:
    """What must be the same in all parts of a run, of manifest.json; of engines that are away only what is asked."""
    engines: Sequence[Mapping[str, Any]] = manifest.get("engines") or ()
    return {
        **{key: manifest.get(key) for key in _SAME},
        "weights": (manifest.get("model") or {}).get("sha256"),
        "samples": (manifest.get("dataset") or {}).get("samples_sha256"),
        "engine": {engine["name"]: _identity_of(engine, engine["name"] in away) for engine in engines},
    }


def _identity_of(engine: Mapping[str, Any], is_away: bool) -> dict[str, Any]:
    asked = {key: engine.get(key) for key in _ASKED_OF_ENGINE}
    if is_away:
        return asked
    # The cache's size depends on what was free when the engine started.
    verified = {key: value for key, value in (engine.get("verified") or {}).items() if key != "kv_cache_tokens"}
    return {**asked, "version": engine.get("version"), "verified": verified}
