"""One command for whoever has a GPU: from a bare machine with a driver to figures beside the published ones.

    python -m tests.live --folder OUT [--model DIR] [--fp8-model DIR] [--dataset cnn_eval.json]

checks the machine, installs vLLM from the locks below OUT, and measures Offline and Server (the highest VALID rate)
with FP8 and bf16 weights. Without weights it builds a model of Llama-3.1-8B's shape with random ones, without a data
set one of CNN/DailyMail's lengths: speed only, and labelled so. A step that fails does not end the others; the same
command again repeats those steps that are not good. Ends with 0: all steps are good, 4: some are not (the summary says
which), 2: bad input, 130: interrupted. Nothing that it started is left running.

`--rehearse` goes through all of it with a miniature on the CPU. No GPU has run this command yet.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from harness import ci, state_file
from harness.benchmark.gpu_settings import FP8_CAPABILITY
from harness.benchmark.playbook import Play
from harness.errors import BadInput, HarnessError, NotReady, RunFailed, Stopped
from harness.files import read_json, write_atomic
from harness.linux import stoppable
from harness.report.record import Level
from harness.spec import FULL_SAMPLES, Mode, Scenario, why_no_peak
from tests.live import summary
from tests.live.steps import GOOD, Steps

REPOSITORY = Path(__file__).resolve().parents[2]
REHEARSAL_SAMPLES = 480
"""Enough for LoadGen to confirm a latency limit, without which there is no search for the highest rate."""
SCENARIOS = (Scenario.OFFLINE, Scenario.SERVER)
HOST = "here"
_END_S = 60.0
_INTERRUPTED = 130
_PART_OF_SEARCH = 0.7
"""Of the time of a benchmark; the rest is for starting the engine and calibrating it."""
_DTYPE = {"dtype": "bfloat16"}
# Whatever formats the kind of GPU would suggest.
_NO_FP8: dict[str, Any] = {"quantization": None, "kv_cache_dtype": None}
_REHEARSAL_SETTINGS = {"kv_cache_gib": 1, "max_num_seqs": 32}


@dataclass(frozen=True)
class Weights:
    """Weights to measure: their name, their folder, the settings of an engine that they need, and what they are."""

    name: str
    model: Path
    settings: dict[str, Any]
    label: str


@dataclass(frozen=True)
class Live:
    """Everything that one command does, below `folder`."""

    folder: Path
    model: Path | None
    fp8_model: Path | None
    dataset: Path | None
    samples: int
    environment: Path | None
    rehearsal: bool

    @property
    def options(self) -> dict[str, Any]:
        """What the figures depend on."""
        paths = {"model": self.model, "fp8_model": self.fp8_model, "dataset": self.dataset, "env": self.environment}
        plain = {name: str(path) if path else None for name, path in paths.items()}
        return {**plain, "samples": self.samples, "rehearse": self.rehearsal}

    @property
    def env(self) -> Path:
        """The node's Python environment."""
        return self.environment or self.folder / "env"

    @property
    def root(self) -> Path:
        """Folder of engines and runs."""
        return self.folder / "node"

    @property
    def shape(self) -> str | None:
        """The shape of the model that is built; None where weights are given."""
        if self.model or self.fp8_model:
            return None
        return "miniature" if self.rehearsal else "llama-3.1-8b"

    @property
    def data(self) -> Path:
        """The data set."""
        return self.dataset or self.folder / "assets" / "cnn_eval.synthetic.json"

    @property
    def weights(self) -> tuple[Weights, ...]:
        """FP8 first, since published figures are of FP8. Without FP8 weights, vLLM makes them of the others."""
        plain = self.folder / "assets" / f"random-weights-{self.shape}" if self.shape else self.model
        random = f", random in the shape of {self.shape}: speed only, and power may differ" if self.shape else ""
        if self.fp8_model:
            fp8 = Weights("fp8", self.fp8_model, _DTYPE, f"FP8 weights of {self.fp8_model}")
        else:
            assert plain is not None
            how = "fp8_per_channel" if self._has_fp8() else "fp8_per_tensor"
            label = f"weights that vLLM quantizes to FP8 ({how}) while it loads them{random}"
            fp8 = Weights("fp8", plain, {**_DTYPE, "quantization": how}, label)
        if plain is None:
            return (fp8,)
        return fp8, Weights("bf16", plain, {**_DTYPE, **_NO_FP8}, f"bf16 weights of {plain}{random}")

    def _has_fp8(self) -> bool:
        """Whether the GPUs calculate in FP8, as far as doctor saw; else vLLM has a kernel for whole tensors only."""
        file = self.folder / "doctor.json"
        node = read_json(file, "doctor's report")["nodes"].get(HOST) if file.exists() else None
        known = [gpu["compute_capability"] for gpu in node["smi"]["gpus"]] if node else []
        return all(float(capability) >= FP8_CAPABILITY for capability in known if capability)

    @property
    def mode(self) -> Mode:
        """With accuracy only where it means something."""
        return Mode.BOTH if self.dataset and not self.shape else Mode.PERFORMANCE

    @property
    def labels(self) -> list[str]:
        """Sentences that say what the figures are, and what they are not."""
        lines = [f"- {weights.name}: {weights.label}." for weights in self.weights]
        if not self.dataset:
            lines.append("- Data set: invented articles with CNN/DailyMail's lengths, so there is no accuracy.")
        if self.rehearsal:
            lines.append("- **A rehearsal on the CPU: these figures say nothing about any GPU.**")
        return [*lines, f"- {self.samples:,} of {FULL_SAMPLES:,} samples.", ""]

    def inventory(self, weights: Weights) -> Path:
        """Write the inventory of these weights: this machine as the only host, with the settings of inventory/hosts."""
        variables = yaml.safe_load((REPOSITORY / "inventory/hosts/group_vars/gpu_nodes.yml").read_text())
        settings = variables["harness_engine_settings"]
        if self.rehearsal:
            settings = _REHEARSAL_SETTINGS
            engine = {"name": HOST, "port": _free_port()}
            variables |= {"harness_engine_build": "cpu", "harness_engines": [engine]}
        variables |= {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "harness_root": str(self.root),
            "harness_env": str(self.env),
            "harness_install": self.environment is None,
            "harness_python": sys.executable,
            "harness_model": str(weights.model),
            "harness_dataset": str(self.data),
            "harness_engine_address": "127.0.0.1",
            "harness_engine_settings": settings | weights.settings,
            "harness_results": str(self.folder / "results"),
            "harness_watch_interval_s": 2 if self.rehearsal else 10,
        }
        file = self.folder / "inventory" / f"{weights.name}.json"
        groups = {"gpu_nodes": {"hosts": {HOST: {}}, "vars": variables}, "cluster": {"hosts": {}}}
        write_atomic(file, json.dumps(groups, indent=2))
        return file

    def doctor(self) -> str:
        """Read and judge this machine."""
        report = self.folder / "doctor.json"
        report.unlink(missing_ok=True)
        values = {"doctor_file": str(report), "harness_root": str(self.folder)}
        try:
            self._play("doctor", "playbooks/doctor.yml", values)
        except (BadInput, NotReady, RunFailed):
            if not report.exists():  # with a report it has findings, which may be mere warnings
                raise
        findings = read_json(report, "doctor's report")["findings"]
        said = "; ".join(f"{one['check']}: {one['seen']}" for one in findings)
        if any(one["level"] == "fail" for one in findings):
            raise NotReady(said)
        return said or "no findings"

    def install(self) -> str:
        """Install vLLM and the harness from the locks, where no environment was given."""
        self._play("install", "site.yml", {})
        return f"uses {self.env}" if self.environment else f"installed {self.env} from requirements/"

    def assets(self) -> str:
        """Build the weights and the data set that were not given, in the node's environment."""
        words = ["--model", self.weights[0].model]
        words += ["--shape", self.shape] if self.shape else []
        words += [] if self.dataset else ["--dataset", self.data, "--samples", self.samples]
        if self.dataset and not self.shape:
            return "weights and data set are given"
        command = [self.env / "bin" / "python", "-m", "tests.live.assets", *words]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        ended = subprocess.run(list(map(str, command)), cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL)
        if ended.returncode:
            raise RunFailed(f"{' '.join(map(str, command))} ended with {ended.returncode}; its output says why")
        built = [str(self.weights[0].model)] if self.shape else []
        return f"{' and '.join(built + ([] if self.dataset else [str(self.data)]))} are there"

    def measure(self, weights: Weights, scenario: Scenario, limit_s: float) -> str:
        """One benchmark; of Server the highest VALID rate, where there are enough samples to search for it."""
        name = f"{weights.name}-{scenario}"
        tries = self._tries(name)
        public: dict[str, Any] = {"run_id": tries[-1].name if tries and _is_unfinished(tries[-1]) else None}
        if not public["run_id"]:
            rate = "auto" if why_no_peak("peak", scenario, self.mode, self.samples) else "peak"
            public = {"scenario": scenario, "mode": self.mode, "samples": self.samples, "target_qps": rate}
            public |= {"run_id": f"{name}-{len(tries) + 1}"}
            if rate == "peak" and limit_s < float("inf"):
                public["peak_budget_minutes"] = limit_s * _PART_OF_SEARCH / 60
        inventory = self.inventory(weights)
        run = ci.benchmark(inventory=inventory, project=REPOSITORY, on_output=self._log(name), **public)
        for _ in run:
            pass
        result = run.result
        if run.exit_code:
            failures = [failure.reason for failure in result.failures]
            reasons = [reason.sentence for reason in result.verdict.reasons if reason.level is Level.INVALID]
            raise RunFailed("; ".join(dict.fromkeys(failures or reasons)) or f"see {self._logs(name)}")
        return f"{result.verdict.level}, {result.together.tokens_per_s or 0:,.0f} tokens/s; {run.directory}/report.html"

    def measured(self) -> dict[tuple[str, str], Path]:
        """The newest benchmark with a result, by weights and scenario."""
        found = {}
        for weights in self.weights:
            for scenario in SCENARIOS:
                tries = [one for one in self._tries(f"{weights.name}-{scenario}") if (one / "result.json").exists()]
                if tries:
                    found[weights.name, scenario.value] = tries[-1]
        return found

    def _tries(self, name: str) -> list[Path]:
        """Folders of the benchmarks of this name, oldest first."""
        folders = (self.folder / "results").glob(f"{name}-*")
        return sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))

    def _play(self, step: str, playbook: str, values: dict[str, Any]) -> None:
        play = Play(REPOSITORY, playbook, self.inventory(self.weights[0]), None, values, self._log(step))
        try:
            while play.running():
                time.sleep(0.5)
        except BaseException:
            play.cancel()
            raise
        if play.return_code:
            raise play.error(f"{playbook} (see {self._logs(step)})")

    def _logs(self, step: str) -> Path:
        return self.folder / "logs" / f"{step}.log"

    def _log(self, step: str) -> Callable[[str], None]:
        """A function that prints output and appends it to the step's log."""
        file = self._logs(step)
        file.parent.mkdir(parents=True, exist_ok=True)

        def write(output: str) -> None:
            click.echo(output)
            with file.open("a") as stream:
                stream.write(f"{output}\n")

        return write

    def end_processes(self) -> list[str]:
        """End what is still running of an installation, runs and engines; returns their state files."""
        files = [self.env.with_name(f"{self.env.name}.install") / "job.json"] if self.environment is None else []
        files += [*self.root.glob("runs/*/status.json"), *self.root.glob("engines/*/engine.json")]
        alive = [file for file in files if _pid(file)]
        for file in alive:
            if pid := _pid(file):
                with suppress(ProcessLookupError):
                    # An installation's commands are in its session; runs and engines end their own.
                    (os.killpg if file.name == "job.json" else os.kill)(pid, signal.SIGTERM)
        end = time.monotonic() + _END_S
        while any(map(_pid, alive)) and time.monotonic() < end:
            time.sleep(0.2)
        return [str(file) for file in alive]


def _pid(file: Path) -> int | None:
    """The process that keeps a state file; None where it has ended."""
    with suppress(OSError, ValueError):
        record = state_file.look(str(file))
        if record and record["state"] not in state_file.ENDED:
            return record.get("pid")
    return None


def _is_unfinished(folder: Path) -> bool:
    return (folder / "request.json").exists() and not (folder / "failures.json").exists()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(live: Live, hours: float | None) -> int:
    """All steps, then the summary; returns the exit code."""
    code = 0
    steps = Steps(live.folder / "steps.json", live.options, hours)
    try:
        with stoppable():
            steps.run("doctor", live.doctor)
            steps.run("install", live.install)
            steps.run("assets", live.assets, needs=["install"])
            todo = [(weights, scenario) for weights in live.weights for scenario in SCENARIOS]
            for number, (weights, scenario) in enumerate(todo):
                share = 1 / (len(todo) - number)
                work = partial(live.measure, weights, scenario, steps.left_s * share)
                steps.run(f"{weights.name}-{scenario}", work, needs=["install", "assets"], share=share)
    except Stopped as error:
        click.echo(f"error: {error}", err=True)
        code = _INTERRUPTED
    finally:
        for file in live.end_processes():
            click.echo(f"ended what {file} says was still running")
    page = summary.text(live.measured(), live.labels, steps.records)
    write_atomic(live.folder / "summary.md", page)
    click.echo(f"\n{page}\nEverything is in {live.folder}; this page is its summary.md.")
    bad = [name for name, record in steps.records.items() if record["state"] != GOOD]
    if bad:
        click.echo(f"Not good: {', '.join(bad)}. The same command again repeats these steps.", err=True)
    return code or (RunFailed.exit_code if bad else 0)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True)


@click.command(name="python -m tests.live", help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--folder", type=click.Path(path_type=Path, resolve_path=True), required=True, help="Where everything goes."
)
@click.option("--model", type=_FOLDER, help="Llama-3.1-8B-Instruct in bf16.")
@click.option("--fp8-model", type=_FOLDER, help="The same in FP8.")
@click.option("--dataset", type=_FILE, help="MLPerf's cnn_eval.json.")
@click.option("--samples", type=click.IntRange(1, FULL_SAMPLES), help="How many samples.  [default: all]")
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True), help="Most hours of this start.  [default: no limit]"
)
@click.option("--env", type=_FOLDER, help="A node's environment that is there; without it, one is installed.")
@click.option("--rehearse", is_flag=True, help="A miniature on the CPU, with the environment of `make site`.")
def main(
    folder: Path,
    model: Path | None,
    fp8_model: Path | None,
    dataset: Path | None,
    samples: int | None,
    hours: float | None,
    env: Path | None,
    rehearse: bool,
) -> None:
    if rehearse and env is None:
        env = Path(os.environ.get("MLPERF_NODE_ENV", REPOSITORY / ".mlperf" / "env"))
    samples = samples or (REHEARSAL_SAMPLES if rehearse else FULL_SAMPLES)
    try:
        code = run(Live(folder, model, fp8_model, dataset, samples, env, rehearse), hours)
    except HarnessError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
