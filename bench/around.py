"""Everything around the benchmark itself, for two nodes: plan, start, collect, judge and report.

The real `ansible-playbook benchmark.yml` on inventory/local, over two fake engines that run already. Subtracted from
its wall time are the start of the engines (here: a look at them), by the playbook's output, and the benchmark itself,
by the run's own files: calibrating (calibration.json), warming up and scoring (status.json), and each LoadGen run from
the first request to the last answer (journal.jsonl). Medians.

    python bench/around.py [--runs 5] [--samples 200] [--sandbox DIR] [--json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench import pairs
from bench.pairs import Figures
from tests.fake_server import FakeServer

REPOSITORY = Path(__file__).resolve().parents[1]
PLAYBOOK = REPOSITORY / ".venv" / "bin" / "ansible-playbook"
TARGET_S = 8.0
# Ansible holds a task's heading back until it knows that not all hosts skip it, unless skips are shown.
ENVIRONMENT = {
    "PYTHONPATH": str(REPOSITORY),
    "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "true",
    "ANSIBLE_NOCOLOR": "1",
    "ANSIBLE_FORCE_COLOR": "0",
}
UP, UP_ENDED = "Start the engines", "Start the calibration"
"""The tasks between which engines are brought up."""
PARTS = {
    "whole_s": "ansible-playbook benchmark.yml",
    "engines_s": "less bringing the engines up",
    "calibrating_s": "less calibrating",
    "warming_s": "less warming up",
    "load_s": "less LoadGen's performance and accuracy run",
    "scoring_s": "less scoring",
    "around_s": "around the benchmark",
    "before_s": "of it before anything is started: ask, prepare, preflight",
    "between_s": "of it from there to the run's end: calibration, plan, start",
    "processes_s": "of that within the harness's own processes",
    "after_s": "of it after the run's end: collect, judge, report",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--ansible-playbook", type=Path, default=PLAYBOOK)
    parser.add_argument("--sandbox", type=Path, help="what `harness sandbox` built  [default: beside the environment]")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    if not options.json:
        pairs.idle_machine()
    runs = []
    settings = {"model": "model", "ms_per_token": 1.0, "slots": 64}
    with FakeServer(**settings) as one, FakeServer(**settings) as two:
        for number in range(options.runs):
            urls = {"node1": one.url, "node2": two.url}
            runs.append(measure(options.ansible_playbook, options.samples, urls, options.sandbox))
            if not options.json:
                print(f"run {number + 1} of {options.runs}: around {runs[-1]['around_s']:.1f} s", flush=True)
    middles = {name: round(median(figures[name] for figures in runs), 2) for name in PARTS}
    if options.json:
        print(json.dumps({"medians": middles, "runs": runs, "target_s": TARGET_S}))
        return
    rows = [("part (medians)", "seconds", "target")]
    for name, title in PARTS.items():
        rows.append((title, f"{middles[name]:.1f}", f"< {TARGET_S:.0f}" if name == "around_s" else ""))
    pairs.table(rows)


def measure(playbook: Path, samples: int, urls: dict[str, str], sandbox: Path | None) -> Figures:
    """Seconds of one benchmark of `samples` in Server mode with accuracy, by part."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = {**variables(home, urls, sandbox), "samples": samples, "run_id": "around"}
        started_unix = time.time()
        with subprocess.Popen(
            [playbook, "benchmark.yml", "-e", json.dumps(settings)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        ) as process:
            assert process.stdout
            output = [(time.time(), line) for line in process.stdout]
        ended_unix = time.time()
        # Fake answers are not the reference's: the verdict is INVALID, which costs no time.
        if not (home / "results" / "around" / "result.json").exists():
            sys.exit("".join(line for _, line in output)[-4000:])
        at = {name: next(seconds for seconds, line in output if f": {name}]" in line) for name in (UP, UP_ENDED)}
        return split(started_unix, ended_unix, at[UP_ENDED] - at[UP], home / "results" / "around", "node1")


def variables(home: Path, urls: dict[str, str], sandbox: Path | None) -> dict[str, Any]:
    """What differs from inventory/local: the folder, the results, and engines that run already."""
    environment = Path(sys.prefix)
    return {
        "local_folder": str(home),
        "harness_env": str(environment),
        "harness_sandbox": str(sandbox.absolute() if sandbox else environment.with_name("sandbox")),
        "harness_results": str(home / "results"),
        "harness_engine_settings": {},
        "harness_engines": [
            {
                "name": "{{ inventory_hostname }}",
                "kind": "endpoint",
                "url": "{{ " + json.dumps(urls) + "[inventory_hostname] }}",
                "max_num_seqs": 64,
            }
        ],
    }


def split(started_unix: float, ended_unix: float, engines_s: float, results: Path, loadgen: str) -> Figures:
    """The playbook's time by part (it ran from `started_unix` to `ended_unix`), from the files it collected."""
    node = results / "nodes" / loadgen
    status, calibration = (json.loads((node / name).read_text()) for name in ("status.json", "calibration/status.json"))
    calibrating_s = json.loads((node / "calibration" / "calibration.json").read_text())["seconds"]
    load_s = 0.0
    for folder in (node, *node.glob("attempts/*")):
        lines = pairs.journal(folder)
        load_s += max(line["last_s"] for line in lines) - min(line["issued_s"] for line in lines)
    phases = {phase["phase"]: phase["finished_unix"] - phase["started_unix"] for phase in status["phases"]}
    benchmark_s = calibrating_s + phases["warming up"] + load_s + phases["scoring"]
    run_started, run_ended = (results / "request.json").stat().st_mtime, status["phases"][-1]["finished_unix"]
    return {
        "whole_s": ended_unix - started_unix,
        "engines_s": engines_s,
        "calibrating_s": calibrating_s,
        "warming_s": phases["warming up"],
        "load_s": load_s,
        "scoring_s": phases["scoring"],
        "around_s": ended_unix - started_unix - engines_s - benchmark_s,
        "before_s": run_started - started_unix,
        "between_s": run_ended - run_started - engines_s - benchmark_s,
        "processes_s": status["elapsed_s"] + calibration["elapsed_s"] - benchmark_s,
        "after_s": ended_unix - run_ended,
    }


if __name__ == "__main__":
    main()
