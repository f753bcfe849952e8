"""A host's part in a benchmark as things stand: what it checks, calibrates, runs, takes over, collects and stops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.benchmark import takeover
from harness.benchmark.failures import Failure
from harness.benchmark.origin import Commands
from harness.benchmark.plan import Plan
from harness.benchmark.public_settings import Topology
from harness.benchmark.request import Request

Values = dict[str, Any]
"""A specification of a run (`Spec`) or the like as plain values."""
_NOTICE = """The run goes on without this command: Ctrl-C ends the watching only.
  pick it up:  {pick_up}
  end it:      {end}"""


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of a host of the play.

    `engines` are references to its engines and `spec` is what all its runs have in common. `state` is that of its run
    when it was looked at (`absent` if there is none, `lost` if the host did not answer), `running` names all runs
    there. `failures` are its entries of failures.json so far, `lost` says that it is no longer watched, `finished`
    that its run was watched to a good end, when the engines named in `answering` still answered it. `runs_folder` and
    `engines_folder` are where its files are collected from; where the latter is empty, engines are in the run's folder.
    """

    engines: Sequence[Mapping[str, Any]]
    spec: Mapping[str, Any]
    state: str
    running: Sequence[str] = ()
    overruled: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[Mapping[str, Any]] = ()
    lost: bool = False
    finished: bool = False
    answering: frozenset[str] = frozenset()
    runs_folder: str = ""
    engines_folder: str = ""


def of_all(
    request: Request,
    hosts: Mapping[str, Host],
    plan: Mapping[str, Any],
    *,
    stops: bool = False,
    check_mode: bool = False,
) -> Values:
    """The parts of all hosts, worked out once: each by the name of its host, what they share, and who takes part in
    which play."""
    parts = {name: Part(name, request, hosts, plan, stops) for name in hosts}
    any_part = next(iter(parts.values()))
    starts, repeats, acts = any_part.starts(), any_part.repeats_follow(), not check_mode
    present = [name for name, host in hosts.items() if not host.lost]
    runs = [name for name in present if plan.get("nodes", {}).get(name, {}).get("loadgen")]
    return {
        "hosts": {name: part.values() for name, part in parts.items()},
        "refusals": list(filter(None, (part.refusal() for part in parts.values()))),
        "starts": starts,
        "finished": any_part.has_finished(),
        "well": [name for name in hosts if any_part.has_not_failed(name)],
        "ready": any_part.ready,
        "loadgen_host": any_part.loadgen_host,
        "failures": [
            failure
            for name, host in hosts.items()
            for failure in [*host.failures, parts[name].engines_left_running() if parts[name].stops_engines() else {}]
            if failure
        ],
        "overruled": [failure for host in hosts.values() for failure in host.overruled],
        # Planned once, for all, by the first host of which something is known.
        "planning": present[:1] if starts else [],
        "calibrating": [n for n in present if acts and starts and not request.plan and parts[n].calibration()],
        "running": [n for n in runs if acts and (not request.ended or parts[n].still_runs())],
        "taking_over": [n for n in present if acts and parts[n].shares()],
        "doubtful": [n for n in present if acts and not request.ended and parts[n].has_doubtful_engines()],
        "stopping": [
            n
            for n in present
            if acts and not repeats and parts[n].stops_engines() and not parts[n].engines_left_running()
        ],
        "collecting": present if acts else [],
        "repeating": list(hosts) if acts and repeats else [],
        "judging": list(hosts)[:1] if acts else [],
    }


@dataclass(frozen=True, slots=True)
class Part:
    """The part of the host `name`.

    `hosts` are all hosts of the play, `plan` is the content of plan.json (empty when there is none), `stops` says that
    the benchmark is being stopped on request.
    """

    name: str
    request: Request
    hosts: Mapping[str, Host]
    plan: Mapping[str, Any]
    stops: bool = False

    def values(self) -> Values:
        """What this host does, as plain values."""
        return {
            "check": self.spec_to_check(),
            "calibration": self.calibration(),
            "run": self.run(),
            "notice": self.notice(),
            "engine_files": self.engine_files(),
            "shares": self.shares(),
            "stops_engines": self.stops_engines(),
            "left": bool(self.engines_left_running()),
            "directories": self.directories(),
        }

    @property
    def host(self) -> Host:
        """What is known of this host."""
        return self.hosts[self.name]

    @property
    def loadgen_host(self) -> str:
        """The host that drives LoadGen in topology `fleet`; empty when all that could have failed."""
        return next(filter(self.has_not_failed, self.request.loadgen_hosts), "")

    @property
    def ready(self) -> list[str]:
        """The nodes on which nothing has failed so far."""
        return [name for name in self.request.nodes if self.has_not_failed(name)]

    def refusal(self) -> str:
        """Why this host keeps the benchmark from starting, with what to do about it; empty if it does not."""
        host, run_id, resume = self.host, self.request.run_id, self.request.resume
        commands = self._commands
        if host.lost:
            if self.request.begun and (not resume or self._can_go_on()):
                return ""
            # The hosts of a run that was begun are those of its request.
            otherwise = "choose another run_id" if resume else f"leave it out with --limit '!{self.name}'"
            return f"{host.failures[0]['reason']}. Start it or correct its address in the inventory, or {otherwise}."
        if resume and run_id in host.running:
            still = f"run {run_id} is still running on {self.name}, so it cannot be resumed"
            return f"{still}: pick it up with `{commands.pick_up}`, or end it first with `{commands.end}`."
        if resume and self.has_finished():
            finished = f"run {run_id} has finished on every host, so there is nothing to resume"
            return f"{finished}: collect and judge it with `{commands.pick_up}`, or choose another run_id."
        other = next((name for name in host.running if name != run_id), None)
        if other is None:
            return ""
        # Of a run whose results are not here nobody knows how it was started: as this one, presumably.
        commands = self.request.others.get(other) or self.request.origin.commands(other)
        return f"{self.name} is busy with run {other}: {commands.advice}."

    def starts(self) -> bool:
        """Whether engines and runs are to be started: not all runs of the plan are there yet, or they are resumed."""
        states = self._states()
        return not self.request.ended and (self.request.resume or "absent" in states or not states)

    def _can_go_on(self) -> bool:
        """Whether a LoadGen of the plan, or where there is none a host that may drive one, has answered."""
        loadgens = self.request.plan.get("loadgens") or self.request.loadgen_hosts
        return any(not self.hosts[name].lost for name in loadgens if name in self.hosts)

    def still_runs(self) -> bool:
        """Whether this host's run, given up by an earlier start, is running: it is then watched to its end."""
        host = self.host
        return self.request.ended and host.state not in ("absent", "lost") and self.request.run_id in host.running

    def has_finished(self) -> bool:
        """Whether the runs of all LoadGens of the plan had finished when they were looked at."""
        return set(self._states()) == {"finished"}

    def spec_to_check(self) -> Values:
        """The run that this host may have to drive, for a check before anything is started; empty for no run."""
        request = self.request
        if self.name not in request.loadgen_hosts:
            return {}
        together = request.topology is Topology.PER_NODE and len(request.nodes) > 1
        engines = [engine for name in request.nodes for engine in self.hosts[name].engines]
        return {**self.host.spec, "run_id": request.run_id, "attempts_together": together, "engines": engines}

    def calibration(self) -> Values:
        """The run in which this host measures the speed of its engines, or of a fleet's; empty for none."""
        fleet = self.request.topology is Topology.FLEET
        if not self.has_not_failed(self.name) or self.name not in (
            [self.loadgen_host] if fleet else self.request.nodes
        ):
            return {}
        names = self.ready if fleet else [self.name]
        engines = [engine for name in names for engine in self.hosts[name].engines]
        return {**self.host.spec, "engines": engines, "calibrate_only": True}

    def run(self) -> Values:
        """The run that the plan has for this host; empty for none."""
        node = self.plan.get("nodes", {}).get(self.name)
        if not node or not node["loadgen"]:
            return {}
        parts = self.plan["nodes"].values() if self.plan["topology"] == Topology.FLEET else [node]
        asked = self.request.asked
        rate: Values = {"target_qps": node["target_qps"] or "auto"}
        if asked.target_qps == "peak":
            rate = {
                "target_qps": "peak",
                "peak_from_qps": node["target_qps"],
                "peak_budget_minutes": asked.peak_budget_minutes,
            }
        return {
            **self.host.spec,
            "engines": [engine for part in parts for engine in part["engines"]],
            "share": node["share"],
            "attempts_together": len(self.plan["loadgens"]) > 1,
            **rate,
        }

    def notice(self) -> str:
        """What is shown before the run is watched; empty on all hosts but one."""
        commands = self._commands
        return _NOTICE.format(**commands.model_dump()) if self.name in self.plan.get("loadgens", ())[:1] else ""

    def engine_files(self) -> Values:
        """Where the state of each engine of this host's run is, by its name: the host and, for a process, the file."""
        return {
            engine["name"]: {"host": engine["node"], "file": folder and f"{folder}/{engine['name']}/engine.json"}
            for engine in self.run().get("engines", ())
            for folder in [self.hosts[engine["node"]].engines_folder]
        }

    def shares(self) -> list[Values]:
        """The further accuracy runs of this host, over shares of lost nodes, each with its spec and a line of text."""
        if self.host.lost or self.request.ended or self.plan.get("topology") != Topology.PER_NODE:
            return []
        if not self.host.finished:
            return []
        plan = Plan.model_validate({key: self.plan[key] for key in self.plan if key != "schema"})
        finished = [name for name, host in self.hosts.items() if host.finished]
        return [
            {
                "run_id": taken.run_id,
                "lost": taken.lost,
                "spec": self._spec_of_share(taken),
                "text": takeover.describe(self.name, taken),
            }
            for taken in takeover.taken_shares(plan, finished).get(self.name, [])
        ]

    def has_doubtful_engines(self) -> bool:
        """Whether its engines in the plan must be asked how they are: not if the run at their only LoadGen has finished
        and has had an answer of each to the end."""
        engines = {engine["name"] for engine in self.plan.get("nodes", {}).get(self.name, {}).get("engines", ())}
        if not engines or self.plan["topology"] != Topology.FLEET:
            return bool(engines)
        return not any(engines <= host.answering for host in self.hosts.values() if host.finished)

    def directories(self) -> list[Values]:
        """What is collected of this host, as `mlperf_collect` takes it, from the folders of its runs and engines.

        Logs of engines that go on belong to another run.
        """
        runs = self.host.runs_folder
        engines = self.host.engines_folder or f"{runs}/{self.request.run_id}.engines/engines"
        names = [engine["name"] for engine in self.host.engines] if self.stops_engines() else []
        return [
            {"source": f"{runs}/{self.request.run_id}"},
            {"source": f"{runs}/{self.request.calibration_id}", "target": "calibration"},
            {"source": engines, "target": "engines", "only": names},
            *({"source": f"{runs}/{share['run_id']}", "target": f"shares/{share['lost']}"} for share in self.shares()),
        ]

    def stops_engines(self) -> bool:
        """Whether this host's engines are stopped at the end.

        Those of a run that has ended may serve another one by now; only stop.yml stops them then, and not under a run.
        Those of a host that was lost were never stopped.
        """
        others = {name for host in self.hosts.values() for name in host.running} - {self.request.run_id}
        return not self.request.ended or bool(self.host.overruled) or (self.stops and not others)

    def engines_left_running(self) -> Values:
        """The entry of failures.json about engines that are left running; empty for none.

        A fleet's engines serve one LoadGen. Where its host is lost its run may go on, and only stop.yml takes them
        from it.
        """
        loadgens = self.plan.get("loadgens", [])
        lost = any(host.lost for name, host in self.hosts.items() if name in loadgens)
        if self.stops or not lost or self.host.lost or self.plan["topology"] != Topology.FLEET:
            return {}
        if not self.plan["nodes"].get(self.name, {}).get("engines"):
            return {}
        reason = (
            f"its engines were not stopped: the run on {loadgens[0]}, which is lost, may still use them; stop them "
            f"with `{self._commands.end}`"
        )
        return Failure(host=self.name, phase="engines down", reason=reason, lost=True).model_dump()

    def repeats_follow(self) -> bool:
        """Whether repeats follow: the first run went well, and was not merely picked up after its end."""
        first = self.request.asked.repeats > 1 and not self.request.ended and not self.stops
        return first and not any(host.failures for host in self.hosts.values())

    def _spec_of_share(self, taken: takeover.TakenShare) -> Values:
        own = self.plan["nodes"][self.name]
        return {
            **self.host.spec,
            "engines": own["engines"],
            "share": taken.share.model_dump(),
            "mode": "accuracy",
            "target_qps": own["target_qps"] or "auto",
            "rate_attempts": 1,
        }

    @property
    def _commands(self) -> Commands:
        return self.request.origin.commands(self.request.run_id)

    def has_not_failed(self, name: str) -> bool:
        """Whether nothing has failed on a host so far."""
        return name in self.hosts and not self.hosts[name].failures

    def _states(self) -> list[str]:
        """The state of each LoadGen's run of the plan that was there at the start."""
        loadgens = self.request.plan.get("loadgens") or []
        return [self.hosts[name].state if name in self.hosts else "lost" for name in loadgens]
