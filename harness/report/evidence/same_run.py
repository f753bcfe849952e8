"""Every file of a run directory says that it is of this run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import compliance
from harness.errors import BadInput
from harness.files import read_json, sha256_json
from harness.report.input_models import DatasetFacts
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.state_file import SHARE_SUFFIX

_ASKED = ("scenario", "mode", "samples")
_REQUESTED = (*_ASKED, "target_qps", "topology", "launcher")
_HASHES = ("common_sha256", "node_sha256")
_IDENTITY = ("run_id", *_HASHES)
_OF_RUN = {
    "manifest.json": _IDENTITY,
    "outcome.json": _IDENTITY,
    "status.json": ("run_id",),
    "accuracy/score.json": (),
    f"compliance/{compliance.RECORD}": (),
}
"""Files that say which run they are of, with what they must say of it: earlier versions wrote no more."""


def reasons(inputs: Inputs, run: LoadGenRun) -> Iterator[Reason]:
    """Run ids and hashes of the specification that differ, and settings that were run otherwise than planned."""
    document = _object(run.path / "spec.json")
    if run.spec is None or document is None:
        return

    def differs(name: str, what: str, value: Any, rule: Any) -> Iterator[Reason]:
        if value != rule:
            yield Rule.SAME_RUN.reason(file=inputs.shown(run.path / name), what=what, value=value, rule=rule)

    for part, name in zip(("common", "node"), _HASHES, strict=True):
        yield from differs("spec.json", name, document.get(name), sha256_json(document.get(part)))
    for name, required in _OF_RUN.items():
        content = _object(run.path / name)
        for key in _IDENTITY:
            if content is not None and (key in required or key in content):
                rule = run.spec.run_id if key == "run_id" else document.get(key)
                yield from differs(name, key, content.get(key), rule)
    if not run.unreadable("manifest.json"):
        data = run.manifest.dataset or DatasetFacts()
        for what, value, rule in (
            ("model.path", run.manifest.model.path, str(run.spec.model)),
            ("dataset.path", data.path, str(run.spec.dataset)),
            ("seeds.sampling", run.manifest.seeds.sampling, run.spec.seed),
        ):
            yield from differs("manifest.json", what, value, rule)
        for what, value in (("sha256", data.sha256), ("samples_sha256", data.samples_sha256)):
            if not re.fullmatch("[0-9a-f]{64}", value or ""):
                yield from differs("manifest.json", f"dataset.{what}", value, "a SHA-256")
    fixed = isinstance(run.spec.target_qps, float) and not run.spec.has_attempts
    if fixed and not run.unreadable("outcome.json"):
        yield from differs("outcome.json", "target_qps", run.outcome.target_qps, run.spec.target_qps)
    own = [other.spec for other in inputs.loadgens if other.spec and not other.takes_over]
    if not run.takes_over and len({spec.document()["common_sha256"] for spec in own}) > 1:
        yield from differs("spec.json", "common_sha256", document.get("common_sha256"), "the same on all nodes")
    if inputs.plan:
        yield from _planned(inputs, run)


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing or damaged, which other rules judge."""
    try:
        content = read_json(path, path.stem)
    except BadInput:
        return None
    return content if isinstance(content, dict) else None


def _planned(inputs: Inputs, run: LoadGenRun) -> Iterator[Reason]:
    """Differences between the plan and the run's specification."""
    assert inputs.plan and run.spec
    spec = run.spec.model_dump(mode="json")
    names = ("scenario", "samples") if run.takes_over else _ASKED
    pairs = [(name, inputs.plan.asked.get(name), spec[name]) for name in names]
    pairs.append(("run_id", inputs.plan.run_id, spec["run_id"].partition(SHARE_SUFFIX)[0]))
    share = inputs.plan.nodes.get(run.host, {}).get("share")
    if share and not run.takes_over:
        pairs.append(("share", share, run.spec.window.model_dump()))
    if inputs.request:
        asked, planned = inputs.request.asked, inputs.plan.asked
        pairs += [(f"asked.{name}", planned.get(name), asked.get(name)) for name in _REQUESTED]
    for what, value, rule in pairs:
        if value != rule:
            yield Rule.SAME_RUN.reason(file="plan.json", what=what, value=value, rule=rule)
