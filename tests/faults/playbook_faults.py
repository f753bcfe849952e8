"""Faults of a benchmark: of the playbook, of a node, of the way between them."""

import os
import shutil
import signal
import time
from collections.abc import Callable

from tests.conftest import NODE_ENVIRONMENT
from tests.faults import disks
from tests.faults.ending import Expected, Fault
from tests.faults.playbooks import RUN, SAMPLES, Benchmark, OneBenchmark
from tests.faults.state_faults import DAMAGED
from tests.integration.conftest import until

LOST_AFTER = {"harness_lost_after_s": 15}
SANDBOX = NODE_ENVIRONMENT.parent / "sandbox"
UNJUDGED = {"harness_model": str(SANDBOX / "model"), "harness_dataset": str(SANDBOX / "cnn_eval.json")}
"""Without reference answers, which those of fake engines are not."""


def one_node(*words: str, within_s: float, rules: tuple[str, ...] = ("RUN_FINISHED",)) -> Expected:
    """One node fails, the other one finishes its share."""
    lost = "that node's share; the other one's results are complete"
    return Expected(exit_code=2, words=words, level="INVALID", broken=rules, within_s=within_s, lost=lost)


def picked_up(*words: str, within_s: float | None = None) -> Expected:
    """The run goes on, and the last call of the playbook brings its results."""
    return Expected(exit_code=0, words=words, level="UNOFFICIAL", within_s=within_s, complete=True)


def _interrupt(number: signal.Signals) -> Callable[[Benchmark], object]:
    def stop_and_pick_up(benchmark: Benchmark) -> None:
        benchmark.stop_playbook(number)
        benchmark.pick_up()

    return stop_and_pick_up


def _another_benchmark(benchmark: Benchmark) -> None:
    """Ctrl-C, another benchmark on the same node, which is refused, then the first one again."""
    benchmark.stop_playbook(signal.SIGINT)
    site = benchmark.site
    with benchmark.until_noticed():
        assert site.play("benchmark.yml", *benchmark.limit, mode="performance") == 2
    printed = " ".join(site.output().split())
    assert f"run {RUN} is not finished" in printed
    assert f"benchmark.yml -e run_id={RUN}" in printed
    assert f"playbooks/stop.yml -e run_id={RUN}" in printed
    benchmark.start()


def _cut_for_a_while(benchmark: Benchmark) -> None:
    mended_s = time.monotonic() + 6
    with benchmark.until_noticed():
        benchmark.cut_line()
        until(lambda: "no answer, trying again" in benchmark.site.output(), "the cut line")
    time.sleep(max(0.0, mended_s - time.monotonic()))
    benchmark.mend_line()


def _cut_for_long(benchmark: Benchmark) -> None:
    """Cut the line until the node counts as lost; when it is back the run has gone on."""
    benchmark.cut_line()
    assert benchmark.process.wait(400) == 2
    assert "has not answered for" in " ".join(benchmark.site.output().split())
    assert "playbooks/stop.yml" in benchmark.site.output()
    benchmark.mend_line()
    benchmark.start()


def _run_of(benchmark: Benchmark, node: str) -> int:
    return int(benchmark.site.status(node, RUN)["pid"])


def _suspend(benchmark: Benchmark) -> None:
    """Stop the run's process until it counts as silent, and a little longer."""
    pid, resumed_s = _run_of(benchmark, "node1"), time.monotonic() + 35
    with benchmark.until_noticed():
        os.kill(pid, signal.SIGSTOP)
        until(lambda: "silent: no heartbeat" in benchmark.site.output(), "the silence")
    time.sleep(max(0.0, resumed_s - time.monotonic()))
    os.kill(pid, signal.SIGCONT)


def _kill_engine(benchmark: Benchmark) -> None:
    benchmark.servers["node2"].process.kill()


def _lose_engine_host(benchmark: Benchmark) -> None:
    """Lose node2 for good: its engine, and the way there."""
    benchmark.cut_line("node2")
    _kill_engine(benchmark)


def _lose_loadgen_host(benchmark: Benchmark) -> None:
    """Lose node1 with its run and its engine until it counts as lost; then it is started again, and the run resumed."""
    benchmark.cut_line("node1")
    os.kill(_run_of(benchmark, "node1"), signal.SIGKILL)
    benchmark.servers["node1"].process.kill()
    with benchmark.until_noticed():
        until(lambda: "node1 has not answered for" in " ".join(benchmark.site.output().split()), "the loss")
    assert benchmark.process.wait(400) == 2
    benchmark.mend_line()
    benchmark.start_engine_again("node1")
    benchmark.start(resume=True, **UNJUDGED)


def _was_resumed(benchmark: Benchmark) -> None:
    (resumed,) = benchmark.site.read(RUN, "result.json")["resumed"]
    assert resumed["kept"] > 0 and resumed["kept"] + resumed["missing"] == SAMPLES, resumed


def _files_are_whole_again(benchmark: Benchmark) -> None:
    site = benchmark.site
    assert site.read(RUN, "request.json")["asked"]["samples"] == SAMPLES
    assert site.read(RUN, "plan.json")["loadgens"] == ["node1"]
    assert site.read(RUN, "failures.json") == []


def _damage_others(benchmark: Benchmark) -> None:
    """Ctrl-C; the requests and plans of other benchmarks are damaged; then the run is picked up."""
    benchmark.stop_playbook(signal.SIGINT)
    for name, content in DAMAGED.items():
        (benchmark.site.results / name).mkdir()
        for file in ("request.json", "plan.json"):
            (benchmark.site.results / name / file).write_bytes(content)
    benchmark.pick_up()


def _others_were_named(benchmark: Benchmark) -> None:
    """A pick-up names each folder once for its request, and a plan with --check for its plan, too."""
    site = benchmark.site
    folders = [site.results / name for name in DAMAGED]
    for times, more in ((1, ()), (2, ("--check",))):
        if more:
            assert site.play("benchmark.yml", *benchmark.limit, *more, mode="performance") == 0
        printed = "".join(site.output().split())
        for folder in folders:
            assert printed.count(f"itisskipped:lookinto{folder}") >= times, (folder, site.output())


def _lose_node(benchmark: Benchmark) -> None:
    """Lose node2 for good: its run, its engine, and the way there."""
    benchmark.cut_line("node2")
    os.kill(_run_of(benchmark, "node2"), signal.SIGKILL)
    _kill_engine(benchmark)


def _lose_run_and_engine_host(benchmark: Benchmark) -> None:
    """Kill the fleet's run on node1, and lose node2 for good; the run is resumed without it."""
    os.kill(_run_of(benchmark, "node1"), signal.SIGKILL)
    with benchmark.until_noticed():
        assert benchmark.process.wait(400) == 2
    _lose_engine_host(benchmark)
    benchmark.start(resume=True, **UNJUDGED)


def _no_failure_is_noted(benchmark: Benchmark) -> None:
    assert benchmark.site.read(RUN, "failures.json") == []


def _share_was_taken_over(benchmark: Benchmark) -> None:
    """Every sample of node2's share was answered on node1, and the verdict says so."""
    site = benchmark.site
    share = site.read(RUN, "plan.json")["nodes"]["node2"]["share"]
    assert f"node1 takes over samples {share['start']} to {share['stop'] - 1} of node2" in site.output()
    journal = site.lines(RUN, "nodes/node1/shares/node2/journal.jsonl")
    assert sorted(line["qsl_idx"] for line in journal) == list(range(share["start"], share["stop"]))
    assert {line["engine"] for line in journal} == {"node1"}
    codes = {reason["code"] for reason in site.read(RUN, "result.json")["verdict"]["reasons"]}
    assert "SHARE_TAKEN_OVER" in codes and not codes & {"RUN_FINISHED", "ACCURACY_COVERAGE", "NODES_PRESENT"}


def _share_of_lost_node_was_taken_over(benchmark: Benchmark) -> None:
    """Its engine, which nothing could stop, is there again with the node."""
    benchmark.mend_line()
    benchmark.start_engine_again("node2")
    _share_was_taken_over(benchmark)


PLAYBOOK_FAULTS = [
    *(
        Fault(
            f"playbook_{number.name}",
            f"the playbook is ended ({number.name}) while it watches",
            "the run goes on; the same command with its `run_id` watches it again and collects",
            OneBenchmark(inject=_interrupt(number)),
            picked_up(),
            long=True,
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    ),
    Fault(
        "two_benchmarks",
        "a second benchmark is started on a node that is busy",
        "refuses it and names the run, how to pick it up and how to stop it",
        OneBenchmark(inject=_another_benchmark),
        picked_up(within_s=30),
        long=True,
    ),
    Fault(
        "results_deleted",
        "the results folder is deleted during a run",
        "writes request and plan again, and fetches the files from the nodes",
        OneBenchmark(
            inject=lambda benchmark: shutil.rmtree(benchmark.site.results / RUN, ignore_errors=True),
            afterwards=_files_are_whole_again,
        ),
        picked_up(),
        long=True,
    ),
    Fault(
        "others_damaged",
        "the requests and plans of other benchmarks are empty, cut, binary or of another shape",
        "skips each and names its folder; the run is picked up, and another one is planned",
        OneBenchmark(inject=_damage_others, afterwards=_others_were_named),
        picked_up("it is skipped: look into"),
        long=True,
    ),
    Fault(
        "ssh_dropped",
        "the connection to the nodes is refused for 6 s",
        "says so and looks again until it is back",
        OneBenchmark(inject=_cut_for_a_while, over_ssh=True),
        picked_up("no answer, trying again: .*Connection refused", within_s=5),
        long=True,
    ),
    Fault(
        "ssh_lost",
        "the connection to the nodes is refused for longer than `harness_lost_after_s` (here 15 s)",
        "reports the node as lost and how to stop its run, which goes on; a later call with its `run_id` collects it, "
        "and the noted failure is gone",
        OneBenchmark(inject=_cut_for_long, over_ssh=True, settings=LOST_AFTER, afterwards=_no_failure_is_noted),
        Expected(exit_code=0, level="UNOFFICIAL", within_s=20, complete=True),
        long=True,
    ),
    Fault(
        "run_silent",
        "the process of a run is suspended for 35 s, as by the migration of a virtual machine",
        "shows the run as silent, with the age of its heartbeat; it goes on",
        OneBenchmark(inject=_suspend),
        picked_up("silent: no heartbeat for 3", within_s=35),
        long=True,
    ),
    Fault(
        "run_silent_for_ever",
        "the process of a run is suspended for ever",
        "shows the run as silent; after `harness_lost_after_s` (here 15 s), but at least 30 s, asks it to stop and "
        "waits for it",
        OneBenchmark(
            inject=lambda benchmark: os.kill(_run_of(benchmark, "node1"), signal.SIGSTOP), settings=LOST_AFTER
        ),
        Expected(
            exit_code=2,
            words=("it was silent for .* so it is asked to stop", "and was stopped"),
            level="INVALID",
            broken=("RUN_FINISHED",),
            within_s=35,
            lost="what was not answered yet; the answers so far are in the journal",
        ),
        long=True,
    ),
    Fault(
        "fleet_engine_host_lost",
        "fleet: a node with engines is lost, while the LoadGen of another one uses them",
        "moves its samples to the other engines and goes on; the verdict says when, why and how many",
        OneBenchmark(
            inject=_lose_engine_host,
            alone=False,
            topology="fleet",
            over_ssh=True,
            settings={**LOST_AFTER, "samples": SAMPLES // 2},
        ),
        Expected(
            exit_code=2,
            words=("engine node2 on node2 lost after ", "moved to other engines"),
            level="INVALID",
            broken=("ENGINE_ALIVE",),
            within_s=5,
            complete=True,
        ),
        long=True,
    ),
    Fault(
        "fleet_loadgen_host_lost",
        "fleet: the node of the LoadGen is lost in an accuracy run, and is back later",
        "reports the node as lost after `harness_lost_after_s` (here 15 s); with `resume=true` its run asks only for "
        "the answers that its journal lacks",
        OneBenchmark(
            inject=_lose_loadgen_host,
            alone=False,
            topology="fleet",
            over_ssh=True,
            settings={**LOST_AFTER, **UNJUDGED, "mode": "accuracy"},
            afterwards=_was_resumed,
        ),
        picked_up("the accuracy run was interrupted and resumed once", within_s=20),
        long=True,
    ),
    Fault(
        "fleet_resumed_without_host",
        "fleet: the run is killed (SIGKILL) in an accuracy run, and a node with engines is lost for good",
        "with `resume=true` the run goes on without that node, and asks only for the answers that its journal lacks; "
        "the verdict says when and why the engine was lost",
        OneBenchmark(
            inject=_lose_run_and_engine_host,
            alone=False,
            topology="fleet",
            over_ssh=True,
            settings={**LOST_AFTER, **UNJUDGED, "mode": "accuracy"},
            afterwards=_was_resumed,
        ),
        Expected(
            exit_code=2,
            words=("node2 is unreachable", "engine node2 on node2 lost after ", "was interrupted and resumed once"),
            level="UNOFFICIAL",
            within_s=60,
            complete=True,
        ),
        long=True,
    ),
    Fault(
        "node_lost_accuracy",
        "per_node: a node is lost in an accuracy run",
        "reports the node as lost after `harness_lost_after_s` (here 15 s); the other node takes that node's samples "
        "over after its own",
        OneBenchmark(
            inject=_lose_node,
            alone=False,
            over_ssh=True,
            settings={**LOST_AFTER, **UNJUDGED, "mode": "accuracy", "samples": 300},
            afterwards=_share_of_lost_node_was_taken_over,
        ),
        Expected(exit_code=2, words=("node1 takes over samples .* of node2",), level="UNOFFICIAL", within_s=20),
        long=True,
    ),
    Fault(
        "node_engine_killed",
        "per_node: a node's only engine is killed (SIGKILL)",
        "that node's run ends with the sample and the cause; the other one finishes",
        OneBenchmark(inject=_kill_engine, alone=False),
        one_node("on node2: ", within_s=10, rules=("RUN_FINISHED", "NO_FAILED_SAMPLES")),
        long=True,
    ),
    Fault(
        "node_engine_killed_accuracy",
        "per_node: a node's only engine is killed (SIGKILL) in an accuracy run",
        "the other node takes that node's samples over after its own",
        OneBenchmark(
            inject=_kill_engine,
            alone=False,
            settings={**UNJUDGED, "mode": "accuracy", "samples": 300},
            afterwards=_share_was_taken_over,
        ),
        Expected(exit_code=2, words=("node1 takes over samples .* of node2",), level="UNOFFICIAL", within_s=10),
        long=True,
    ),
    Fault(
        "node_engine_hangs",
        "per_node: a node's only engine never answers again",
        "that node's run ends after `stall_timeout_s` (here 4 s); the other one finishes",
        OneBenchmark(
            inject=lambda benchmark: benchmark.servers["node2"].set(faults={"hang": 1}),
            settings={"harness_limits": {"calibration_s": 2, "stall_timeout_s": 4}},
            alone=False,
        ),
        one_node("no sample finished for", "limits.stall_timeout_s = 4", within_s=12),
        long=True,
    ),
    Fault(
        "node_run_killed",
        "per_node: the process of a node's run is killed (SIGKILL)",
        "that node's run failed; the other one finishes",
        OneBenchmark(inject=lambda benchmark: os.kill(_run_of(benchmark, "node2"), signal.SIGKILL), alone=False),
        one_node("harness died", within_s=5),
        long=True,
    ),
    Fault(
        "node_disk_full",
        "per_node: a node's disk fills",
        "that node's run ends and says what to free; the other one finishes",
        OneBenchmark(
            inject=lambda benchmark: disks.fill(benchmark.site.folder / "node2"),
            small_disk=True,
            alone=False,
            afterwards=lambda benchmark: disks.mend(benchmark.site.folder / "node2"),
        ),
        one_node("the disk is full", within_s=10),
        long=True,
        root=True,
    ),
]
