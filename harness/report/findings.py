"""Findings: one sentence each on what was measured, what it may mean and what to do."""

from collections.abc import Iterator, Sequence
from enum import Enum

from harness.report.evidence.models import PUBLISHED_WEIGHTS
from harness.report.machines import Gpu, GpuUse, Telemetry, Usage
from harness.report.record import Attempt, EngineLoss, Figures, Finding, Node, Pair, Phase, Request, latency_limits

_OFTEN_FULL = 0.1
"""Part of the seconds in which all sequences ran, from which on their number may limit the speed."""

_SLOW_CONNECT_MS, _SLOW_CONNECT = 2.0, 0.1
"""A network is slow where a round trip takes longer than this, and than this part of TTFT's median."""
_SLOW_LOADING_S, _SLOW_LOADING_MB_PER_S = 30.0, 500.0
"""Reading weights is slow where it takes longer than this, and is slower than a SATA disk."""
_SMALL_SHARED_MEMORY_GIB = 1.0


_UNEVEN = 1.15
"""Nodes, or the GPUs of one, differ in speed from this ratio on."""


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
    WEIGHTS_UNKNOWN = (
        "The weights (SHA-256 {sha256}…) have Llama-3.1-8B's shape but are none whose hash is published, so these "
        "files do not prove that they are Llama-3.1-8B-Instruct; keep the source of the weights, or use published ones."
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
        "{waiting:.0f} requests waited on average while all {slots} sequences ran ({full} of {seconds} s) and the KV "
        "cache was at most {kv} % full, so the batch limit may slow the engine down; raise max_num_seqs."
    )
    KV_FULL = (
        "The KV cache of engine {engine} reached {kv:.0f} %, so sequences may be preempted and computed again; give it "
        "more memory, use an 8-bit format for weights or cache, or lower max_num_seqs to about {running:.0f}."
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
        "{gpus}: throttled in {values} % of readings ({why}), and so ran below full speed; check cooling and power "
        "limit."
    )
    GPU_CLOCK_LOW = (
        "{gpus}: a clock of {values} MHz on average of {most:.0f} possible while busy, so power, heat or locked clocks "
        "may limit it; check nvidia-smi -q -d CLOCK,PERFORMANCE."
    )
    GPU_POWER_LIMITED = (
        "{gpus}: {values} W on average of {limit:.0f} W allowed, so power limits the clock; "
        "raise the power limit if card and cooling allow."
    )
    GPU_IDLE = (
        "{gpus}: {values} % busy on average, so something else was the limit; "
        "look at max_num_seqs, the target rate and the processor."
    )
    GPU_UNUSED = (
        "{gpus}: no engine used it, so the node can do more; use harness_engines: auto, and a tensor_parallel that "
        "divides the number of GPUs."
    )
    GPU_UNEVEN = (
        "The engine of GPU {fast} was {ratio:.2f} times as fast as that of GPU {slow}; compare their clocks, PCIe "
        "links and cooling, and what else runs there."
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
        "Opening a connection to {slow} took {connect:.1f} ms at least, and TTFT p50 through it is {much:.0f} ms, so "
        "the network between LoadGen and this node adds to every request: check route and link, or run LoadGen nearer."
    )
    SLOW_LOADING = (
        "An engine read its weights for {seconds:.0f} s at {rate:.0f} MB/s, which every start waits for; keep weights "
        "and data on a fast local disk (NVMe)."
    )
    SHARED_MEMORY = (
        "In this {container} container /dev/shm has {size:.2f} GiB, and an engine's processes exchange data through "
        "it; enlarge it (shared_memory on a cluster, --shm-size of a container) before an engine uses several GPUs."
    )
    TELEMETRY_GAPS = (
        "Telemetry has a gap of {gap:.0f} s, so peaks in it are unknown; the machine may have been too busy to read it."
    )
    WARNING = "The run logged a warning, so treat its figures with caution: {warning}."
    TELEMETRY_COST = (
        "Telemetry used {cost:.1f} % of one core, enough to affect the figures; read fewer engines on this host."
    )

    def finding(self, node: str | None = None, **facts: object) -> Finding:
        """The finding with its facts filled in, about one node or about all together (None)."""
        return Finding(code=self.name, node=node, sentence=self.value.format(**facts))


def warned(node: str, warnings: Sequence[str]) -> tuple[Finding, ...]:
    """What the run of a node's LoadGen has warned of."""
    return tuple(Advice.WARNING.finding(node, warning=warning) for warning in warnings)


def find(
    request: Request,
    together: Figures,
    nodes: Sequence[Node],
    pair: Pair | None,
    phases: Sequence[Phase],
    attempts: Sequence[Attempt],
    losses: Sequence[EngineLoss],
    shared_machine: bool,
    real_model: bool,
) -> tuple[Finding, ...]:
    """All findings of one benchmark, from its figures alone; `real_model`: it has Llama-3.1-8B's shape."""
    findings: list[Finding] = []
    if shared_machine and len(nodes) > 1:
        findings.append(Advice.SHARED_MACHINE.finding())
    if real_model:
        findings += _weights(nodes)
    findings += _overload(request, together, nodes, phases, attempts, losses)
    findings += _rates(request, together, nodes)
    for node in nodes:
        findings += [
            Advice.NOT_TUNED.finding(node.name, engine=engine.name)
            for engine in node.engines
            if engine.kind == "deepspeed"
        ]
        findings += _start(node)
        findings += _steadiness(node)
        findings += _batching(request, node)
        findings += _gpu(node)
        findings += _telemetry(node.name, node.telemetry)
    for node in nodes[:1] if shared_machine else nodes:
        findings += _machine(node.name, node.telemetry)
    findings += _between(nodes, pair, shared_machine)
    findings += _client(request, phases, nodes)
    return tuple(findings)


def _weights(nodes: Sequence[Node]) -> Iterator[Finding]:
    hashes = {node.machine.model_sha256 for node in nodes if node.machine.model_sha256} - {PUBLISHED_WEIGHTS}
    for sha256 in sorted(hashes):
        yield Advice.WEIGHTS_UNKNOWN.finding(sha256=sha256[:12])


def _slots(node: Node) -> int | None:
    sizes = [engine.max_num_seqs for engine in node.engines]
    return sum(size for size in sizes if size) if sizes and all(sizes) else None


def _overload(
    request: Request,
    together: Figures,
    nodes: Sequence[Node],
    phases: Sequence[Phase],
    attempts: Sequence[Attempt],
    losses: Sequence[EngineLoss],
) -> Iterator[Finding]:
    limits = latency_limits(request)
    if limits is None:
        return
    targets = {phase.node: phase.target_qps for phase in phases if phase.mode == "performance"}
    last = {attempt.node: attempt for attempt in attempts}
    lost = {loss.loadgen for loss in losses if loss.judged and loss.mode == "performance"}
    for node, figures in [(None, together), *((node.name, node.figures) for node in nodes if len(nodes) > 1)]:
        # In a fleet one node's LoadGen sends to all, so that its rate says nothing of this node.
        loadgens = list(targets) if node is None else [node] if request.topology == "per_node" else []
        judged = [last[loadgen] for loadgen in loadgens if loadgen in last]
        if lost.intersection(loadgens) or any(attempt.engine_lost for attempt in judged):
            continue  # the rate is not why it was slow
        rates = [targets.get(loadgen) or 0.0 for loadgen in loadgens]
        rate, target = figures.samples_per_s, figures.scheduled_samples_per_s or (sum(rates) if all(rates) else None)
        early = any(attempt.ended_early for attempt in judged)
        pairs = zip((figures.ttft, figures.tpot), limits, strict=True)
        broken = early or any(latency and latency.p99_ms > limit for latency, limit in pairs)
        seconds = figures.seconds or 0.0
        # What was in flight when an attempt was ended was sent, and never answered.
        in_flight = figures.end_to_end.p50_ms / 1e3 / seconds if early and figures.end_to_end and seconds else 0.0
        # In a short run that held its limits the time until the last answer is what makes the rate lower.
        if rate and target and rate < 0.9 * target * (1 - in_flight) and (broken or seconds >= 20):
            yield Advice.TARGET_TOO_HIGH.finding(node, rate=rate, target=target)


def _rates(request: Request, together: Figures, nodes: Sequence[Node]) -> Iterator[Finding]:
    limits = latency_limits(request)
    if limits is None:
        return
    ttft_limit, tpot_limit = limits
    searched = request.target_qps == "peak"  # for the rate at the limit, so that being near it is no news
    for metric, latency, limit in (("TTFT", together.ttft, ttft_limit), ("TPOT", together.tpot, tpot_limit)):
        if latency and not searched and 0.85 * limit <= latency.p99_ms <= limit:
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
    if (cache := usage.fullest_cache) and cache.percent_peak >= 95:
        yield Advice.KV_FULL.finding(node.name, engine=cache.engine, kv=cache.percent_peak, running=cache.running_mean)
    elif (full := usage.full) and (full.waiting_mean or 0) >= 1 and full.seconds >= _OFTEN_FULL * usage.running.seconds:
        share = "–" if full.kv_cache_percent_peak is None else f"{full.kv_cache_percent_peak:.0f}"
        yield Advice.BATCH_LIMITED.finding(
            node.name,
            waiting=full.waiting_mean,
            slots=slots,
            full=full.seconds,
            seconds=usage.running.seconds,
            kv=share,
        )
    elif (
        request.scenario == "offline"
        and usage.running.seconds >= 20
        and usage.waiting.mean + usage.running.mean < slots / 2
    ):
        yield Advice.BATCH_EMPTY.finding(node.name, running=usage.running.mean, slots=slots)


def _start(node: Node) -> Iterator[Finding]:
    seconds, rate = node.weights_load_s, node.weights_load_mb_per_s
    if seconds and rate and seconds > _SLOW_LOADING_S and rate < _SLOW_LOADING_MB_PER_S:
        yield Advice.SLOW_LOADING.finding(node.name, seconds=seconds, rate=rate)
    size, container = node.machine.host.get("shared_memory_gib"), node.machine.host.get("container")
    if container and isinstance(size, float | int) and size < _SMALL_SHARED_MEMORY_GIB:
        yield Advice.SHARED_MEMORY.finding(node.name, container=container, size=size)


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
    """What stands out of the node's GPUs, each judged by itself; those with the same finding share a sentence."""
    with_engines = any(gpu.engines for gpu in node.gpus)
    if unused := [gpu for gpu in node.gpus if with_engines and not gpu.engines]:
        yield Advice.GPU_UNUSED.finding(node.name, gpus=_named(unused))
    busy = [gpu for gpu in node.gpus if gpu.util_percent and gpu not in unused]
    if throttled := [(gpu, gpu.throttled_percent) for gpu in busy if (gpu.throttled_percent or 0) >= 1]:
        why = ", ".join(sorted({reason for gpu, _ in throttled for reason in gpu.throttle_reasons}))
        yield _of_gpus(Advice.GPU_THROTTLED, node, throttled, why=why)
    clocks = [(gpu, gpu.sm_clock_mhz.mean, _card(node, gpu).sm_clock_max_mhz) for gpu in busy if gpu.sm_clock_mhz]
    slow = [(gpu, clock, most) for gpu, clock, most in clocks if most and _mean(gpu.util_percent) >= 70]
    if slow := [(gpu, clock, most) for gpu, clock, most in slow if clock < 0.85 * most]:
        yield _of_gpus(Advice.GPU_CLOCK_LOW, node, [one[:2] for one in slow], most=min(most for *_, most in slow))
    powers = [(gpu, gpu.power_w.mean, _card(node, gpu).power_limit_w) for gpu in busy if gpu.power_w]
    if limited := [(gpu, power, limit) for gpu, power, limit in powers if limit and power >= 0.97 * limit]:
        limit = min(limit for *_, limit in limited)
        yield _of_gpus(Advice.GPU_POWER_LIMITED, node, [one[:2] for one in limited], limit=limit)
    if idle := [(gpu, _mean(gpu.util_percent)) for gpu in busy if _mean(gpu.util_percent) < 60]:
        yield _of_gpus(Advice.GPU_IDLE, node, idle)
    speeds = sorted((gpu.samples_per_s, gpu.number, gpu.engines) for gpu in node.gpus if gpu.samples_per_s)
    if len({engines for *_, engines in speeds}) > 1 and speeds[-1][0] > _UNEVEN * speeds[0][0]:
        ratio = speeds[-1][0] / speeds[0][0]
        yield Advice.GPU_UNEVEN.finding(node.name, fast=speeds[-1][1], slow=speeds[0][1], ratio=ratio)


def _of_gpus(advice: Advice, node: Node, measured: Sequence[tuple[GpuUse, float | None]], **facts: object) -> Finding:
    """A finding about several GPUs, with the range of what was measured of them."""
    values = sorted({f"{value:.0f}": value for _, value in measured if value is not None}.values())
    shown = f"{values[0]:.0f}" if len(values) == 1 else f"{values[0]:.0f} to {values[-1]:.0f}"
    return advice.finding(node.name, gpus=_named([gpu for gpu, _ in measured]), values=shown, **facts)


def _named(gpus: Sequence[GpuUse]) -> str:
    return f"GPU{'' if len(gpus) == 1 else 's'} {', '.join(str(gpu.number) for gpu in gpus)}"


def _mean(usage: Usage | None) -> float:
    return usage.mean if usage else 0.0


def _card(node: Node, gpu: GpuUse) -> Gpu:
    cards = node.machine.gpus
    return cards[gpu.number] if gpu.number < len(cards) else Gpu.model_validate(dict.fromkeys(Gpu.model_fields))


def _between(nodes: Sequence[Node], pair: Pair | None, shared_machine: bool) -> Iterator[Finding]:
    if pair and pair.finished_apart_s > max(3.0, 0.1 * pair.makespan_s):
        percent = 100 * pair.finished_apart_s / pair.makespan_s
        yield Advice.FINISHED_APART.finding(apart=pair.finished_apart_s, percent=percent)
    speeds = sorted((node.figures.samples_per_s, node.name) for node in nodes if node.figures.samples_per_s)
    if len(speeds) > 1 and not shared_machine and speeds[-1][0] > _UNEVEN * speeds[0][0]:
        ratio = speeds[-1][0] / speeds[0][0]
        yield Advice.UNEVEN_NODES.finding(fast=speeds[-1][1], slow=speeds[0][1], ratio=ratio)
    for node in nodes:
        connect, ttft = node.connect_ms, node.figures.ttft
        if connect and ttft and connect > _SLOW_CONNECT_MS and connect > _SLOW_CONNECT * ttft.p50_ms:
            yield Advice.NETWORK_LATENCY.finding(slow=node.name, connect=connect, much=ttft.p50_ms)


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
