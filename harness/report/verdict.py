"""VALID, UNOFFICIAL or INVALID, with every reason.

Something that went wrong is INVALID. A rule that a smoke run cannot meet is UNOFFICIAL.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.files import sha256_file
from harness.report.documents import ModelFacts
from harness.report.gates import accuracy, few, is_real
from harness.report.logs import LoadGenLog
from harness.report.record import Level, Reason, Verdict
from harness.report.rules import Rule
from harness.report.sources import Engine, Issuer, Sources
from harness.scoring.scores import Score
from harness.spec import (
    FULL_SAMPLES,
    LOADGEN_SEEDS,
    LOADGEN_VERSION,
    MAX_MODEL_LEN,
    RULE_MIN_DURATION_S,
    SAMPLING_SEED,
    Mode,
    Spec,
)

ORDER = {Level.INVALID: 0, Level.UNOFFICIAL: 1, Level.VALID: 2}


def judge(sources: Sources, score: Score | None, used: Mapping[str, int]) -> Verdict:
    """Judge one benchmark.

    Args:
        sources: its files.
        score: the accuracy of all shares merged; None when nothing was scored.
        used: per LoadGen host, how many different samples its performance journal holds.
    """
    reasons: list[Reason] = []
    reasons += _whole(sources)
    for issuer in sources.issuers:
        reasons += _issuer(issuer, used.get(issuer.host, 0))
    reasons += accuracy(sources, score)
    for engine in sources.engines:
        reasons += _engine(engine)
    reasons += _alike(sources)
    reasons += _model(sources)
    if sources.spec:
        reasons += _asked(sources, sources.spec)
    unique = sorted(dict.fromkeys(reasons), key=lambda reason: ORDER[reason.level])
    level = unique[0].level if unique else Level.VALID
    return Verdict(level=level, reasons=tuple(unique))


def _whole(sources: Sources) -> Iterator[Reason]:
    broken = {failure.host for failure in sources.failures}
    for failure in sources.failures:
        yield Rule.RUN_FINISHED.reason(node=failure.host, phase=failure.phase, reason=failure.reason, log=failure.log)
    delivered = {issuer.host for issuer in sources.issuers}
    planned = sources.plan.loadgens if sources.plan else ()
    missing = [host for host in planned if host not in delivered]
    if sources.plan:
        missing += sorted(set(sources.nodes) - {engine.node for engine in sources.engines} - set(missing))
    for host in missing:
        if host not in broken:
            yield Rule.NODES_PRESENT.reason(node=host)
    if not sources.issuers and not missing and not broken:
        yield Rule.NODES_PRESENT.reason(node="every node")
    for issuer in sources.issuers:
        status = issuer.status
        if status and status.state != "finished":
            broken.add(issuer.host)
            yield Rule.RUN_FINISHED.reason(
                node=issuer.host, phase=status.phase, reason=status.reason or f"state {status.state}", log=status.log
            )
        if issuer.host not in broken:
            for trouble in issuer.troubles:
                yield Rule.FILES_WHOLE.reason(what=f"{issuer.host}: {trouble}")
    for trouble in sources.troubles:
        yield Rule.FILES_WHOLE.reason(what=trouble)


def _issuer(issuer: Issuer, used: int) -> Iterator[Reason]:
    spec, node = issuer.spec, issuer.host
    if failures := issuer.outcome.failures:
        first = failures[0]
        yield Rule.NO_FAILED_SAMPLES.reason(
            node=node, mode=first.get("mode"), count=len(failures), first=first.get("qsl_idx"), why=first.get("reason")
        )
    for mode, part in (("performance", issuer.outcome.performance), ("accuracy", issuer.outcome.accuracy)):
        if part and part.one_token_answers:
            yield Rule.ONE_TOKEN.reason(
                node=node, mode=mode, count=len(part.one_token_answers), which=few(part.one_token_answers)
            )
        if part and part.samples != part.issued:
            yield Rule.NO_LOST_SAMPLES.reason(node=node, mode=mode, issued=part.issued, done=part.samples)
    for log in (issuer.performance, issuer.accuracy):
        if log and spec:
            yield from _loadgen(node, log, spec)
    if issuer.performance and spec:
        size = spec.window.stop - spec.window.start
        yield from _performance(node, issuer.performance, spec)
        if used < size:
            yield Rule.PERFORMANCE_COVERAGE.reason(node=node, count=used, rule=size)
    if issuer.accuracy and not (issuer.path / "accuracy" / "score.json").exists():
        yield Rule.ACCURACY_SCORED.reason(node=node)
    if issuer.score and issuer.score.punkt is False:
        yield Rule.PUNKT.reason(node=node)
    log_file = issuer.path / "accuracy" / "mlperf_log_accuracy.json"
    if (
        issuer.score
        and issuer.score.log_sha256
        and log_file.exists()
        and sha256_file(log_file) != issuer.score.log_sha256
    ):
        yield Rule.ACCURACY_LOG.reason(node=node)


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
    """LoadGen's own result: each cause of an INVALID is named; a cause that only a smoke run has is UNOFFICIAL."""
    full = spec.samples == FULL_SAMPLES
    size = spec.window.stop - spec.window.start
    found: list[Reason] = []
    if log.latency_limits_met is False:
        found.append(Rule.LATENCY_LIMITS.reason(node=node, why=_over_limit(log) or log.invalid_reason))
    elif log.early_stopping_met is False:
        rule = Rule.EARLY_STOPPING if full else Rule.EARLY_STOPPING_SUBSET
        found.append(rule.reason(node=node, count=log.samples, short=log.queries_short))
    if log.min_duration_met is False:
        found.append(Rule.MIN_DURATION.reason(node=node, asked=(log.min_duration_ms or 0) / 1e3))
    if log.min_queries_met is False or (log.samples or 0) < size:
        found.append(Rule.QUERY_COUNT.reason(node=node, count=log.samples, rule=max(size, log.min_query_count or 0)))
    if log.validity == "INVALID" and not found:
        found.append(Rule.LOADGEN_RESULT.reason(node=node, why=log.invalid_reason))
    yield from found
    asked_s = (log.min_duration_ms or 0) / 1e3
    if asked_s < RULE_MIN_DURATION_S:
        yield Rule.SHORT.reason(asked=asked_s, rule=RULE_MIN_DURATION_S)


def _over_limit(log: LoadGenLog) -> str:
    pairs = (("TTFT", log.ttft, log.ttft_limit_ms), ("TPOT", log.tpot, log.tpot_limit_ms))
    return " and ".join(
        f"{name} p99 is {seen.p99_ms:,.0f} ms of {limit:,.0f} ms allowed"
        for name, seen, limit in pairs
        if seen and limit and seen.p99_ms > limit
    )


def _engine(engine: Engine) -> Iterator[Reason]:
    name, seen = f"{engine.node}/{engine.file.name}", engine.file.verified
    if engine.file.state == "failed":
        yield Rule.ENGINE_ALIVE.reason(engine=name, reason=engine.file.reason)
        return
    if seen.get("enable_prefix_caching"):
        yield Rule.PREFIX_CACHING.reason(engine=name)
    if seen.get("speculative_decoding"):
        yield Rule.SPECULATIVE.reason(engine=name)
    length = seen.get("max_model_len")
    if length is not None and length < MAX_MODEL_LEN:
        yield Rule.CONTEXT_LENGTH.reason(engine=name, value=length, rule=MAX_MODEL_LEN)
    demanded = ("enable_prefix_caching", "speculative_decoding", "max_model_len")
    unseen = sorted({*engine.file.unverified, *(key for key in demanded if seen.get(key) is None)})
    if unseen:
        yield Rule.UNVERIFIED.reason(engine=name, what=", ".join(unseen))


def _alike(sources: Sources) -> Iterator[Reason]:
    """All nodes that made tokens must have run the same; LoadGens must have read the same samples."""
    machines = {engine.node: engine.file.machine for engine in sources.engines}
    for issuer in sources.issuers:
        if machines.get(issuer.host) is None and issuer.host in machines:
            machines[issuer.host] = issuer.manifest
    due: dict[str, dict[str, str | None]] = {
        "weights": {node: machine.model.sha256 if machine else None for node, machine in machines.items()},
        "environment": {node: machine.environment_sha256 if machine else None for node, machine in machines.items()},
        "engine versions": {engine.node: _versions(engine.file.version) for engine in sources.engines},
        "samples": {issuer.host: issuer.manifest.dataset.samples_sha256 for issuer in sources.issuers},
    }
    # An image or a driver that no node has is no difference; one that only some have is.
    optional: dict[str, dict[str, str | None]] = {
        "image": {node: machine.image_digest for node, machine in machines.items() if machine},
        "driver": {node: machine.driver for node, machine in machines.items() if machine},
    }
    for what, values in {**due, **optional}.items():
        different = set(values.values()) - (set() if what in optional else {None})
        if len(different) > 1:
            shown = ", ".join(f"{node}: {_short(value)}" for node, value in values.items())
            yield Rule.NODES_ALIKE.reason(what=what, values=shown)
    unknown = [what for what, values in due.items() if len(values) > 1 and None in values.values()]
    if unknown:
        yield Rule.NODES_UNVERIFIED.reason(what=" and ".join(unknown))


def _model(sources: Sources) -> Iterator[Reason]:
    others = [issuer.manifest.model for issuer in sources.issuers if not is_real(issuer.manifest.model)]
    if others:
        yield Rule.TINY_MODEL.reason(model=_describe(others[0]))


def _asked(sources: Sources, spec: Spec) -> Iterator[Reason]:
    if spec.samples < FULL_SAMPLES:
        yield Rule.SUBSET.reason(count=f"{spec.samples:,}", rule=f"{FULL_SAMPLES:,}")
    if spec.mode is not Mode.BOTH:
        missing = Mode.ACCURACY if spec.mode is Mode.PERFORMANCE else Mode.PERFORMANCE
        yield Rule.BOTH_MODES.reason(missing=missing.value)
    issuing = len(sources.plan.loadgens) if sources.plan and sources.plan.loadgens else len(sources.issuers)
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
