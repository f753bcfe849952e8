"""Faults of one run: `harness start --foreground` over fake engines."""

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

from harness import dataset
from harness.report.build import build
from harness.spec import Spec
from harness.status import look
from tests.conftest import NODE_ENVIRONMENT
from tests.engines import until, write_model
from tests.fake_server import FakeServer, answer
from tests.faults.commands import END_S, harness, output_of
from tests.faults.ending import Ending, Notice, left_running
from tests.faults.samples import answers_in, disagreements, is_complete
from tests.unit import load

FAST = {"ms_per_token": 5.0, "tokens": 20, "slots": 32, "vocab": load.VOCABULARY}
SLOW = {**FAST, "ms_per_token": 60.0, "slots": 16}
"""Nine seconds for all samples, so that a fault comes in time on a busy machine, too."""
_FLUSHED_S = 2.0


@dataclass
class Run(Notice):
    """A run under way, and what a fault may be made of: its engines, its processes, its files."""

    folder: Path
    spec: Spec
    servers: list[FakeServer]
    process: "subprocess.Popen[str]" = field(init=False)
    others: "list[subprocess.Popen[str]]" = field(init=False, default_factory=list)
    happened_s: float = field(init=False, default=0.0)

    @property
    def root(self) -> Path:
        """Its root on the node."""
        return self.folder / "root"

    @property
    def run_dir(self) -> Path:
        """Its directory."""
        return self.root / "runs" / self.spec.run_id

    @property
    def server(self) -> FakeServer:
        """Its first engine."""
        return self.servers[0]

    @property
    def worker(self) -> int:
        """The process that runs LoadGen."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def start(self, *options: str, prefix: tuple[str, ...] = ()) -> None:
        """Start it with these options, behind the words of another command such as prlimit."""
        words = ["start", "--root", str(self.root), *options]
        self.process = harness(self.folder, words, self.spec.model_dump_json(), prefix=prefix)

    def status(self) -> dict[str, Any]:
        """status.json as it is; empty before it is written."""
        with contextlib.suppress(OSError):
            return dict(json.loads((self.run_dir / "status.json").read_text()))
        return {}

    def answered(self) -> int:
        """Samples answered so far in the phase that is measured."""
        status = self.status()
        return int(status["samples_done"]) if status.get("phase") in ("performance", "accuracy") else 0

    @property
    def measured_s(self) -> float:
        """When what is measured began, after the engines were warmed up; 0 when it did not."""
        phases = [phase for phase in self.status().get("phases", ()) if phase["phase"] in ("performance", "accuracy")]
        return float(phases[0]["started_unix"] - time.time() + time.monotonic()) if phases else 0.0

    @property
    def loss_s(self) -> float | None:
        """When it noted that it had lost an engine; None when it did not."""
        outcome = self.run_dir / "outcome.json"
        losses = json.loads(outcome.read_text())["engine_losses"] if outcome.exists() else []
        return losses[0]["at_unix"] - time.time() + time.monotonic() if losses else None

    def start_engine_again(self, settings: Mapping[str, Any]) -> None:
        """Start a server with these settings in the place of the first engine, which has ended."""
        port = int(self.server.url.rsplit(":", 1)[1])
        self.servers[0] = FakeServer(port, **settings).__enter__()

    def pause(self, pid: int, seconds: float) -> None:
        """Stop a process for a while."""
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def spoil_engine(self, kind: str, every: int) -> None:
        """Have the first engine make a mistake in every so many of the requests from now on."""
        self.server.reset()
        self.server.set(faults={kind: every})


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """A run into which a fault comes.

    Args:
        inject: makes the fault happen, once `after` samples are answered (before the start when 0, after the end when
            None).
        engines: how many there are.
        calibrated: whether their speeds are known, as in a benchmark.
        faults: mistakes that the first engine makes from its start.
        server: how all of them answer.
        spec: settings of the run.
        scored: take the sandbox's model, whose answers can be scored.
        prefix: words before the command that starts it.
        detached: start it in the background.
        afterwards: called after the end; undoes what would keep the next run from working, or looks closer.
    """

    inject: Callable[[Run], object] = lambda run: None
    after: int | None = 0
    engines: int = 1
    calibrated: bool = False
    faults: Mapping[str, int] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    scored: bool = False
    prefix: tuple[str, ...] = ()
    detached: bool = False
    afterwards: Callable[[Run], object] = lambda run: None

    def play(self, folder: Path) -> Ending:
        """Start the run, make the fault happen, wait for the end; then run again in the same root."""
        with ExitStack() as stack:
            servers = self._servers(folder, stack, {**(SLOW if self.after else FAST), **self.server})
            run = Run(folder, self._spec(folder, servers), servers)
            answers = dict(enumerate(answer(prompt, servers[0].set()) for prompt in prompts(run.spec)))
            servers[0].set(faults=dict(self.faults))
            try:
                self._go(run)
                run.process.wait(END_S)
                if self.detached:
                    assert until(lambda: look(run.run_dir)["state"] != "running", END_S)
                ended_s = time.monotonic()
                happened_s, problems = self._seen(run, ended_s, answers)
                if self.after is None:
                    self.inject(run)
                self.afterwards(run)
                return self._ending(run, _noticed_s(run, happened_s, ended_s), problems, stack)
            finally:
                if run.process.poll() is None:
                    run.process.kill()
                    run.process.wait()
                for server in run.servers:
                    server.__exit__()

    def _servers(self, folder: Path, stack: ExitStack, settings: Mapping[str, Any]) -> list[FakeServer]:
        """The engines."""
        return [stack.enter_context(FakeServer(**settings)) for _ in range(self.engines)]

    def _go(self, run: Run) -> None:
        """Start the run and make the fault happen in it."""
        if self.after == 0:
            self.inject(run)
        run.start(*([] if self.detached else ["--foreground"]), prefix=self.prefix)
        run.happened_s = time.monotonic()
        if self.after:
            assert until(lambda: run.answered() >= (self.after or 0), END_S), output_of(run.folder)
            run.happened_s = time.monotonic()
            self.inject(run)

    def _spec(self, folder: Path, servers: list[FakeServer]) -> Spec:
        values = {"scenario": "offline", "mode": "performance", "target_qps": 100.0, **self.spec}
        if self.scored:
            sandbox = NODE_ENVIRONMENT.parent / "sandbox"
            values |= {"model": sandbox / "model", "dataset": sandbox / "cnn_eval.json"}
        spec = load.make_spec(folder, *servers, **values)
        if self.calibrated:
            engines = tuple(engine.at_speed({engine.name: 10.0}, {}) for engine in spec.engines)
            spec = spec.model_copy(update={"engines": engines})
        if not self.scored:
            config = (spec.model / "config.json").read_text()
            write_model(spec.model)
            (spec.model / "config.json").write_text(config)
        return spec

    def _seen(self, run: Run, ended_s: float, answers: Mapping[int, list[int]]) -> tuple[float, list[str]]:
        """When the fault happened, and what is wrong in the run's files."""
        sent = [record for server in run.servers for record in records(server)]
        faulty = [record for record in sent if record["fault"]]
        ends = [record["last_s"] for record in sent if record["last_s"] and record["arrived_s"] > run.measured_s]
        begun_s = max(run.happened_s, min(ends, default=0.0))  # a fault from the start shows with the first answer
        happened_s = min([record["arrived_s"] for record in faulty], default=begun_s)
        by_prompt = {hash(tuple(prompt)): index for index, prompt in enumerate(prompts(run.spec))}
        problems = disagreements(run.run_dir, run.spec, answers, {by_prompt[record["prompt"]] for record in faulty})
        lost = self._lost(run, sent, min(ended_s, happened_s), by_prompt)
        return happened_s, [*problems, *lost]

    def _ending(self, run: Run, noticed_s: float | None, problems: list[str], stack: ExitStack) -> Ending:
        level, broken, output = judged(run)
        return Ending(
            exit_code=run.process.returncode,
            output=output_of(run.folder) + output,
            noticed_s=noticed_s,
            level=level,
            broken=broken,
            complete=is_complete(run.run_dir, run.spec),
            problems=problems,
            left=left_running(run.folder),
            next_exit_code=run_again(run, stack),
        )

    def _lost(
        self, run: Run, sent: list[dict[str, Any]], until_s: float, by_prompt: Mapping[int, int]
    ) -> Iterator[str]:
        """Answers that had come well before the fault and are in no journal."""
        if "journal.jsonl" not in {path.name for path in run.run_dir.glob("*")}:
            return
        kept = {line["qsl_idx"] for mode in ("performance", "accuracy") for line in answers_in(run.run_dir, mode)}
        for record in sent:
            is_answered = record["fault"] is None and record["last_s"] and record["last_s"] < until_s - _FLUSHED_S
            if is_answered and record["arrived_s"] > run.measured_s and by_prompt[record["prompt"]] not in kept:
                yield f"the answer to sample {by_prompt[record['prompt']]} is lost"


def _noticed_s(run: Run, happened_s: float, ended_s: float) -> float | None:
    """Seconds until a fault was noticed: seen by the scene, a noted loss, or the run's failure; None without any."""
    if run.seen_s is not None:
        return run.seen_s
    if run.loss_s is not None:
        return run.loss_s - happened_s
    return ended_s - happened_s if run.process.returncode else None


def judged(run: Run) -> tuple[str | None, frozenset[str], str]:
    """A run's level, the rules that make it INVALID, and why; of a run that was never begun there is nothing."""
    if not (run.run_dir / "spec.json").exists():
        return None, frozenset(), ""
    verdict = build(run.run_dir).result.verdict
    broken = frozenset(reason.code for reason in verdict.reasons if reason.level == "INVALID")
    sentences = [look(run.run_dir)["reason"] or "", *(reason.sentence for reason in verdict.reasons)]
    return verdict.level.value, broken, "\n".join(sentences)


def prompts(spec: Spec) -> list[list[int]]:
    """The token ids of a run's samples."""
    return [list(ids) for ids in dataset.load(spec.dataset, limit=spec.samples).inputs]


def records(server: FakeServer) -> list[dict[str, Any]]:
    """What an engine sent; nothing is known of one that has died or is stopped."""
    if server.process.poll() is not None:
        return []
    os.kill(server.pid, signal.SIGCONT)
    return server.records()


def run_again(run: Run, stack: ExitStack) -> int:
    """Exit code of a small run in the same root, over engines in order; every sample of it must be answered."""
    servers = []
    for server in run.servers:
        if server.process.poll() is None:
            server.set(faults={}, website=False, prefix_caching=False, ms_per_token=0.0)
            servers.append(server)
        else:
            servers.append(stack.enter_context(FakeServer(**FAST)))
    spec = load.make_spec(run.folder, *servers, run_id="next", scenario="offline", mode="performance", target_qps=50.0)
    spec = spec.model_copy(update={"samples": 16, "share": None, "model": run.spec.model, "dataset": run.spec.dataset})
    following = Run(run.folder, spec, servers)
    following.start("--foreground")
    code = following.process.wait(END_S)
    return code if code or is_complete(following.run_dir, spec) else -1
