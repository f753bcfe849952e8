"""Faults of a benchmark: benchmark.yml over two nodes of this machine, whose engines are fake."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import journal
from harness.report.load_inputs import judged_folder
from harness.spec import parse_spec
from harness.state_file import ENDED
from tests.conftest import NODE_ENVIRONMENT
from tests.fake_server import FakeServer, answer
from tests.faults.disks import mounted
from tests.faults.ending import MARK, Ending, Notice, left_running
from tests.faults.runs import prompts
from tests.faults.samples import disagreements
from tests.integration.conftest import Fakes, Site, endpoints, until

NODES = ("node1", "node2")
PACE = {"model": "model", "vocab": 1024, "ms_per_token": 1.0, "slots": 64}
RUN = "fault"
SAMPLES = 600
_WAIT_S = 400.0
SSH = """#!/bin/sh
# Stands in for ssh: runs the command here, unless the line is cut.
for word; do
  [ "$word" = -O ] && exit 0
  [ -e "{cut}.$word" ] && echo "ssh: connect to host port 22: Connection refused" >&2 && exit 255
done
exec /bin/sh -c "$word"
"""


class Benchmark(Fakes, Notice):
    """A benchmark under way on two nodes, and what a fault may be made of. `stack` ends what is started in it."""

    process: "subprocess.Popen[str]"
    stack: ExitStack
    happened_unix = 0.0

    limit: tuple[str, ...] = ()

    def start(self, **settings: Any) -> None:
        """Begin benchmark.yml, or pick its run up."""
        self.process = self.site.start("benchmark.yml", *self.limit, run_id=RUN, **settings)

    def done(self, node: str) -> int:
        """Samples that the run on a node has answered."""
        with contextlib.suppress(OSError):
            return int(self.site.status(node, RUN)["samples_done"])
        return 0

    def cut_line(self, *nodes: str) -> None:
        """Let no more commands reach these nodes, or any."""
        for node in nodes or NODES:
            (self.site.folder / f"cut.{node}").touch()

    def mend_line(self) -> None:
        """Let commands reach the nodes again."""
        for file in self.site.folder.glob("cut.*"):
            file.unlink()

    def start_engine_again(self, node: str) -> None:
        """Start a server in the place of a node's, which has ended."""
        port = int(self.servers[node].url.rsplit(":", 1)[1])
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(MARK)
            self.servers[node] = self.stack.enter_context(FakeServer(port, **PACE))

    def stop_playbook(self, number: signal.Signals) -> None:
        """Send a signal to the playbook and all its processes, as a terminal does, and wait for its end."""
        os.killpg(self.process.pid, number)
        assert self.process.wait(_WAIT_S) != 0

    def pick_up(self, **settings: Any) -> None:
        """See the run going on without a playbook, then call the playbook again."""
        done = self.done("node1")
        until(lambda: self.done("node1") > min(done, SAMPLES - 1), "samples while nobody watches", _WAIT_S)
        self.happened_unix = time.time()
        self.start(**settings)


@dataclass(frozen=True, kw_only=True)
class OneBenchmark:
    """A benchmark into which a fault comes once the runs of all LoadGens have answered some samples.

    Args:
        inject: makes the fault happen.
        settings: what is asked of benchmark.yml.
        alone: take node1 only; else both.
        topology: per_node has a LoadGen on each node, fleet has one on node1 for the engines of all.
        over_ssh: reach the nodes by a line that can be cut.
        small_disk: put node2 on a file system in memory, so that it can fill.
        afterwards: called after the end; undoes what would keep the next benchmark from working.
    """

    inject: Callable[[Benchmark], object]
    settings: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = True
    topology: str = "per_node"
    over_ssh: bool = False
    small_disk: bool = False
    afterwards: Callable[[Benchmark], object] = lambda benchmark: None

    def play(self, folder: Path) -> Ending:
        """Play the benchmark, make the fault happen, wait for the end; then play a small one in the same place."""
        with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
            servers = {node: stack.enter_context(FakeServer(**PACE)) for node in NODES}
            patch.setenv(MARK, str(folder))
            site = Site(folder, NODE_ENVIRONMENT.parent / "sandbox")
            stack.callback(site.clean)
            site.variables = endpoints(**{node: server.url for node, server in servers.items()})
            if self.over_ssh:
                site.variables |= line(folder)
            if self.small_disk:
                (folder / "node2").mkdir()
                stack.enter_context(mounted(folder / "node2", "3g"))
            benchmark = Benchmark(site, servers)
            benchmark.limit = ("--limit", "node1") if self.alone else ()
            benchmark.stack = stack
            return self._play(benchmark)

    def _play(self, benchmark: Benchmark) -> Ending:
        site, drivers = benchmark.site, NODES[:1] if self.alone or self.topology == "fleet" else NODES
        asked = {"mode": "performance", "samples": SAMPLES, "target_qps": 20, "topology": self.topology}
        benchmark.start(**asked | self.settings)
        until(lambda: "pick it up" in site.output(), "watching", _WAIT_S)
        until(lambda: min(map(benchmark.done, drivers)) > 20, "samples", _WAIT_S)
        benchmark.happened_unix = time.time()
        self.inject(benchmark)
        code = benchmark.process.wait(_WAIT_S)
        output = site.output() + reasons(site)
        self.afterwards(benchmark)
        problems = [problem for node in NODES for problem in node_problems(benchmark, node, code == 0)]
        result = site.read(RUN, "result.json")
        invalid = [reason["code"] for reason in result["verdict"]["reasons"] if reason["level"] == "INVALID"]
        return Ending(
            exit_code=code,
            output=output,
            noticed_s=noticed_s(benchmark) if benchmark.seen_s is None else benchmark.seen_s,
            level=result["verdict"]["level"],
            broken=frozenset(invalid),
            complete=all(whole(site, node) for node in drivers),
            problems=[*problems, *shown_problems(site, output)],
            left=left_running(site.folder),
            next_exit_code=again(benchmark, drivers[-1]),
        )


def line(folder: Path) -> dict[str, Any]:
    """Variables by which both nodes are reached through a stand-in for ssh."""
    ssh = folder / "ssh"
    ssh.write_text(SSH.format(cut=folder / "cut"))
    ssh.chmod(0o755)
    own = {"ansible_ssh_executable": str(ssh), "ansible_ssh_args": "", "ansible_ssh_transfer_method": "piped"}
    connection = "{{ 'ssh' if inventory_hostname in " + repr(NODES) + " else 'local' }}"
    return {"ansible_connection": connection, "ansible_ssh_retries": 0, "harness_lost_after_s": 15, **own}


def noticed_s(benchmark: Benchmark) -> float | None:
    """Seconds from the fault until a watcher's look showed it; None where none did."""
    for look in benchmark.site.lines(RUN, "progress.jsonl"):
        status = look["status"] or {}
        bad = look["lost"] or status.get("state") in ENDED - {"finished"} or status.get("engine_losses")
        if bad and look["unix"] >= benchmark.happened_unix - 1:
            return float(look["unix"] - benchmark.happened_unix)
    return None


def reasons(site: Site) -> str:
    """Why things failed, by failures.json."""
    return "\n".join(["", *(str(failure["reason"]) for failure in site.read(RUN, "failures.json"))])


def shown_problems(site: Site, output: str) -> Iterator[str]:
    """Failures that the playbook's end or the report do not show."""
    failures = site.read(RUN, "failures.json")
    tail = "".join(output.partition("Fail if a node failed")[2].split())
    in_report = {failure["node"] for failure in site.read(RUN, "result.json")["failures"]}
    for failure in failures:
        if "".join(f"{failure['host']}|{failure['phase']}|{failure['reason']}".split()) not in tail:
            yield f"the playbook does not show {failure}"
        if failure["host"] not in in_report:
            yield f"the report does not show {failure}"
        if failure["phase"] == "run" and failure["log"] and not failure["log"].endswith("harness.log"):
            yield f"the run's failure names the log {failure['log']}"
    if not (site.results / RUN / "report.html").exists():
        yield "there is no report.html"
    kinds = [look["kind"] for look in site.lines(RUN, "progress.jsonl")]
    if "calibration" in kinds[kinds.index("run") :]:
        yield "it was calibrated again after the run had begun"


def node_problems(benchmark: Benchmark, node: str, good: bool) -> Iterator[str]:
    """What is wrong in the files that were collected of a node."""
    home = benchmark.site.results / RUN / "nodes" / node
    if not (home / "spec.json").exists():
        return
    sums = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=home, capture_output=True, text=True)
    if sums.returncode:
        yield f"{node}: {sums.stdout}{sums.stderr}"
    spec = parse_spec(json.loads((home / "spec.json").read_text()))
    settings = next(server.set() for server in benchmark.servers.values() if server.process.poll() is None)
    answers = dict(enumerate(answer(prompt, settings) for prompt in prompts(spec)))
    for problem in disagreements(judged_folder(home), spec, answers, set()):
        yield f"{node}: {problem}"
    failed = {failure["host"] for failure in benchmark.site.read(RUN, "failures.json")}
    if (good or node not in failed) and not whole(benchmark.site, node):
        yield f"{node}: samples are missing"


def whole(site: Site, node: str) -> bool:
    """Whether every sample of a node's share was answered."""
    home = site.results / RUN / "nodes" / node
    if not (home / "spec.json").exists():
        return False
    window = parse_spec(json.loads((home / "spec.json").read_text())).window
    lines = journal.read(judged_folder(home) / "journal.jsonl").lines  # the last one may be cut
    answered = {line["qsl_idx"] for line in lines if "failed" not in line}
    return answered == set(range(window.start, window.stop))


def again(benchmark: Benchmark, node: str) -> int:
    """Exit status of a small benchmark on a node, over engines in order."""
    urls = {}
    for name, server in benchmark.servers.items():
        if server.process.poll() is not None:
            server = benchmark.stack.enter_context(FakeServer(**PACE))
        server.set(faults={})
        urls[name] = server.url
    benchmark.site.variables |= endpoints(**urls)
    asked = {"mode": "performance", "samples": 24, "scenario": "offline", "target_qps": 50}
    return benchmark.site.play("benchmark.yml", "--limit", node, run_id="next", **asked)
