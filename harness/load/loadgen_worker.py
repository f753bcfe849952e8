"""The process of one LoadGen run: LoadGen issues in the main thread, the dispatcher answers in its own."""

import dataclasses
import gc
import os
import signal
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, cast

import mlperf_loadgen as lg

from harness import clock
from harness.dataset import vocab_size
from harness.early_stopping import forgiven
from harness.errors import RunFailed
from harness.load.answer import Answer
from harness.load.dispatch import Dispatcher
from harness.load.journal import Journal
from harness.load.limits import LimitWatch
from harness.load.loadgen import Settings
from harness.load.progress import Tally
from harness.load.worker import MAX_FAILURES, Report
from harness.spec import Scenario, Spec, parse_spec

_SWITCH_INTERVAL_S = 0.0005
_SURE_AFTER = 4  # looks, one a second: by then an engine that hangs is in doubt
_REHEARSAL_QPS = 20_000.0
_Key = tuple[int, float]
_started = False


def run(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run LoadGen once and return the values of an Outcome.

    Raises:
        RunFailed: LoadGen rejected its settings, or has already run in this process: a second run would silently ignore
            the round's seeds and durations.
    """
    global _started
    if _started:
        raise RunFailed("LoadGen can run only once per process; start a new one")
    _started = True
    spec = parse_spec(payload["spec"])
    settings = Settings(**{**payload["settings"], "scenario": Scenario(payload["settings"]["scenario"])})
    return _Run(spec, settings, payload, report).go()


def rehearse(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """The order in which LoadGen issues samples in a performance run: it is run, and answered at once."""
    values = payload["settings"]
    settings = Settings(**{**values, "scenario": Scenario(values["scenario"]), "target_qps": _REHEARSAL_QPS})
    settings = dataclasses.replace(settings, min_duration_ms=round(payload["queries"] / _REHEARSAL_QPS * 1000))
    order: list[int] = []
    answer = array("i", [1, 1])
    address, length = answer.buffer_info()

    def issue(queries: list[Any]) -> None:
        for query in queries:
            order.append(query.index)
            lg.FirstTokenComplete([lg.QuerySampleResponse(query.id, address, answer.itemsize)])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, address, length * answer.itemsize, length)])

    with tempfile.TemporaryDirectory() as folder:
        _start_test(issue, settings, Path(folder), payload["log"], "rehearsal")
    return {"order": order}


def _start_test(
    issue: Callable[[list[Any]], None], settings: Settings, directory: Path, log_name: str, name: str
) -> None:
    """Let LoadGen issue until its run is over; its files go into the directory."""
    test_settings = _test_settings(settings, directory, log_name)
    log = lg.LogSettings()
    log.enable_trace = False
    log.log_output.outdir = str(directory)
    log.log_output.copy_summary_to_stdout = False
    # ConstructSUT calls every system "PySUT"; this one takes a name.
    system = lg.ConstructQDL(issue, lambda: None, lambda: f"mlperf-distributed ({name})")
    library = lg.ConstructQSL(settings.samples, settings.samples, lambda indices: None, lambda indices: None)
    lg.StartTestWithLogSettings(system, library, test_settings, log, _audit_file(settings, directory))
    lg.DestroyQSL(library)
    lg.DestroyQDL(system)


class _Run:
    """Connects LoadGen and the dispatcher; a Listener whose keys are (LoadGen's response id, issue time)."""

    def __init__(self, spec: Spec, settings: Settings, payload: dict[str, Any], report: Report) -> None:
        self._spec, self._settings, self._report = spec, settings, report
        self._directory = Path(payload["directory"])
        self._directory.mkdir(parents=True, exist_ok=True)
        self._log = payload["log"]
        self._start_s, self._start_unix = time.perf_counter(), clock.unix()
        self._qsl_idx: list[int] = payload["qsl_idx"]
        start = self._start_s, self._start_unix
        lengths = [len(prompt) for prompt in payload["prompts"]]
        self._journal = Journal(Path(payload["journal"]), settings.mode, self._qsl_idx, *start, lengths)
        self._tally = Tally()
        self._one_token: list[int] = []
        self._first_logged_s: dict[Hashable, float] = {}
        self._issued = 0
        self._ended = threading.Event()
        self._counting = threading.Lock()  # an answer is counted everywhere or nowhere
        self._streams = settings.scenario is not Scenario.OFFLINE
        self._limits = LimitWatch(settings.scenario, settings.most_samples, _SURE_AFTER if spec.silence_s else 1)
        self._ends_early, self._ends_after = payload["ends_early"], payload["ends_after"]
        self._dispatcher = Dispatcher(
            spec.engines,
            payload["prompts"],
            self,
            vocab_size=vocab_size(spec.model),
            seed=spec.seed,
            timeout_s=spec.limits.request_timeout_s,
            speeds=spec.speeds,
            silence_s=spec.silence_s,
        )

    def go(self) -> dict[str, Any]:
        """Run to the end."""
        # The prompts live as long as the process, so the garbage collector need not scan them. LoadGen's thread, which
        # keeps the schedule, must not wait the default 5 ms for the interpreter lock.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        # Blocked in every thread but one that waits for it: the main thread is in LoadGen and would not hear of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._end_on_request, name="end", daemon=True).start()
        reporter = threading.Thread(target=self._report_every_second, name="report", daemon=True)
        try:
            with self._dispatcher:
                reporter.start()
                self._started_unix, self._cpu_s = clock.unix(), time.process_time()
                names = ", ".join(engine.name for engine in self._spec.engines)
                _start_test(self._issue, self._settings, self._directory, self._log, names)
                outcome = self._outcome()
            self._ended.set()
            reporter.join()
            self._report(self._progress())
        finally:
            self._journal.close()
        return outcome

    def _outcome(self, ended_early: str | None = None) -> dict[str, Any]:
        counts = self._limits.counts(time.perf_counter())
        if ended_early is None:  # the number of queries is known now
            counts["forgiven"] = forgiven(self._issued)
        return {
            "mode": self._settings.mode,
            "started_unix": self._started_unix,
            "finished_unix": clock.unix(),
            "samples": self._tally.done,
            "tokens": self._tally.tokens,
            "client_cpu_s": time.process_time() - self._cpu_s,
            "issued": self._issued,
            "one_token_answers": sorted(set(self._one_token)),
            "ended_early": ended_early,
            "engine_losses": self._losses(),
            "resent": self._dispatcher.resent,
            "connect_ms": self._dispatcher.connect_ms,
            **counts,
        }

    def _losses(self) -> list[dict[str, Any]]:
        mode, losses = self._settings.mode, self._dispatcher.losses
        return [loss.document(mode, self._start_s, self._start_unix) for loss in losses]

    def _issue(self, queries: list[Any]) -> None:
        now = time.perf_counter()
        self._issued += len(queries)
        if self._streams:
            self._limits.issued([(query.id, now) for query in queries], now)
        self._dispatcher.submit([((query.id, now), query.index) for query in queries])

    def on_first(self, key: Hashable, sample: int, token_ids: list[int]) -> None:
        """Pass the first token to LoadGen, which requires both calls for a sample from the same thread.

        In an accuracy run, which LoadGen logs without judging first tokens, it is left to `on_done`: the answer may be
        another engine's in the end. In a compliance run such an answer must fail where it begins otherwise.
        """
        if self._streams:
            before = time.perf_counter()
            if self._settings.mode != "accuracy":
                self._first_logged_s[key] = before
                self._first_token(key, array("i", token_ids[:1]))
            self._limits.first(key, before, time.perf_counter())

    def _first_token(self, key: Hashable, ids: "array[int]") -> None:
        response_id, _ = cast(_Key, key)
        lg.FirstTokenComplete([lg.QuerySampleResponse(response_id, ids.buffer_info()[0], ids.itemsize)])

    def on_done(self, key: Hashable, sample: int, engine: str, answer: Answer) -> None:
        """Pass the answer to LoadGen, which reads the buffer only until the call returns."""
        response_id, issued_s = cast(_Key, key)
        ids = array("i", answer.token_ids)
        address, length = ids.buffer_info()
        if self._streams and self._settings.mode == "accuracy":
            self._first_token(key, ids)
        last_logged_s = time.perf_counter()
        lg.QuerySamplesComplete([lg.QuerySampleResponse(response_id, address, length * ids.itemsize, length)])
        with self._counting:
            self._tally.add(issued_s, answer)
            self._limits.done(key, answer)
            first_logged_s = self._first_logged_s.pop(key, None)
            self._journal.done(sample, engine, issued_s, answer, first_logged_s, last_logged_s)
        if length == 1:
            self._one_token.append(self._qsl_idx[sample])

    def on_failed(self, key: Hashable, sample: int, engine: str, reason: str) -> None:
        """Report the failed sample, but not to LoadGen, which only accepts answers."""
        self._tally.failed += 1
        self._journal.failed(sample, engine, reason)
        if self._tally.failed <= MAX_FAILURES:
            failed = {"qsl_idx": self._qsl_idx[sample], "engine": engine, "reason": reason}
            self._report({"failed": failed})

    def on_crash(self, reason: str) -> None:
        """Report an internal error, after which the run cannot finish."""
        print(reason, file=sys.stderr, flush=True)
        self._report({"error": f"the dispatcher failed: {reason.splitlines()[-1]}", "kind": "RunFailed"})

    def _report_every_second(self) -> None:
        """Once a second: write the journal and report progress."""
        while not self._ended.wait(1.0 - time.perf_counter() % 1.0):
            try:
                self._journal.flush()
                self._report(self._progress())
                # After a loss the run is made to its end, for its figures: it is not judged by its latencies any more.
                if self._ends_early and not self._dispatcher.losses:
                    in_doubt = self._dispatcher.in_doubt
                    if reason := self._limits.surely_hopeless(self._tally.done, in_doubt=in_doubt):
                        self._end(reason)
                if self._ends_after and self._tally.done >= self._ends_after:
                    self._end(f"ended after {self._tally.done:,} answers, as it was meant to be")
            except RunFailed as error:
                self._report({"error": str(error), "kind": "RunFailed"})
                os._exit(1)

    def _end_on_request(self) -> None:
        """Wait for SIGTERM; then write the journal to its end and end this process."""
        signal.sigwait({signal.SIGTERM})
        with self._counting:
            try:
                self._journal.close()
            finally:
                os._exit(128 + signal.SIGTERM)

    def _end(self, reason: str) -> None:
        """End this process, which is the only way to end LoadGen; the engines drop what it still waits for."""
        with self._counting:
            self._journal.close()
            self._report(self._progress())
            self._report({"result": self._outcome(reason)})
            os._exit(0)

    def _progress(self) -> dict[str, Any]:
        now = time.perf_counter()
        tally, settings = self._tally, self._settings
        total = max(self._ends_after or max(settings.expected_samples, self._issued), tally.done)
        progress = tally.progress(now, now - self._start_s, total, self._dispatcher.in_flight)
        # The mean time between two Server queries is 1/target_qps seconds; 20 times as long is very unlikely.
        idle_s = 20 / settings.target_qps if self._streams else 0.0
        owed = self._issued > tally.done + tally.failed
        progress = dataclasses.replace(
            progress,
            engine_losses=tuple(self._losses()),
            resent=self._dispatcher.resent,
            over=self._dispatcher.over,
        )
        return {"progress": dataclasses.asdict(progress), "owed": owed, "idle_s": idle_s}


def _audit_file(requested: Settings, directory: Path) -> str:
    """Path of the audit file, kept in the directory as evidence; of one that cannot exist where there is none.

    Without a path LoadGen would take an audit.config that happens to lie in the working directory.
    """
    if requested.audit_config is None:
        return f"{os.devnull}/none"
    path = directory / "audit.config"
    path.write_text(requested.audit_config)
    return str(path)


def _test_settings(requested: Settings, directory: Path, log: str) -> Any:
    """LoadGen's settings: its built-in rules, then user.conf, which is kept in the directory as evidence."""
    conf = directory / "user.conf"
    conf.write_text(requested.user_conf)
    settings = lg.TestSettings()
    code = settings.FromConfig(str(conf), requested.scenario.model_name, requested.scenario_name)
    if code != 0:
        raise RunFailed(f"LoadGen rejected {conf} with code {code}; see {log}")
    settings.scenario = getattr(lg.TestScenario, requested.scenario_name)
    settings.mode = lg.TestMode.AccuracyOnly if requested.mode == "accuracy" else lg.TestMode.PerformanceOnly
    return settings
