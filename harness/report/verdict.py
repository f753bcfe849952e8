"""VALID, UNOFFICIAL or INVALID, with every reason.

A broken rule or a failure is INVALID. A rule that a smoke test cannot meet is UNOFFICIAL.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.report import losses
from harness.report.accuracy_rules import accuracy, few, is_real
from harness.report.attempts import Load, attempt_reasons
from harness.report.compliance_rules import compliance
from harness.report.evidence import disagreements
from harness.report.input_models import ModelFacts
from harness.report.load_inputs import Engine, Inputs, LoadGenRun
from harness.report.logs import LoadGenLog
from harness.report.record import EngineLoss, Level, Reason, Verdict
from harness.report.rules import Rule
from harness.scoring.scores import Score
from harness.spec import (
    FULL_SAMPLES,
    LOADGEN_SEEDS,
    LOADGEN_VERSION,
    MAX_MODEL_LEN,
    RULE_MIN_DURATION_S,
    SAMPLING_SEED,
    Spec,
    unverified,
)

ORDER = {Level.INVALID: 0, Level.UNOFFICIAL: 1, Level.VALID: 2}


def judge(inputs: Inputs, score: Score | None, loads: Mapping[str, Load], lost: Sequence[EngineLoss] = ()) -> Verdict:
    """Judge one benchmark.

    Args:
        inputs: its files.
        score: the accuracy of all shares merged; None when nothing was scored.
        loads: per LoadGen host, what its performance journal holds.
        lost: the engines that runs lost.
    """
    reasons: list[Reason] = []
    reasons += _completeness(inputs)
    reasons += disagreements(inputs)
    for loadgen in inputs.loadgens:
        reasons += _loadgen_run(loadgen, loads.get(loadgen.host, Load()))
    reasons += accuracy(inputs, score)
    reasons += compliance(inputs)
    reasons += losses.reasons(lost)
    reasons += losses.taken_over(inputs)
    for engine in inputs.engines:
        noted = any(loss.judged and (loss.node, loss.engine) == (engine.node, engine.file.name) for loss in lost)
        reasons += _engine(engine, noted)
    reasons += _equality(inputs)
    reasons += _model(inputs)
    if inputs.spec:
        reasons += _request(inputs, inputs.spec)
    unique = sorted(dict.fromkeys(reasons), key=lambda reason: ORDER[reason.level])
    level = unique[0].level if unique else Level.VALID
    return Verdict(level=level, reasons=tuple(unique))


def _completeness(inputs: Inputs) -> Iterator[Reason]:
    lost = losses.lost_nodes(inputs)
    broken = {failure.host for failure in inputs.failures} | lost
    for failure in inputs.failures:
        if failure.host in lost:
            continue  # the run went on without it, and says so
        yield Rule.RUN_FINISHED.reason(node=failure.host, phase=failure.phase, reason=failure.reason, log=failure.log)
    delivered = {loadgen.host for loadgen in inputs.loadgens}
    planned = inputs.plan.loadgens if inputs.plan else ()
    missing = [host for host in planned if host not in delivered]
    if inputs.plan:
        missing += sorted(set(inputs.nodes) - {engine.node for engine in inputs.engines} - set(missing))
    unplanned = sorted(delivered - set(planned)) if inputs.plan else []
    if unplanned:
        yield Rule.SAME_RUN.reason(
            file="plan.json", what="loadgens", value=", ".join(planned) or "none", rule=", ".join(sorted(delivered))
        )
    for host in missing:
        if host not in broken:
            yield Rule.NODES_PRESENT.reason(node=host)
    if not inputs.loadgens and not missing and not broken:
        yield Rule.NODES_PRESENT.reason(node="every node")
    for loadgen in inputs.loadgens:
        status = loadgen.status
        if status and not loadgen.finished:
            broken.add(loadgen.host)
            yield Rule.RUN_FINISHED.reason(
                node=loadgen.host, phase=status.phase, reason=status.reason or f"state {status.state}", log=status.log
            )
        if loadgen.host not in broken:
            for problem in loadgen.problems:
                yield Rule.FILES_WHOLE.reason(what=f"{loadgen.host}: {problem}")
    for problem in inputs.problems:
        yield Rule.FILES_WHOLE.reason(what=problem)


def _loadgen_run(loadgen: LoadGenRun, load: Load) -> Iterator[Reason]:
    spec, node = loadgen.spec, loadgen.host
    if failures := loadgen.outcome.failures:
        first = failures[0]
        yield Rule.NO_FAILED_SAMPLES.reason(
            node=node, mode=first.get("mode"), count=len(failures), first=first.get("qsl_idx"), why=first.get("reason")
        )
    for mode, part in (("performance", loadgen.outcome.performance), ("accuracy", loadgen.outcome.accuracy)):
        if part and part.one_token_answers:
            yield Rule.ONE_TOKEN.reason(
                node=node, mode=mode, count=len(part.one_token_answers), which=few(part.one_token_answers)
            )
        partial = mode == "performance" and loadgen.last_attempt and loadgen.last_attempt.ended_early
        if part and part.samples != part.issued and not partial:
            yield Rule.NO_LOST_SAMPLES.reason(node=node, mode=mode, issued=part.issued, done=part.samples)
    for log in (loadgen.performance, *loadgen.interrupted, loadgen.accuracy):
        if log and spec:
            yield from _loadgen(node, log, spec)
    if loadgen.performance and spec:
        size = spec.window.stop - spec.window.start
        yield from _performance(node, loadgen.performance, spec)
        if load.distinct_samples < size:
            yield Rule.PERFORMANCE_COVERAGE.reason(node=node, count=load.distinct_samples, rule=size)
    yield from attempt_reasons(loadgen, load)
    if loadgen.accuracy and not (loadgen.path / "accuracy" / "score.json").exists():
        yield Rule.ACCURACY_SCORED.reason(node=node)
    if loadgen.score and loadgen.score.punkt is False:
        yield Rule.PUNKT.reason(node=node)
    if (resumed := loadgen.accuracy_resumed) and spec:
        times = "once" if len(resumed) == 1 else f"{len(resumed)} times"
        size = spec.window.stop - spec.window.start
        yield Rule.RESUMED.reason(node=node, times=times, kept=resumed[-1].kept, samples=size)


def _loadgen(node: str, log: LoadGenLog, spec: Spec) -> Iterator[Reason]:
    if log.num_errors:
        errors = "; ".join(f"{message} ({count} times)" for message, count in log.errors)
        yield Rule.LOADGEN_ERRORS.reason(node=node, mode=log.mode, count=log.num_errors, errors=errors)
    rules: list[tuple[str, Any, Any]] = [
        ("version", log.loadgen_version, LOADGEN_VERSION),
        ("seeds", log.seeds, LOADGEN_SEEDS),
        ("scenario", (log.scenario or "").lower(), "offline" if spec.scenario.ttft_limit_ms is None else "server"),
    ]
    if spec.scenario.ttft_limit_ms is not None:
        rules += [
            ("TTFT limit in ms", log.ttft_limit_ms, spec.scenario.ttft_limit_ms),
            ("TPOT limit in ms", log.tpot_limit_ms, spec.scenario.tpot_limit_ms),
        ]
    for what, value, rule in rules:
        if value != rule:
            yield Rule.LOADGEN_RULES.reason(node=node, what=f"{what} ({log.mode})", value=value, rule=rule)


def _performance(node: str, log: LoadGenLog, spec: Spec) -> Iterator[Reason]:
    """LoadGen's own result: each cause of an INVALID is named; a cause that only a smoke test has is UNOFFICIAL."""
    full = spec.samples == FULL_SAMPLES
    size = spec.window.stop - spec.window.start
    reasons: list[Reason] = []
    if log.latency_limits_met is False or _over_limit(log):
        reasons.append(Rule.LATENCY_LIMITS.reason(node=node, why=_over_limit(log) or log.invalid_reason))
    elif log.early_stopping_met is False:
        rule = Rule.EARLY_STOPPING if full else Rule.EARLY_STOPPING_SUBSET
        reasons.append(rule.reason(node=node, count=log.samples, short=log.queries_short))
    if log.min_duration_met is False:
        reasons.append(Rule.MIN_DURATION.reason(node=node, minimum=(log.min_duration_ms or 0) / 1e3))
    if log.min_queries_met is False or (log.samples or 0) < size:
        reasons.append(Rule.QUERY_COUNT.reason(node=node, count=log.samples, rule=max(size, log.min_query_count or 0)))
    if log.validity != "VALID" and not reasons:
        reasons.append(Rule.LOADGEN_RESULT.reason(node=node, validity=log.validity, why=log.invalid_reason))
    yield from reasons
    minimum_s = (log.min_duration_ms or 0) / 1e3
    if minimum_s < RULE_MIN_DURATION_S:
        yield Rule.SHORT.reason(minimum=minimum_s, rule=RULE_MIN_DURATION_S)


def _over_limit(log: LoadGenLog) -> str:
    # As LoadGen compares. The official checker refuses a percentile that equals its limit, too (submission rules).
    pairs = (("TTFT", log.ttft, log.ttft_limit_ms), ("TPOT", log.tpot, log.tpot_limit_ms))
    return " and ".join(
        f"{name} p99 is {latency.p99_ms:,.0f} ms of {limit:,.0f} ms allowed"
        for name, latency, limit in pairs
        if latency and limit and latency.p99_ms > limit
    )


def _engine(engine: Engine, noted: bool) -> Iterator[Reason]:
    """An engine's settings, and that it lived to the end; `noted`: a run has noted its loss."""
    name, verified = f"{engine.node}/{engine.file.name}", engine.file.verified
    if engine.file.state not in ("ready", "stopped") and not noted:
        failed = f"the engine failed: {engine.file.reason or '–'}"
        other = f"the engine's state is {engine.file.state}, neither ready nor stopped"
        yield Rule.ENGINE_ALIVE.reason(engine=name, what=failed if engine.file.state == "failed" else other)
        return
    if verified.get("enable_prefix_caching"):
        yield Rule.PREFIX_CACHING.reason(engine=name)
    if verified.get("speculative_decoding"):
        yield Rule.SPECULATIVE.reason(engine=name)
    length = verified.get("max_model_len")
    if length is not None and length < MAX_MODEL_LEN:
        yield Rule.CONTEXT_LENGTH.reason(engine=name, value=length, rule=MAX_MODEL_LEN)
    weights = ["weights"] if engine.file.machine is None else []
    hidden = unverified(engine.file.kind, engine.file.config.get("dtype"), verified)
    unknown = sorted({*engine.file.unverified, *weights, *hidden})
    if unknown:
        yield Rule.UNVERIFIED.reason(engine=name, what=", ".join(unknown))


def _equality(inputs: Inputs) -> Iterator[Reason]:
    """All engines must have run the same software; LoadGens must have read the same samples."""
    hosts = {loadgen.host: loadgen.manifest.machine for loadgen in inputs.loadgens}
    # What serves an endpoint is not known; where a LoadGen ran on its node, that machine is.
    machines = {
        f"{engine.node}/{engine.file.name}": engine.file.machine or hosts.get(engine.node) for engine in inputs.engines
    }
    required: dict[str, dict[str, str | None]] = {
        "weights": {name: machine.model_sha256 if machine else None for name, machine in machines.items()},
        "environment": {name: machine.environment_sha256 if machine else None for name, machine in machines.items()},
        "engine versions": {
            f"{engine.node}/{engine.file.name}": _versions(engine.file.version) for engine in inputs.engines
        },
        "samples": {loadgen.host: loadgen.manifest.machine.samples_sha256 for loadgen in inputs.loadgens},
    }
    # An image or a driver that no node has is no difference; one that only some have is.
    optional: dict[str, dict[str, str | None]] = {
        "image": {name: machine.image_digest for name, machine in machines.items() if machine},
        "driver": {name: machine.driver for name, machine in machines.items() if machine},
    }
    for what, values in {**required, **optional}.items():
        different = set(values.values()) - (set() if what in optional else {None})
        if len(different) > 1:
            shown = ", ".join(f"{node}: {_short(value)}" for node, value in values.items())
            yield Rule.NODES_ALIKE.reason(what=what, values=shown)
    unknown = [what for what, values in required.items() if len(values) > 1 and None in values.values()]
    if unknown:
        yield Rule.NODES_UNVERIFIED.reason(what=" and ".join(unknown))


def _model(inputs: Inputs) -> Iterator[Reason]:
    """What the engines served; of an endpoint and of an undescribed engine only the LoadGen's host knows."""
    models = [engine.file.served for engine in inputs.engines if engine.file.machine is not None]
    models += [loadgen.manifest.model for loadgen in inputs.loadgens]
    others = [model for model in models if not is_real(model)]
    if others:
        yield Rule.TINY_MODEL.reason(model=_describe(others[0]))


def _request(inputs: Inputs, spec: Spec) -> Iterator[Reason]:
    if spec.samples < FULL_SAMPLES:
        yield Rule.SUBSET.reason(count=f"{spec.samples:,}", rule=f"{FULL_SAMPLES:,}")
    if missing := [mode for mode in ("performance", "accuracy") if mode not in spec.mode.runs]:
        yield Rule.BOTH_MODES.reason(missing=" and no ".join(missing))
    own = [loadgen for loadgen in inputs.loadgens if not loadgen.takes_over]
    issuing = max(len(inputs.plan.loadgens) if inputs.plan else 0, len(own))
    if issuing > 1:
        yield Rule.SUMMED_LOADGENS.reason(count=issuing)
    if spec.seed != SAMPLING_SEED:
        yield Rule.SAMPLING_SEED.reason(value=spec.seed, rule=SAMPLING_SEED)


def _describe(model: ModelFacts) -> str:
    if model.sandbox:
        return "the sandbox's tiny Llama, with answers of its own as data set"
    return model.name or "unknown"


def _versions(version: Mapping[str, str | None]) -> str | None:
    return " ".join(f"{name} {value}" for name, value in sorted(version.items())) or None


def _short(value: str | None) -> str:
    if value is None:
        return "–"
    return value[:12] if len(value) == 64 else value
