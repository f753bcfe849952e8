"""A hundred engines as Jobs, against the double of the Kubernetes API: what making and watching them costs.

`harness cluster engine up-all` and `harness cluster watch`, as mlperf_cluster_engines calls them, with pods that print
the state of an engine which starts for a while and then serves. The CPU time is that of the command alone; the double
answers in this process.

    python bench/hundred_jobs.py [--nodes 100] [--starting 40] [--interval 10] [--json]
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from bench import pairs
from tests.cluster import Cluster, scripts
from tests.unit.cluster_fixtures import IMAGE, furnish

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET_CORES = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--starting", type=float, default=40.0, help="seconds until an engine serves")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two looks")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    if not options.json:
        pairs.idle_machine()
    names = [f"node{number:03}" for number in range(1, options.nodes + 1)]
    begin = threading.Event()
    with Cluster(as_user=False) as cluster:
        furnish(cluster, *names)
        cluster.script("engine-*", starting(options.starting, begin))
        figures = measure(cluster, names, options.interval, begin)
    if options.json:
        print(json.dumps({**figures, "target_cores": TARGET_CORES}))
        return
    rows = [("", "measured", "target")]
    rows += [(name.replace("_", " "), f"{value:.2f}", "") for name, value in figures.items()]
    pairs.table(rows)


def starting(seconds: float, begin: threading.Event) -> list[scripts.Step]:
    """A pod whose engine says that it loads, and after so many seconds from `begin` that it serves."""
    state = {"name": "vllm", "kind": "vllm", "started_unix": time.time()}
    return [
        scripts.Running(ready=False),
        scripts.Log(json.dumps({**state, "state": "starting", "progress": "loading weights"})),
        scripts.Until(begin.is_set),
        scripts.Pause(seconds),
        scripts.Log(json.dumps({**state, "state": "ready", "progress": "ready"})),
        scripts.Running(),
    ]


def measure(cluster: Cluster, names: list[str], interval_s: float, begin: threading.Event) -> dict[str, float]:
    """Seconds and CPU seconds of making the Jobs, and cores of watching them until all serve."""
    settings = json.dumps({"image": IMAGE})
    command = [sys.executable, "-m", "harness", "cluster", "--kubeconfig", str(cluster.kubeconfig())]
    command += ["--settings", settings, "--run-id", "hundred", "--node", names[0]]
    config = {"kind": "vllm", "model": "/var/lib/mlperf/model", "host": "0.0.0.0", "port": 8000}
    wanted = {name: {"node": name, "engines": [{**config, "name": name}]} for name in names}
    started, cpu_before = time.monotonic(), children_cpu_s()
    making = [*command, "engine", "up-all", "--json"]
    made = subprocess.run(making, input=json.dumps(wanted), capture_output=True, text=True, cwd=REPOSITORY, check=True)
    errors = {host: one["error"] for host, one in json.loads(made.stdout)["hosts"].items() if one["error"]}
    assert not errors, errors
    figures = {"making_s": time.monotonic() - started, "making_cpu_s": children_cpu_s() - cpu_before}
    begin.set()
    began, looks, states = time.monotonic(), 0, set[str]()
    watching = [*command, "watch", "--interval", str(interval_s), "engine", *(f"{name}@{name}" for name in names)]
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout
        for line in process.stdout:
            looks += 1
            records = json.loads(line)["records"]
            states = {record["state"] for record in records or ()}
            if states == {"ready"}:
                break
        times = psutil.Process(process.pid).cpu_times()
        process.terminate()
    assert states == {"ready"}, states
    seconds, cpu_s = time.monotonic() - began, times.user + times.system
    return {**figures, "watched_s": seconds, "looks": looks, "watching_cpu_s": cpu_s, "watching_cores": cpu_s / seconds}


def children_cpu_s() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    times = psutil.Process().cpu_times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
