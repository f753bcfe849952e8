"""The real ansible-playbook on two nodes of this machine, in folders of the test's own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from harness.report.load_inputs import judged_folder
from tests.conftest import NODE_ENVIRONMENT, REPOSITORY
from tests.engines import free_port, harness
from tests.fake_server import FakeServer

SAMPLES = 120
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


@dataclass
class Site:
    """Two local nodes below `folder`, their results, and how to call playbooks on them."""

    folder: Path
    sandbox: Path
    variables: dict[str, Any] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def results(self) -> Path:
        """Directory of all results."""
        return self.folder / "results"

    def extra(self, **more: Any) -> dict[str, Any]:
        """Variables of a call: this site's, then the test's."""
        return {
            "local_folder": str(self.folder),
            "harness_env": str(NODE_ENVIRONMENT),
            "harness_install": False,
            "harness_sandbox": str(self.sandbox),
            "harness_results": str(self.results),
            "harness_samples": SAMPLES,
            "harness_watch_interval_s": 1,
            "harness_limits": {"calibration_s": 2},
            **self.variables,
            **more,
        }

    def inventory(self) -> Path:
        """inventory/local with this site's variables, for callers that pass none."""
        local = REPOSITORY / "inventory" / "local"
        settings = yaml.safe_load((local / "group_vars" / "gpu_nodes.yml").read_text()) | self.extra()
        del settings["harness_results"]
        content = yaml.safe_load((local / "hosts.yml").read_text())
        content["gpu_nodes"]["vars"] = settings
        file = self.folder / "hosts.json"
        file.write_text(json.dumps(content))
        return file

    def start(self, playbook: str = "benchmark.yml", *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start a playbook in a session of its own, output to `folder`/output."""
        with (self.folder / "output").open("w") as output:
            process = subprocess.Popen(
                [PLAYBOOK, playbook, *words, "-e", json.dumps(self.extra(**more))],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
            )
        self.started.append(process)
        return process

    def output(self) -> str:
        """The output of the last playbook so far."""
        return (self.folder / "output").read_text()

    def play(self, playbook: str = "benchmark.yml", *words: str, timeout_s: float = 400, **more: Any) -> int:
        """Run a playbook to its end; returns its exit status."""
        process = self.start(playbook, *words, **more)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.interrupt(process)
            raise AssertionError(f"no end after {timeout_s} s:\n{self.output()[-4000:]}") from None

    def interrupt(self, process: subprocess.Popen[str]) -> int:
        """Ctrl-C, as a terminal sends it."""
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(30)

    def read(self, run_id: str, name: str) -> Any:
        """A JSON file of a run's results."""
        return json.loads((self.results / run_id / name).read_text())

    def lines(self, run_id: str, name: str) -> list[Any]:
        """A file of JSON lines of a run's results."""
        file = self.results / run_id / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def performance(self, run_id: str, node: str) -> list[Any]:
        """The journal of the performance run that counts."""
        folder = judged_folder(self.results / run_id / "nodes" / node)
        return self.lines(run_id, str((folder / "journal.jsonl").relative_to(self.results / run_id)))

    def changed(self) -> int:
        """Changed tasks of the last playbook, over all hosts."""
        recap = self.output().split("PLAY RECAP")[1]
        return sum(int(word.split("=")[1]) for word in recap.split() if word.startswith("changed="))

    def status(self, node: str, run_id: str) -> dict[str, Any]:
        """A run's status on its node."""
        status: dict[str, Any] = json.loads((self.folder / node / "runs" / run_id / "status.json").read_text())
        return status

    def untouched(self) -> bool:
        """Whether nothing was started on any node."""
        node_files = [*self.folder.glob("*/engines/*/engine.json"), *self.folder.glob("*/runs/*/status.json")]
        return not node_files and not self.results.exists()

    def clean(self) -> None:
        """End what a failed test left running: playbooks, runs, engines; each by its id."""
        for process in self.started:
            if process.poll() is None:
                # Ansible's workers have sessions of their own.
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                process.kill()
                process.wait(10)
        for file in [*self.folder.glob("*/runs/*/status.json"), *self.folder.glob("*/engines/*/engine.json")]:
            record = json.loads(file.read_text())
            if record["state"] in ("running", "starting", "ready") and record.get("pid"):
                _end(int(record["pid"]))


def _end(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(100):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def until(condition: Callable[[], Any], event: str, timeout_s: float = 120) -> Any:
    """The first true value of `condition`, checked ten times a second."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{event}: not within {timeout_s} s")


@pytest.fixture(scope="session")
def sandbox() -> Path:
    """The sandbox beside the node's environment, as site.yml built it, with samples enough."""
    folder = NODE_ENVIRONMENT.parent / "sandbox"
    file = folder / "sandbox.json"
    assert file.exists() and json.loads(file.read_text())["samples"] >= SAMPLES, f"{folder}: run `make site` first"
    return folder


@dataclass(frozen=True)
class Vllms:
    """A real vLLM for each of two nodes, on half of this machine's cores as inventory/local has them."""

    python: Path
    root: Path
    configs: dict[str, dict[str, Any]]

    def url(self, node: str) -> str:
        """Where a node's engine answers."""
        return f"http://127.0.0.1:{self.configs[node]['port']}"

    def key_file(self, node: str) -> Path:
        """The file with the API key of a node's engine."""
        return self.root / "keys" / node

    def up(self, node: str, codes: Container[int] = (0,), **values: Any) -> dict[str, Any]:
        """`harness engine up` with a node's settings or others."""
        words = ("engine", "up", "--root", self.root, "--config", "-")
        state: dict[str, Any] = harness(self.python, *words, text=json.dumps(self.configs[node] | values), codes=codes)
        return state


@pytest.fixture(scope="session")
def vllms(node_python: Path, sandbox: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllms]:
    """One pair for all tests that only need an engine, running until the last of them has ended."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    common = {"model": str(sandbox / "model"), "dtype": "float32", "kv_cache_gib": 1, "max_num_seqs": 32}
    configs = {
        node: {**common, "name": node, "port": free_port(), "cpu_cores": ",".join(map(str, own or cores))}
        for node, own in (("node1", cores[:half]), ("node2", cores[half:]))
    }
    pair = Vllms(node_python, tmp_path_factory.mktemp("vllms"), configs)
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(pair.up, configs))
        yield pair
    finally:
        for node in configs:
            harness(node_python, "engine", "down", "--root", pair.root, node)


@pytest.fixture
def site(tmp_path: Path, sandbox: Path) -> Iterator[Site]:
    """Two nodes as inventory/local has them, on ports of their own."""
    result = Site(tmp_path, sandbox)
    yield result
    result.clean()


@dataclass
class Fakes:
    """A site whose nodes have fake servers as engines, by node."""

    site: Site
    servers: dict[str, FakeServer]


@pytest.fixture
def fakes(site: Site) -> Iterator[Fakes]:
    """Two nodes with a running server each: fast, for tests of everything but the engine."""
    settings = {"model": "model", "vocab": 1024, "ms_per_token": 1.0, "slots": 64}
    with FakeServer(**settings) as one, FakeServer(**settings) as two:
        site.variables = endpoints(node1=one.url, node2=two.url)
        yield Fakes(site, {"node1": one, "node2": two})


def endpoints(more: dict[str, Any] | None = None, /, **urls: str) -> dict[str, Any]:
    """Variables of a site whose nodes' engines run already, at these addresses, with more settings."""
    url = "{{ " + repr(urls) + "[inventory_hostname] }}"
    engine = {"name": "{{ inventory_hostname }}", "kind": "endpoint", "url": url, "max_num_seqs": 64, **(more or {})}
    return {"harness_engine_settings": {}, "harness_engines": [engine]}


@pytest.fixture
def free_ports() -> list[int]:
    """Two ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
