"""Findings: one sentence each on what was measured, what it may mean and what to do."""

from collections.abc import Iterator, Sequence
from enum import Enum

from harness.report.machines import Telemetry
from harness.report.record import Figures, Finding, Node, Pair, Phase, Request, latency_limits


class Advice(Enum):
    """Name = the finding's code, value = its sentence."""

    SHARED_MACHINE = (
        "The nodes share one machine's cores and memory, so their speed together and their efficiency as a pair mean "
        "nothing; measure efficiency on separate machines."
    )
    NOT_TUNED = (
        "Engine {engine} is DeepSpeed behind a plain adapter and is not tuned: samples wait for a whole batch to end, "
        "so its figures are not the best that DeepSpeed can do; do not quote them as such."
    )
    TARGET_TOO_HIGH = (
        "The engines answered {rate:.2f} samples/s of the {target:.2f} that were sent, so requests queued up; "
        "lower target_qps, or, where it was auto, calibrate longer (limits.calibration_s)."
    )
    TARGET_TOO_LOW = (
        "The engines were mostly idle: on average {running:.1f} of {slots} sequences ran and TTFT p99 was "
        "{ttft:.0f} ms of {limit:.0f} allowed, so the speed shows the target rate and not the machine; "
        "raise target_qps, or let target_qps=peak search for the highest rate."
    )
    NEAR_LIMIT = (
        "{metric} p99 is {value:.0f} ms of {limit:.0f} allowed, so a slightly busier run may break the limit; "
        "lower target_qps by a few percent for a run that must hold."
    )
    NOT_STEADY = (
        "At equal load an output token took {before:.1f} ms in the first half of the performance run and {after:.1f} "
        "ms in the second ({change:+.1f} %), so the engine did not run steadily; look for throttling, for other "
        "programs on the machine, and whether it had warmed up."
    )
    BATCH_LIMITED = (
        "{waiting:.0f} requests waited on average while all {slots} sequences ran and the KV cache was at most "
        "{kv:.0f} % full, so the batch limit may slow the engine down; raise max_num_seqs."
    )
    KV_FULL = (
        "The KV cache reached {kv:.0f} %, so sequences may be preempted and computed again; give it more memory, "
        "use an 8-bit format for weights or cache, or lower max_num_seqs to about {running:.0f}."
    )
    BATCH_EMPTY = (
        "On average {running:.1f} of {slots} sequences ran and nothing waited, so the engine was not kept full; "
        "raise max_in_flight above max_num_seqs, or lower max_num_seqs to leave more memory for the cache."
    )
    MEMORY_SHORT = (
        "Memory reached {used:.1f} of {total:.1f} GiB, so the machine may swap or OOM-kill the engine; "
        "lower kv_cache_gib or stop other programs."
    )
    GPU_THROTTLED = (
        "A GPU was throttled in {percent:.0f} % of readings ({why}), so it ran slower than it can; "
        "check its cooling and power limit."
    )
    GPU_CLOCK_LOW = (
        "The GPU clock was {clock:.0f} MHz on average of {most:.0f} possible while the GPU was {util:.0f} % busy, "
        "so power, heat or locked clocks may limit it; check nvidia-smi -q -d CLOCK,PERFORMANCE."
    )
    GPU_POWER_LIMITED = (
        "The GPU drew {power:.0f} W on average of {limit:.0f} W allowed, so power limits its clock; "
        "raise the power limit if the card and its cooling allow."
    )
    GPU_IDLE = (
        "GPUs were {util:.0f} % busy on average, so something else was the limit; "
        "look at max_num_seqs, the target rate and the processor."
    )
    CPU_BOUND = (
        "All processor cores were {cpu:.0f} % busy, so the processor may be the limit; "
        "on a node with a GPU give the engine more cores, on one without it is the engine itself that computes."
    )
    CLIENT_BUSY = (
        "Issuing samples took {cores:.2f} processor cores of the one it can use, so the client may be the limit and "
        "latency may include its delay; run fewer requests at once or give the LoadGen host a faster core."
    )
    ENGINES_FULL = (
        "Samples waited up to {queue:.0f} ms (p99) in the client for an engine with room, of a TTFT of {ttft:.0f} ms, "
        "so the engines were full at times; lower target_qps, or raise max_num_seqs."
    )
    UNEVEN_NODES = (
        "{fast} was {ratio:.2f} times as fast as {slow}; where their hardware is the same, compare clocks, drivers and "
        "other load, and never split samples equally."
    )
    FINISHED_APART = (
        "The nodes finished {apart:.0f} s apart ({percent:.0f} % of the run), so the faster ones were idle; "
        "calibrate longer (limits.calibration_s), or use topology fleet, which balances the load itself."
    )
    NETWORK_LATENCY = (
        "TTFT p50 through {slow} is {much:.0f} ms and through {fast} {less:.0f} ms; if {slow} is the remote one, the "
        "network may add the difference: check the route and the link, else the load of {slow}."
    )
    TELEMETRY_GAPS = (
        "Telemetry has a gap of {gap:.0f} s, so peaks in it are unknown; the machine may have been too busy to read it."
    )
    TELEMETRY_COST = (
        "Telemetry used {cost:.1f} % of one core, enough to affect the figures; read fewer engines on this host."
    )

    def finding(self, node: str | None = None, **facts: object) -> Finding:
        """The finding with its facts filled in, about one node or about all together (None)."""
        return Finding(code=self.name, node=node, sentence=self.value.format(**facts))


def find(
    request: Request,
    together: Figures,
    nodes: Sequence[Node],
    pair: Pair | None,
    phases: Sequence[Phase],
    shared_machine: bool,
) -> tuple[Finding, ...]:
    """All findings of one benchmark, from its figures alone."""
    findings: list[Finding] = []
    if shared_machine and len(nodes) > 1:
        findings.append(Advice.SHARED_MACHINE.finding())
    findings += _rates(request, together, nodes)
    for node in nodes:
        findings += [
            Advice.NOT_TUNED.finding(node.name, engine=engine.name)
            for engine in node.engines
            if engine.kind == "deepspeed"
        ]
        findings += _steadiness(node)
        findings += _batching(request, node)
        findings += _gpu(node)
        findings += _telemetry(node.name, node.telemetry)
    for node in nodes[:1] if shared_machine else nodes:
        findings += _machine(node.name, node.telemetry)
    findings += _between(nodes, pair, shared_machine)
    findings += _client(request, phases, nodes)
    return tuple(findings)


def _slots(node: Node) -> int | None:
    sizes = [engine.max_num_seqs for engine in node.engines]
    return sum(size for size in sizes if size) if sizes and all(sizes) else None


def _rates(request: Request, together: Figures, nodes: Sequence[Node]) -> Iterator[Finding]:
    limits = latency_limits(request)
    if limits is None:
        return
    ttft_limit, tpot_limit = limits
    for node, figures in [(None, together), *((node.name, node.figures) for node in nodes if len(nodes) > 1)]:
        rate, target = figures.samples_per_s, figures.scheduled_samples_per_s
        if rate and target and rate < 0.9 * target and (figures.seconds or 0) >= 20:
            yield Advice.TARGET_TOO_HIGH.finding(node, rate=rate, target=target)
    for metric, latency, limit in (("TTFT", together.ttft, ttft_limit), ("TPOT", together.tpot, tpot_limit)):
        if latency and 0.85 * limit <= latency.p99_ms <= limit:
            yield Advice.NEAR_LIMIT.finding(metric=metric, value=latency.p99_ms, limit=limit)
    running = [node.telemetry.running.mean for node in nodes if node.telemetry.running]
    slots = [_slots(node) for node in nodes]
    if len(running) == len(nodes) and all(slots) and together.ttft:
        most = sum(slot or 0 for slot in slots)
        if sum(running) < 0.25 * most and together.ttft.p99_ms < 0.5 * ttft_limit and not _busy(nodes):
            yield Advice.TARGET_TOO_LOW.finding(
                running=sum(running), slots=most, ttft=together.ttft.p99_ms, limit=ttft_limit
            )


def _busy(nodes: Sequence[Node]) -> bool:
    """Whether some node's GPUs, or its processor where it has none, were busy most of the time."""
    readings = [node.telemetry.gpu_util_percent or node.telemetry.cpu_percent for node in nodes]
    return any(reading is not None and reading.mean >= 70 for reading in readings)


def _steadiness(node: Node) -> Iterator[Finding]:
    halves = node.steadiness
    if halves and not halves.steady:
        before, after = halves.first_half_tpot_ms, halves.second_half_tpot_ms
        yield Advice.NOT_STEADY.finding(node.name, before=before, after=after, change=halves.change_percent)


def _batching(request: Request, node: Node) -> Iterator[Finding]:
    usage, slots = node.telemetry, _slots(node)
    if not (usage.running and usage.waiting and slots):
        return
    kv = usage.kv_cache_percent
    if kv and kv.peak >= 95:
        yield Advice.KV_FULL.finding(node.name, kv=kv.peak, running=usage.running.mean)
    elif usage.waiting.mean >= 1 and usage.running.peak >= 0.95 * slots:
        yield Advice.BATCH_LIMITED.finding(
            node.name, waiting=usage.waiting.mean, slots=slots, kv=kv.peak if kv else 0.0
        )
    elif (
        request.scenario == "offline"
        and usage.running.seconds >= 20
        and usage.waiting.mean + usage.running.mean < slots / 2
    ):
        yield Advice.BATCH_EMPTY.finding(node.name, running=usage.running.mean, slots=slots)


def _machine(name: str, usage: Telemetry) -> Iterator[Finding]:
    if usage.memory_used_gib and usage.memory_total_gib and usage.memory_used_gib.peak > 0.92 * usage.memory_total_gib:
        yield Advice.MEMORY_SHORT.finding(name, used=usage.memory_used_gib.peak, total=usage.memory_total_gib)
    if usage.cpu_percent and usage.cpu_percent.mean >= 90:
        yield Advice.CPU_BOUND.finding(name, cpu=usage.cpu_percent.mean)


def _telemetry(name: str, usage: Telemetry) -> Iterator[Finding]:
    if usage.gap_s is not None and usage.gap_s > 5:
        yield Advice.TELEMETRY_GAPS.finding(name, gap=usage.gap_s)
    if usage.own_cost_cpu_percent is not None and usage.own_cost_cpu_percent > 5:
        yield Advice.TELEMETRY_COST.finding(name, cost=usage.own_cost_cpu_percent)


def _gpu(node: Node) -> Iterator[Finding]:
    usage, util = node.telemetry, node.telemetry.gpu_util_percent
    if util is None:
        return
    if usage.throttled_percent and usage.throttled_percent >= 1:
        why = ", ".join(usage.throttle_reasons)
        yield Advice.GPU_THROTTLED.finding(node.name, percent=usage.throttled_percent, why=why)
    most = [gpu.sm_clock_max_mhz for gpu in node.machine.gpus if gpu.sm_clock_max_mhz]
    if most and usage.gpu_sm_clock_mhz and util.mean >= 70 and usage.gpu_sm_clock_mhz.mean < 0.85 * min(most):
        yield Advice.GPU_CLOCK_LOW.finding(node.name, clock=usage.gpu_sm_clock_mhz.mean, most=min(most), util=util.mean)
    limits = [gpu.power_limit_w for gpu in node.machine.gpus if gpu.power_limit_w]
    if limits and usage.gpu_power_w and usage.gpu_power_w.mean >= 0.97 * min(limits):
        yield Advice.GPU_POWER_LIMITED.finding(node.name, power=usage.gpu_power_w.mean, limit=min(limits))
    if util.mean < 60:
        yield Advice.GPU_IDLE.finding(node.name, util=util.mean)


def _between(nodes: Sequence[Node], pair: Pair | None, shared_machine: bool) -> Iterator[Finding]:
    if pair and pair.finished_apart_s > max(3.0, 0.1 * pair.makespan_s):
        percent = 100 * pair.finished_apart_s / pair.makespan_s
        yield Advice.FINISHED_APART.finding(apart=pair.finished_apart_s, percent=percent)
    speeds = sorted((node.figures.samples_per_s, node.name) for node in nodes if node.figures.samples_per_s)
    if len(speeds) > 1 and not shared_machine and speeds[-1][0] > 1.15 * speeds[0][0]:
        ratio = speeds[-1][0] / speeds[0][0]
        yield Advice.UNEVEN_NODES.finding(fast=speeds[-1][1], slow=speeds[0][1], ratio=ratio)
    waits = sorted((node.figures.ttft.p50_ms, node.name) for node in nodes if node.figures.ttft)
    if (
        pair is None
        and not shared_machine
        and len(waits) > 1
        and waits[-1][0] > 2 * waits[0][0]
        and waits[-1][0] - waits[0][0] > 20
    ):
        yield Advice.NETWORK_LATENCY.finding(slow=waits[-1][1], much=waits[-1][0], fast=waits[0][1], less=waits[0][0])


def _client(request: Request, phases: Sequence[Phase], nodes: Sequence[Node]) -> Iterator[Finding]:
    for phase in phases:
        if phase.mode == "performance" and phase.client_cpu_cores and phase.client_cpu_cores >= 0.8:
            yield Advice.CLIENT_BUSY.finding(phase.node, cores=phase.client_cpu_cores)
    if request.scenario == "offline":
        return  # all samples are issued at once, so all but the first wait
    for node in nodes:
        queue, ttft = node.client_queue_p99_ms, node.figures.ttft
        if queue is not None and ttft and queue > 20 and queue > 0.2 * ttft.p99_ms:
            yield Advice.ENGINES_FULL.finding(node.name, queue=queue, ttft=ttft.p99_ms)
