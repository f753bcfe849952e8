"""Results as they are compared: what was the work, and what it ran on.

Two runs are comparable where their work is the same; what they ran on may have changed between them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import BadInput
from harness.files import read_json, sha256_json
from harness.printable import printable
from harness.spec import FULL_SAMPLES, UnixSeconds, explain

UNKNOWN = "not known"


class _Part(BaseModel):
    """A part of result.json that is read; it may hold more, and less in results of an earlier schema."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Asked(_Part):
    """What was asked for."""

    scenario: str | None = None
    mode: str | None = None
    samples: int | None = None
    target_qps: float | str | None = None
    topology: str | None = None
    repeat_of: str | None = None


class Verdict(_Part):
    """Level of the verdict."""

    level: str


class Machine(BaseModel):
    """A node's hardware and software; the rest of it as plain values by name."""

    model_config = ConfigDict(frozen=True, extra="allow")

    gpus: tuple[dict[str, Any], ...] = ()
    versions: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """A value by its name; None where there is none."""
        return getattr(self, name, None)


class Node(_Part):
    """One node."""

    name: str
    machine: Machine = Machine()
    engines: tuple[dict[str, Any], ...] = ()


class Percentiles(_Part):
    """Of a latency, in milliseconds."""

    p50_ms: float
    p90_ms: float | None = None
    p99_ms: float


class Figures(_Part):
    """Figures of all nodes together; None where not measured."""

    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None
    scheduled_samples_per_s: float | None = None
    ttft: Percentiles | None = None
    tpot: Percentiles | None = None
    end_to_end: Percentiles | None = None
    rouge: dict[str, float | None] | None = None


class Energy(_Part):
    """Energy of all nodes together; None where not measured."""

    joules_per_sample: float | None = None
    tokens_per_joule: float | None = None


class Run(_Part):
    """One result with the folder it was read from."""

    run_id: str
    created_unix: UnixSeconds | None = None
    asked: Asked = Asked()
    verdict: Verdict
    together: Figures
    energy: Energy = Energy()
    nodes: tuple[Node, ...] = ()
    accuracy_reference: dict[str, Any] | None = None
    folder: Path = Path()


def load(place: str, results: Path) -> Run:
    """The result of a run with figures, given by its id in `results` or by its folder.

    Raises:
        BadInput: there is none, it cannot be read, or it has no figures.
    """
    folder = next((path for path in (Path(place), results / place) if path.is_dir()), None)
    if folder is None:
        raise BadInput(f"run {place} is neither a folder nor a run in {results}; `ls {results}` lists those that are")
    run = read(folder)
    if run.together.samples_per_s is None:
        raise BadInput(f"run {run.run_id} ({folder}) has no figures, so there is nothing to compare")
    return run


def read(folder: Path) -> Run:
    """The result in a folder, its texts printable: it may be another machine's, and they are shown in many places.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    files = [folder / "result.json", folder / "report" / "result.json"]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        raise BadInput(f"{folder} holds no result.json; run `harness report {folder}` first")
    try:
        return Run.model_validate({**_mapping(read_json(file, "result"), file), "folder": folder})
    except ValidationError as error:
        raise BadInput(f"result {file}: {explain(error)}; run `harness report {folder}` again") from None


def _mapping(value: Any, file: Path) -> dict[str, Any]:
    try:
        plain = printable(value)
    except RecursionError:
        plain = None
    if not isinstance(plain, dict):
        raise BadInput(f"result {file} is no JSON object, or is too deep; run `harness report` on its folder again")
    return plain


def work(run: Run) -> dict[str, str]:
    """What must be the same for two runs to be compared, in words by what it is."""
    asked = run.asked
    return {
        "scenario": str(asked.scenario),
        "mode": str(asked.mode),
        "samples": str(asked.samples),
        "topology": str(asked.topology),
        "weights (sha256)": _set(node.machine.get("model_sha256") for node in run.nodes),
        "samples' content (sha256)": _set(node.machine.get("samples_sha256") for node in run.nodes),
        "GPUs": _counted(sorted(_gpus(node) for node in run.nodes)),
    }


def weights_known(run: Run) -> bool:
    """Whether all nodes' weights are known, of at least one; else nothing says that two runs are the same work."""
    return bool(run.nodes) and UNKNOWN not in work(run)["weights (sha256)"]


def gate(run: Run) -> str | None:
    """What the answers were judged by; None where they were not scored."""
    if run.accuracy_reference:
        return "answers of another engine"
    if run.together.rouge is None:
        return None
    return "published ROUGE" if run.asked.samples == FULL_SAMPLES else "nothing"


def node_work(asked: Asked, node: Node, *, any_load: bool = False) -> str | None:
    """Fingerprint of what makes two speeds of one node comparable; None where something needed is unknown.

    Same scenario, samples, weights, GPUs and number of engines, and the speed taken from the same mode. A rate that was
    asked for belongs to it, since it bounds the speed. With `any_load` neither rate nor number of engines belong to it:
    two runs are then the same work, in which these may have changed.
    """
    hashes = node.machine.get("model_sha256"), node.machine.get("samples_sha256")
    if None in hashes or not node.engines:
        return None
    if any_load:
        return sha256_json([asked.scenario, asked.mode == "accuracy", asked.samples, hashes, _gpus(node)])
    rate = None if asked.scenario == "offline" else asked.target_qps
    engines = len(node.engines)
    return sha256_json([asked.scenario, asked.mode == "accuracy", asked.samples, rate, hashes, _gpus(node), engines])


def node_load(asked: Asked, node: Node) -> dict[str, str]:
    """What `any_load` leaves out, in words by what it is; Offline has no rate."""
    rate = {} if asked.scenario == "offline" else {"target_qps": str(asked.target_qps)}
    return {"engines": str(len(node.engines)), **rate}


def conditions(run: Run) -> dict[str, str]:
    """What may have changed between two runs of the same work, in words by what it is."""
    return {
        **node_conditions(run.nodes),
        "target_qps": str(run.asked.target_qps),
        "engines": str(sum(len(node.engines) for node in run.nodes)),
        "nodes": ", ".join(sorted(node.name for node in run.nodes)),
    }


def node_conditions(nodes: Iterable[Node]) -> dict[str, str]:
    """What the nodes ran on, in words by what it is."""
    rows: dict[str, set[str]] = {}
    for node in nodes:
        for what, value in _conditions(node):
            if value not in (None, "", {}, ()):
                rows.setdefault(what, set()).add(str(value))
    return {what: ", ".join(sorted(values)) for what, values in rows.items()}


def differences(base: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What differs between two sets of conditions, each with both values."""
    names = sorted(what for what in {*base, *new} if base.get(what) != new.get(what))
    return [f"{what} {base.get(what, UNKNOWN)[:40]} → {new.get(what, UNKNOWN)[:40]}" for what in names]


_GPU = {
    "GPU power limit W": "power_limit_w", "GPU SM clock MHz": "sm_clock_max_mhz",
    "GPU SM clock set MHz": "sm_clock_set_mhz", "GPU ECC": "ecc", "GPU PCIe": "pcie",
}  # fmt: skip


def _parts(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _conditions(node: Node) -> Iterator[tuple[str, Any]]:
    machine = node.machine
    names = {
        "driver": "driver", "CUDA": "cuda", "kernel": "kernel", "system": "os", "Python": "python",
        "processor": "cpu_model", "cores": "cpu_count", "memory GiB": "memory_gib",
        "environment (sha256)": "environment_sha256", "container image": "image_digest",
        "data set (sha256)": "dataset_sha256", "type of the weights": "model_dtype",
        "format of the weights": "model_quantization",
    }  # fmt: skip
    yield from ((what, machine.get(name)) for what, name in names.items())
    yield from ((str(name), version) for name, version in machine.versions.items())
    for gpu in machine.gpus:
        for what, name in _GPU.items():
            yield what, gpu.get(name)
    yield "processor's governor", _parts(machine.get("host")).get("cpu_governor")
    yield from ((f"variable {name}", value) for name, value in _parts(machine.get("variables")).items())
    for engine in node.engines:
        for name, value in engine.items():
            if name == "version" and isinstance(value, dict):
                yield from ((f"engine's {part}", text) for part, text in value.items())
            elif name not in ("name", "state", "unverified"):
                yield f"engine {name.removesuffix('_sha256')}", value


def _counted(texts: list[str]) -> str:
    """Texts in their order, equal ones once with how many nodes have it."""
    counts = Counter(texts)
    return ", ".join(text if count == 1 else f"{text} on each of {count} nodes" for text, count in counts.items())


def _gpus(node: Node) -> str:
    names = [str(gpu.get("name")) for gpu in node.machine.gpus]
    if not names:
        return "none"
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))


def node(record: BaseModel) -> Node:
    """A node of a result that is being made, as it will be read again."""
    return Node.model_validate(record.model_dump(mode="json"))


def _set(values: Any) -> str:
    return ", ".join(sorted({UNKNOWN if value is None else str(value)[:12] for value in values}))


def is_same_work(one: Run, other: Run) -> bool:
    """Whether `same_work` lets two runs be compared."""
    try:
        same_work([one, other])
    except BadInput:
        return False
    return True


def same_work(runs: Sequence[Run]) -> None:
    """Refuse to compare runs of different work.

    Raises:
        BadInput: something differs; every difference with its values.
    """
    first, judged_by = work(runs[0]), next(filter(None, map(gate, runs)), None)
    for run in runs[1:]:
        other = work(run)
        if gate(run) not in (None, judged_by):
            first, other = first | {"answers judged by": str(judged_by)}, other | {"answers judged by": str(gate(run))}
        if wrong := [f"{what}: {first[what]} against {other[what]}" for what in first if first[what] != other[what]]:
            raise BadInput(f"runs {runs[0].run_id} and {run.run_id} are not the same work ({'; '.join(wrong)})")
