"""A fleet of a hundred nodes: what watching costs the controller, and everything around the benchmark itself.

The real `ansible-playbook benchmark.yml` on an inventory of so many hosts, all of them this machine over Ansible's
local connection, and one process that plays an engine for each. As the machine is all the nodes as well, "around" has
in it what a hundred nodes would do at once, each for itself: their checks and their part of Ansible's modules.

While the run is watched, the CPU time of ansible-playbook and of all its children (thus also of what a look runs on a
node) is taken from /proc. Afterwards plan.json, result.json and the report are checked for every node.

    python bench/hundred.py [--nodes 100] [--samples 800] [--rate 16] [--keep DIR] [--json]
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench import around, pairs
from tests.fake_server import FakeServer

WATCHING = "Watch the run"
TARGETS = {"watching_cores": 0.3, "around_s": 60.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--samples", type=int, default=800)
    parser.add_argument("--rate", type=float, default=16.0, help="samples/s of the performance run, which is watched")
    parser.add_argument("--ansible-playbook", type=Path, default=around.PLAYBOOK)
    parser.add_argument("--sandbox", type=Path, help="what `harness sandbox` built  [default: beside the environment]")
    parser.add_argument("--keep", type=Path, help="folder for the results, which is kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    if not options.json:
        pairs.idle_machine()
    with tempfile.TemporaryDirectory() as temporary:
        home = (options.keep or Path(temporary)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        figures = measure(home, options)
        problems = check(home / "results" / "hundred", options.nodes)
    if options.json:
        print(json.dumps({**figures, "problems": problems, "targets": TARGETS}))
    else:
        titles = {**around.PARTS, "watching_s": "the run was watched for", "watching_cores": "cores while watching"}
        titles |= {"cpu_s": "CPU seconds of ansible-playbook and of all commands on the nodes"}
        targets = {name: f"<= {target:g}" for name, target in TARGETS.items()}
        rows = [("part", "seconds or cores", "target")]
        rows += [(title, f"{figures[name]:.2f}", targets.get(name, "")) for name, title in titles.items()]
        pairs.table(rows)
        print("\n".join(problems) or f"plan.json, result.json and report.md have all {options.nodes} nodes")
    sys.exit(1 if problems else 0)


def measure(home: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one benchmark by part, and the cores that watching it took."""
    names = [f"node{number:03}" for number in range(1, options.nodes + 1)]
    with FakeServer(servers=len(names), model="model", ms_per_token=1.0, slots=64, vocab=1024) as server:
        settings = around.variables(home, dict(zip(names, server.urls, strict=True)), options.sandbox)
        inventory = home / "hosts.json"
        inventory.write_text(json.dumps(hosts(names, settings)))
        extra = {"run_id": "hundred", "samples": options.samples, "target_qps": options.rate, "rate_attempts": 1}
        results = {"harness_results": settings["harness_results"]}
        words = ["-i", str(inventory), "-f", str(len(names)), "-e", json.dumps({**extra, **results})]
        return played([str(options.ansible_playbook), "benchmark.yml", *words], home)


def hosts(names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """The inventory: inventory/local's variables for each name."""
    import yaml

    local = around.REPOSITORY / "inventory" / "local" / "group_vars" / "gpu_nodes.yml"
    shared = {**yaml.safe_load(local.read_text()), **settings}
    del shared["harness_results"]
    return {"gpu_nodes": {"hosts": {name: {} for name in names}, "vars": shared}, "controller": {"hosts": {}}}


def played(command: list[str], home: Path) -> dict[str, float]:
    """Run the playbook to its end."""
    environment = {**os.environ, **around.ENVIRONMENT}
    began = time.time()
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    marks: list[tuple[float, float, str]] = []  # unix seconds, CPU seconds so far, task
    output = []
    with subprocess.Popen(command, cwd=around.REPOSITORY, text=True, env=environment, **pipes) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if line.startswith(("TASK [", "PLAY RECAP")):
                marks.append((time.time(), cpu_s(process.pid), line.split("[")[-1].split("]")[0].split(" : ")[-1]))
        ended = time.time()
    (home / "output").write_text("".join(output))
    results = home / "results" / "hundred"
    if not (results / "result.json").exists():
        sys.exit("".join(output)[-4000:])
    spans = [(later[0] - mark[0], later[1] - mark[1], mark[2]) for mark, later in itertools.pairwise(marks)]
    lines = [f"{seconds:8.2f} s {cpu:8.2f} CPU-s  {name}\n" for seconds, cpu, name in spans]
    (home / "tasks").write_text("".join(lines))
    first = {name: mark for mark in reversed(marks) for name in [mark[2]]}
    engines_s = first[around.UP_ENDED][0] - first[around.UP][0]
    figures = around.split(began, ended, engines_s, results, "node001")
    watching_s, watching_cpu_s, _ = next(span for span in spans if span[2] == WATCHING)
    whole_cpu_s = marks[-1][1] - marks[0][1]
    return {**figures, "watching_s": watching_s, "watching_cores": watching_cpu_s / watching_s, "cpu_s": whole_cpu_s}


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, of its children and of theirs, those that have ended included."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def check(results: Path, nodes: int) -> list[str]:
    """What of the results is not as it should be with so many nodes."""
    plan, result = (json.loads((results / name).read_text()) for name in ("plan.json", "result.json"))
    names = {f"node{number:03}" for number in range(1, nodes + 1)}
    answered = {line["engine"] for line in pairs.journal(results / "nodes" / "node001")}
    found = {
        "plan.json: its nodes": set(plan["nodes"]),
        "plan.json: engines that were calibrated": set(plan["calibration"]["node001"]["by_engine"]),
        "result.json: its nodes": {node["name"] for node in result["nodes"]},
        "engines that answered": answered,
        "collected": {path.name for path in (results / "nodes").iterdir()},
    }
    missing = {what: len(names - these) for what, these in found.items()}
    problems = [f"{what}: {count} of {nodes} are missing" for what, count in missing.items() if count]
    problems += unreported((results / "report.md").read_text(), sorted(names))
    return problems + [f"failures.json: {failure}" for failure in json.loads((results / "failures.json").read_text())]


def unreported(report: str, names: list[str]) -> list[str]:
    """Whether a report leaves nodes out: it has each by name, or of many the slowest of all."""
    left_out = [name for name in names if name not in report]
    if not left_out or f"slowest of {len(names)}" in report:
        return []
    return [f"report.md: {len(left_out)} of {len(names)} are missing"]


if __name__ == "__main__":
    main()
