"""Faults of one run: of its engine, its processes, its disk, its machine, its files."""

import json
import os
import signal
from collections.abc import Callable

from tests.faults.ending import Expected, Fault
from tests.faults.runs import OneRun, Run

ONCE = 80
"""A fault of this request alone: after those that warm an engine up, and there are not twice as many."""
REST = "what was not answered yet; the answers so far are in the journal"


def failed(
    *words: str, within_s: float, rules: tuple[str, ...] = ("RUN_FINISHED", "NO_FAILED_SAMPLES"), code: int = 4
) -> Expected:
    """The run ends with a reason."""
    return Expected(exit_code=code, words=words, level="INVALID", broken=rules, within_s=within_s, lost=REST)


def died(*words: str, within_s: float, code: int = 4) -> Expected:
    """The run ends with a reason, and it is no sample's."""
    return failed(*words, within_s=within_s, rules=("RUN_FINISHED",), code=code)


def survived(*words: str, within_s: float | None = None) -> Expected:
    """The run answers everything, and the verdict is that of a run without the fault."""
    return Expected(exit_code=0, words=words, level="UNOFFICIAL", within_s=within_s, complete=True)


def finished(rule: str, *words: str, lost: str = "nothing") -> Expected:
    """The run comes to its end, and its verdict shows the fault."""
    return Expected(exit_code=0, words=words, level="INVALID", broken=(rule,), lost=lost)


def refused(code: int, *words: str) -> Expected:
    """Nothing is started."""
    return Expected(exit_code=code, words=words, within_s=2.0, lost="nothing: nothing was started")


OOM = r"the process that issues samples was killed by SIGKILL \(by hand, or by the kernel's OOM killer"
NAMED = "names the sample, its engine and the cause, and ends the run"
SAMPLES = (
    ("http500", "HTTP 500", "an engine answers HTTP 500 once", False),
    ("truncate", "closed the connection", "an engine closes the connection in mid-answer", True),
    ("bad_id", "token id 1024", "an answer has a token id beyond the vocabulary", True),
    ("too_many", "129 tokens, not 1 to 128", "an answer has more tokens than asked for", True),
    ("empty", "0 tokens, not 1 to 128", "an answer has no token", True),
    ("html", "text/html", "an engine answers with an HTML page once", True),
    ("no_done", r"ended after \d+ tokens without \[DONE\]", "a stream of tokens ends without its end mark", True),
    ("no_finish", "finish_reason None after", "an answer does not say why it ended", True),
    ("no_ids", "an event without token_ids", "an answer has text without token ids", True),
    ("error_event", "the engine reported an error: .*fake failure", "an engine reports an error in mid-answer", True),
)  # fmt: skip


def _samples() -> list[Fault]:
    """One sample that goes wrong."""
    return [
        Fault(
            f"sample_{kind}", what, NAMED, OneRun(faults={kind: ONCE}, server={"tokens": 128, "ms_per_token": 1.0}),
            failed(rf"sample \d+ on engine0: .*{words}", within_s=5), long,
        )
        for kind, words, what, long in SAMPLES
    ]  # fmt: skip


def _signal(number: int) -> Callable[[Run], object]:
    return lambda run: run.process.send_signal(number)


def _kill_worker(number: int) -> Callable[[Run], object]:
    return lambda run: os.kill(run.worker, number)


def _kill_engine(number: int) -> Callable[[Run], object]:
    return lambda run: os.kill(run.server.pid, number)


def requests_were_sent_again(run: Run) -> None:
    """Fail unless the first engine had some twice, without a loss."""
    assert json.loads((run.run_dir / "outcome.json").read_text())["resent"]["engine0"] > 0


BURST = {"samples": 300, "max_in_flight": 300, "limits": {"request_timeout_s": 90.0}}
STALL = {"limits": {"stall_timeout_s": 3.0}}

ENGINES = [
    Fault(
        "engine_http500_always",
        "an engine answers every request with HTTP 500",
        "names the first ten samples and ends the run",
        OneRun(inject=lambda run: run.spoil_engine("http500", 1), after=20),
        failed(r"samples failed \(first 10\): 10 samples \([\d, ]+\) on engine0:", "HTTP 500", within_s=5),
    ),
    Fault(
        "engine_killed",
        "the only engine of a run is killed (SIGKILL)",
        NAMED,
        OneRun(inject=_kill_engine(signal.SIGKILL), after=20),
        failed(r"on engine0: .*(closed the connection|cannot connect)", within_s=5),
    ),
    Fault(
        "engine_stopped_for_ever",
        "the only engine of a run hangs (SIGSTOP) for ever",
        "ends the run after `stall_timeout_s` (here 3 s) without an answer",
        OneRun(inject=_kill_engine(signal.SIGSTOP), after=20, spec=STALL),
        died(r"no sample finished for 4 s after \d+ samples.*stall_timeout_s = 3", within_s=8),
    ),
    Fault(
        "engine_stopped_20_s",
        "the only engine of a run hangs (SIGSTOP) for 20 s",
        "waits for it",
        OneRun(inject=lambda run: run.pause(run.server.pid, 20), after=20),
        survived(),
        long=True,
    ),
    Fault(
        "sample_hang",
        "an engine never answers one of its requests",
        "ends the run after `stall_timeout_s` (here 3 s) without an answer",
        OneRun(faults={"hang": ONCE}, spec=STALL),
        died(r"no sample finished for 4 s after 119 samples.*stall_timeout_s = 3", within_s=12),
        long=True,
    ),
    Fault(
        "connections_closed",
        "an engine closes every third of its idle connections at random moments",
        "sends the requests again on new connections",
        OneRun(faults={"close": 3}, spec={"mode": "both"}, scored=True, afterwards=requests_were_sent_again),
        survived(),
    ),
    Fault(
        "listen_queue_full",
        "an Offline run's 300 samples come at once to an engine whose listen queue has room for 8 connections",
        "makes each connection for which there was no room again; no sample waits for `request_timeout_s` (here 90 s)",
        OneRun(spec=BURST, server={"slots": 1024, "backlog": 8, "accept_ms": 2.0}, afterwards=requests_were_sent_again),
        survived(),
        long=True,
    ),
    Fault(
        "engine_trickles",
        "an engine sends its tokens slower than the scenario allows",
        "finishes; the verdict names the limit",
        OneRun(server={"ms_per_token": 130.0, "tokens": 10, "slots": 64}, spec={"scenario": "server"}),
        finished("LATENCY_LIMITS", "TPOT p99 is 1[0-9]{2} ms of 100 ms allowed"),
        long=True,
    ),
    Fault(
        "one_token",
        "an engine answers with one token",
        "finishes; the verdict names the samples",
        OneRun(faults={"one_token": ONCE}),
        finished("ONE_TOKEN", r"1 answers in performance are one token long"),
        long=True,
    ),
    Fault(
        "lying_server",
        "a server runs with prefix caching, which the rules forbid",
        "finishes; the verdict says so",
        OneRun(server={"prefix_caching": True}),
        finished("PREFIX_CACHING", "prefix caching was on"),
        long=True,
    ),
    Fault(
        "website",
        "something that is no engine answers at its address",
        "refuses to start",
        OneRun(server={"website": True}),
        failed("not an OpenAI-compatible server", within_s=5, rules=("RUN_FINISHED",), code=2),
        long=True,
    ),
]

PROCESSES = [
    Fault(
        "worker_killed",
        "the process that runs LoadGen is killed (SIGKILL)",
        "ends the run and names the signal",
        OneRun(inject=_kill_worker(signal.SIGKILL), after=20),
        died(OOM, within_s=2),
    ),
    Fault(
        "worker_stopped",
        "the process that runs LoadGen hangs (SIGSTOP)",
        "kills it after `stall_timeout_s` (here 3 s)",
        OneRun(inject=_kill_worker(signal.SIGSTOP), after=20, spec=STALL),
        died("no sample finished for 4 s", within_s=8),
        long=True,
    ),
    Fault(
        "run_killed",
        "the process of a run is killed (SIGKILL)",
        "LoadGen's process dies with it; whoever looks sees that the run failed",
        OneRun(inject=_signal(signal.SIGKILL), after=20),
        died("harness died", within_s=2, code=-signal.SIGKILL),
    ),
    *(
        Fault(
            f"run_{number.name}",
            f"a run is told to stop ({number.name})",
            "ends its processes, writes its outcome and is `stopped`",
            OneRun(inject=_signal(number), after=20),
            died(f"stopped by {number.name}", within_s=5),
            long=number is not signal.SIGTERM,
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    ),
]


RUN_FAULTS = [*_samples(), *ENGINES, *PROCESSES]
