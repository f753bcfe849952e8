"""Finished runs that can be submitted: whole Offline and Server runs of the real model, with compliance."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import compliance, journal
from harness.spec import FULL_SAMPLES, Scenario, parse_spec
from tests.unit.loadgen_logs import LOGS, resummarise
from tests.unit.results_tree import LOGGED, REAL, START, Pace, benchmark, change_engines, edit, sample, seal

HOST = {
    "virtual_machine": None,
    "container": None,
    "cpu_sockets": 2,
    "cpu_cores_per_socket": 16,
    "cpu_mhz_max": 3700.0,
    "cpu_governor": "performance",
    "cpu_caches": "L1d 32K, L2 1024K, L3 32768K",
    "numa_nodes": 2,
    "disks": [{"kind": "NVMe SSD", "gb": 960}, {"kind": "NVMe SSD", "gb": 1920}],
    "network_cards": [[10000, None], [1000]],
}
GPU = {
    "index": 0,
    "name": "NVIDIA A30",
    "memory_gib": 24.0,
    "power_limit_w": 165.0,
    "sm_clock_max_mhz": 1440,
    "pcie_gen": 4,
    "pcie_width": 16,
}
ANSWERS = {
    "system_name": "2x ExampleServer 100 (1x NVIDIA A30 each)",
    "status": "available",
    "host_memory_configuration": "8x 32GB DDR4-3200",
    "host_networking": "Ethernet 10GbE",
    "host_networking_topology": "one switch",
    "accelerator_memory_configuration": "HBM2",
    "cooling": "air",
    "retraining": "no",
    "weight_transformations": "none",
}


def submittable(folder: Path, *, nodes: Sequence[str] = ("alpha", "beta"), **changes: Any) -> list[Path]:
    """An Offline and a Server run on nodes with one GPU each."""
    runs = []
    for scenario in ("offline", "server"):
        run = folder / scenario
        values = {"nodes": nodes, "scenario": scenario, "samples": FULL_SAMPLES, "mode": "all", "model": REAL}
        benchmark(run, **{**values, **changes})
        home = run / "nodes" / nodes[0]
        add_compliance(home, scenario)
        edit(home / "manifest.json", _equip)
        change_engines(run, lambda engine: _equip(engine["machine"]))
        configure(run, dtype="bfloat16")
        seal(run)
        runs.append(run)
    return runs


def _equip(machine: dict[str, Any]) -> None:
    machine.update(host=HOST, gpus=[GPU], driver="580.65.06", cuda="13.0")


def configure(run: Path, **settings: Any) -> None:
    """Let a run's engines be configured so, wherever that is written."""

    def change(engine: dict[str, Any]) -> None:
        for part in ("config", "asked"):
            engine[part].update(settings)
        engine["verified"].update({key: value for key, value in settings.items() if key in LOGGED})
        for key, value in settings.items():
            engine["command"] += [f"--{key}", str(value)]  # of two options the last one counts

    change_engines(run, change)


def add_compliance(home: Path, scenario: str) -> None:
    """Give a run's directory the compliance run that LoadGen's recorded log is of, over as many samples as it has."""
    folder = home / "compliance"
    shutil.copytree(LOGS / f"{scenario}_compliance", folder)
    spec = parse_spec(json.loads((home / "spec.json").read_text()))
    for file in folder.glob("*.txt"):
        file.write_text(re.sub(r"\b13368\b", str(spec.samples), file.read_text()))
    rate = json.loads((home / "outcome.json").read_text())["target_qps"]
    detail = folder / "mlperf_log_detail.txt"
    names = r'"(?:effective_target_qps|requested_server_target_qps|requested_offline_expected_qps)", "value": '
    text = re.sub(rf"({names})40\b", rf"\g<1>{rate:g}", detail.read_text())
    detail.write_text(text.replace("(alpha-0)", f"({', '.join(engine.name for engine in spec.engines)})"))
    resummarise(folder)
    if spec.samples < 13_368:
        edit(folder / compliance.LOG, lambda log: [one.update(qsl_idx=one["qsl_idx"] % spec.samples) for one in log])
    streams = spec.scenario is not Scenario.OFFLINE
    compliance.verify(folder, streams, compliance.LLAMA_END_TOKENS, spec.identity)
    engine = spec.engines[0].name
    lines = []
    for position, answer in enumerate(compliance.read(folder / compliance.LOG)):
        line = sample("compliance", answer.qsl_idx, engine, position, START + 5000, Pace(), offline=not streams)
        lines.append(line | {"n_tokens": len(answer.token_ids), "token_ids": answer.token_ids})
    with (home / "journal.jsonl").open("ab") as file:
        file.writelines(map(journal.seal, lines))
    part = {"mode": "compliance", "started_unix": START + 5000, "finished_unix": START + 5010.1, "samples": len(lines)}
    part |= {"tokens": sum(line["n_tokens"] for line in lines), "issued": len(lines), "one_token_answers": []}
    edit(home / "outcome.json", lambda outcome: outcome.update(compliance=part))
