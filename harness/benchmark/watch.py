"""Watching a node's state files from the controller, until what they describe has ended or the node is lost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import state_file
from harness.benchmark import attempts, looks, progress
from harness.benchmark.looks import Look, LookCommand, Record

GOOD = frozenset({"finished", "ready"})
_BAD = state_file.ENDED - GOOD
_ABSENT_LOOKS = 3
_MOST_ASKED = 5
"""Engines that are asked in one look on their nodes."""
_SHOWN_EVERY_S = 10.0
"""How often the engines of many nodes are shown while they start, and their runs."""


class Lost(Exception):
    """The node has not answered for too long."""


@dataclass(frozen=True, slots=True)
class Node:
    """The node that is watched.

    `execute` runs a shell command there and returns its output; ConnectionError when there is no answer. `reset` makes
    its connection anew. `show` prints a line. `decide` tells the run there whether to repeat an attempt. `stop` asks
    the run to stop and waits for its end; it returns why there is none, or nothing. `endpoint` returns why the server
    of a named endpoint counts as failed, or nothing. `ask` returns what the node of a named engine of the run says of
    it, in a line.
    """

    host: str
    execute: Callable[[str], str]
    reset: Callable[[], None]
    show: Callable[[str], None]
    decide: Callable[[int, bool], None] = lambda number, repeat: None
    stop: Callable[[], str] = lambda: ""
    endpoint: Callable[[str], str] = lambda name: ""
    ask: Callable[[str], str] = lambda name: ""


@dataclass(frozen=True, slots=True)
class Options:
    """What is watched, and how; see the module `mlperf_watch`. `together` are the hosts of all LoadGens, where there
    are several and they repeat their attempts together. With `to_the_last` a failure does not end the watching before
    all others are ready or have failed as well. `hosts` are as many as start engines or runs at once, each with its
    Watch."""

    kind: str
    files: Sequence[str] = ()
    command: Sequence[str] = ()
    interval_s: float = 10.0
    lost_after_s: float = 120.0
    silent_after_s: float = 120.0
    progress: Path | None = None
    together: Sequence[str] = ()
    to_the_last: bool = False
    hosts: int = 1


class Watch:
    """Looks, shows, records, waits; until there is nothing more to wait for.

    `records` are those of the last look, in the order in which they were asked for.
    """

    def __init__(self, node: Node, options: Options) -> None:
        self._node, self._options = node, options
        self._command: LookCommand | None = None
        self._started = time.monotonic()
        self._decided: set[int] = set()
        self._asked: set[str] = set()
        self.records: Sequence[Record | None] = ()
        self._shown = {"attempts": 0, "probes": 0, "engine_losses": 0, "warnings": 0}

    def run(self) -> Record:
        """The last record seen; state `lost` or `absent`, with a reason, where there is none."""
        try:
            last = self._watch()
            return {**last, "noted": self._loss_is_noted(last)}
        except Lost as lost:
            self._node.show(str(lost))
            self._record(None, lost=str(lost))
            return {"state": "lost", "reason": str(lost)}
        finally:
            self._end_command()

    def _watch(self) -> Record:
        options = self._options
        absent, patience_s = 0, 0.0
        while True:
            now, records = self._look(patience_s)
            self.records = records
            for line in self._engine_lines(list(filter(None, records)), now) if options.kind == "engine" else ():
                self._node.show(line)
            missing = [file for file, record in zip(options.files, records, strict=False) if record is None]
            for record in filter(None, records):
                self._show_new(record, "probes", str)
                self._show_new(record, "attempts", progress.attempt)
                self._show_new(record, "engine_losses", progress.engine_loss)
                self._show_new(record, "warnings", str)
                for line in self._lines(record, now) if options.kind != "engine" else ():
                    self._node.show(line)
                self._record(record)
                self._decide(record)
                self._ask_about_engines(record)
            absent = absent + 1 if missing else 0
            if absent >= _ABSENT_LOOKS:
                return {"state": "absent", "reason": f"{missing[0]} does not exist on {self._node.host}"}
            if not missing and (last := self._final(records)):
                return last
            patience_s = 0.0 if missing else options.interval_s
            if missing and not options.command:
                time.sleep(min(options.interval_s, 1.0))

    def _engine_lines(self, records: Sequence[Record], now: float) -> list[str]:
        """What is shown of engines: beside many other nodes a line for all of these, and what has failed here."""
        path, hosts = self._options.progress, self._options.hosts
        if hosts <= progress.FEW or path is None:
            return progress.engines(records, now)
        so_far = progress.engines_so_far(path, hosts, _SHOWN_EVERY_S)
        return [*([so_far] if so_far else []), *progress.failed_engines(records, now)]

    def _lines(self, record: Record, now: float) -> list[str]:
        """What is shown of anything else; beside many other nodes' runs a line for all, and what is amiss here."""
        kind, path, hosts = self._options.kind, self._options.progress, self._options.hosts
        if kind != "run":
            return [progress.line(kind, record, now)]
        if hosts <= progress.FEW or path is None:
            return [progress.line(kind, record, now), *progress.engines_of_run(record)]
        so_far = progress.runs_so_far(path, hosts, _SHOWN_EVERY_S)
        return [*([so_far] if so_far else []), *progress.run_amiss(record, now)]

    def _show_new(self, record: Record, name: str, line: Callable[[Any], str]) -> None:
        """Show what was added to a list of the run's state since the last look."""
        entries = record.get(name) or ()
        for entry in entries[self._shown[name] :]:
            self._node.show(line(entry))
        self._shown[name] = max(self._shown[name], len(entries))

    def _ask_about_engines(self, record: Record) -> None:
        """Ask the nodes of engines that have stopped to answer the run what has become of them, a few at a look and
        each once. Where most are silent it is the run's own host that is too busy to ask."""
        silent = progress.silent_engines(record) if record["state"] in state_file.RUNNING else set()
        few = sorted(silent - self._asked)[:_MOST_ASKED]
        if 2 * len(silent) > len(record.get("engines") or ()) > progress.FEW:
            few = []
        for name in few:
            if answer := self._node.ask(name):
                self._node.show(answer)
        self._asked = silent & (self._asked | set(few))

    def _decide(self, record: Record) -> None:
        """Tell a run that waits for the others, once it is known, whether all repeat their attempts."""
        path, number = self._options.progress, record.get("attempt")
        if record["state"] != state_file.WAITING or path is None or number is None or number in self._decided:
            return
        looks = [progress.last_look(path, host) for host in self._options.together]
        if None in looks and time.monotonic() - self._started > self._options.lost_after_s:
            repeat: bool | None = False  # a run that nobody watches was not started
        else:
            repeat = attempts.repeat(number, looks)
        if repeat is not None:
            self._node.decide(number, repeat)
            self._decided.add(number)

    def _final(self, records: Sequence[Record | None]) -> Record | None:
        """The record that ends the watching: the first bad one, or any when all are where they should be; else None.

        An engine whose loss a run has noted is not bad.
        """
        known = [record for record in records if record is not None]
        bad = [record for record in known if record["state"] in _BAD and not self._loss_is_noted(record)]
        settled = all(record["state"] in GOOD | _BAD for record in known)
        if bad and (settled or not self._options.to_the_last):
            return bad[0]
        silent = [record for record in known if record.get("silent_s", 0.0) > self._options.silent_after_s]
        if silent:
            return self._give_up(silent[0])
        if not all(record["state"] in GOOD or self._loss_is_noted(record) for record in known):
            return None
        return next(filter(None, map(self._failed_endpoint, known)), known[0])

    def _loss_is_noted(self, record: Record) -> bool:
        """Whether a run of the benchmark has noted that it lost this engine, and so answers for it."""
        path = self._options.progress
        if self._options.kind != "engine" or path is None or record["state"] in GOOD:
            return False
        return record.get("name") in progress.engines_noted_lost(path)

    def _give_up(self, record: Record) -> Record:
        """End a run that has been silent for too long; its last record.

        Raises:
            Lost: it could not be ended, and a living run keeps its engines.
        """
        silent = f"it was silent for {progress.duration(record['silent_s'])} ({record['reason']})"
        if self._options.kind == "job":
            advice = f"end process {record.get('pid')}, then start again"
            return {**record, "state": "failed", "reason": f"{silent}; {advice}"}
        self._node.show(f"{silent}, so it is asked to stop")
        if problem := self._node.stop():
            raise Lost(f"{silent}, and did not stop when asked: {problem}")
        _, records = self._look(0.0)
        last = next(filter(None, records), record)
        if last["state"] not in GOOD:
            last = {**last, "state": "failed", "reason": f"{silent}, and was stopped"}
        self._record(last)
        return last

    def _failed_endpoint(self, record: Record) -> Record | None:
        """The record of an endpoint whose server has failed; None of any other engine."""
        reason = self._node.endpoint(record["name"]) if record.get("kind") == "endpoint" else ""
        failed = {**record, "state": "failed", "reason": reason}
        return failed if reason and not self._loss_is_noted(failed) else None

    def _look(self, patience_s: float) -> Look:
        """A look, after at most `patience_s` of waiting for an end there. Retries until the node counts as lost."""
        start, pause_s = time.monotonic() + patience_s, 1.0
        while True:
            try:
                return self._look_by_command() if self._options.command else self._look_there(patience_s)
            except (ConnectionError, ValueError, IndexError) as error:
                cause = " ".join(str(error).split())[:200]
            patience_s = 0.0
            silent_s = time.monotonic() - start
            if silent_s + pause_s > self._options.lost_after_s:
                raise Lost(f"{self._node.host} has not answered for {progress.duration(silent_s)}: {cause}")
            self._node.show(f"no answer, trying again: {cause}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, self._options.interval_s)
            if not self._options.command:
                self._node.reset()

    def _look_there(self, patience_s: float) -> Look:
        output = self._node.execute(looks.shell_command(self._options.files, patience_s))
        return looks.read(output, self._options.files, self._options.kind)

    def _look_by_command(self) -> Look:
        """The next look of the command that looks, which is started where it does not run."""
        if self._command is None:
            self._command = LookCommand(self._options.command)
        patience_s = self._options.interval_s + self._options.lost_after_s
        end = time.monotonic() + patience_s
        while not self._command.has_more(0.2):
            if time.monotonic() > end:
                self._end_command()
                raise ConnectionError(f"the command has printed nothing for {patience_s:.0f} s")
        try:
            look = self._command.next()
        except ConnectionError:
            self._end_command()
            raise
        if look["records"] is None:
            raise ConnectionError(look["away"])
        return look["unix"], look["records"]

    def _end_command(self) -> None:
        if self._command is not None:
            self._command.end()
            self._command = None

    def _record(self, status: Record | None, lost: str | None = None) -> None:
        if self._options.progress:
            progress.append(self._options.progress, self._node.host, self._options.kind, status, lost)
