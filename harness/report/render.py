"""The report's pages from the record. The same record gives the same bytes."""

import math
import xml.etree.ElementTree as Xml
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from harness.report.accuracy_rules import GATE, REFERENCE_CHARACTERS, REFERENCE_ROUGE
from harness.report.attempts import highest_valid
from harness.report.formats import NONE, cell, hours, milliseconds, moment, number, percent, short, usage
from harness.report.groups import columns, merged, names, parts, shown, speeds
from harness.report.history import summed
from harness.report.infrastructure import infrastructure, is_reading
from harness.report.record import Figures, Finding, Level, Node, Reason, Result, Resumed, latency_limits
from harness.report.rules import Rule
from harness.report.steadiness import REQUIRED
from harness.spec import FULL_SAMPLES, OFFLINE_MARGIN, OFFLINE_SLACK, RULE_MIN_DURATION_S, Scenario

HEAD = (
    "unverified", "samples/s", "tokens/s", "per GPU / user", "TTFT p50 / p90 / p99 ms", "TPOT p50 / p90 / p99 ms",
    "ROUGE-1 / 2 / L",
    "hours for 13,368", "alone samples/s", "efficiency",
)  # fmt: skip


def headline(result: Result) -> list[list[str]]:
    """The table at the top: a row for each node, of many for some, and one for all together."""
    rows = [
        _row(f"{label} in this run", node.figures, [node], number(node.alone_samples_per_s), NONE)
        for label, node in shown(result.nodes)
    ]
    if len(result.nodes) == 1:
        rows = []
    name = "together" if len(result.nodes) != 1 else result.nodes[0].name
    alone = number(summed(result.nodes))
    return [*rows, _row(name, result.together, result.nodes, alone, percent(result.efficiency))]


def per_gpu(figures: Figures, nodes: Sequence[Node]) -> float | None:
    """Tokens/s per GPU; None where a node has none."""
    counts = [len(node.machine.gpus) for node in nodes]
    return figures.tokens_per_s / sum(counts) if figures.tokens_per_s and counts and all(counts) else None


def per_user(figures: Figures) -> float | None:
    """Tokens/s that a user sees arrive: 1 ÷ the median time per output token."""
    return 1000 / figures.tpot.p50_ms if figures.tpot and figures.tpot.p50_ms else None


def _row(name: str, figures: Figures, nodes: Sequence[Node], alone: str, efficiency: str) -> list[str]:
    rouge = figures.rouge
    scores = (
        NONE if rouge is None else " / ".join(f"{value:.2f}" for value in (rouge.rouge1, rouge.rouge2, rouge.rougeL))
    )
    return [
        name, number(figures.samples_per_s), number(figures.tokens_per_s, 0),
        f"{number(per_gpu(figures, nodes), 0)} / {number(per_user(figures), 1)}", milliseconds(figures.ttft),
        milliseconds(figures.tpot), scores, hours(figures.full_hours), alone, efficiency,
    ]  # fmt: skip


ENERGY_HEAD = (
    "node", "joules", "measured by", "tokens per joule", "joules per sample", "idle W", "price per hour",
    "cost per million tokens",
)  # fmt: skip
_MEASURED_BY = {"counter": "GPUs’ counters", "power": "power over time", None: NONE}


def energy_rows(result: Result) -> list[list[str]]:
    """A row for each node, of many for some, and one for all together; none where neither energy nor a price is known
    of any node."""
    if all(node.energy.joules is None and node.energy.price_per_hour is None for node in result.nodes):
        return []
    rows = [(label, node.energy) for label, node in shown(result.nodes)]
    if len(rows) > 1:
        rows.append(("together", result.energy))
    return [
        [
            name, number(part.joules, 0), _MEASURED_BY[part.source], number(part.tokens_per_joule),
            number(part.joules_per_sample), number(part.idle_power_w, 1), number(part.price_per_hour),
            number(part.cost_per_million_tokens, 4),
        ]
        for name, part in rows
    ]  # fmt: skip


GPU_HEAD = (
    "node", "GPU", "engine", "samples/s", "tokens/s", "busy %, mean / peak", "memory GiB", "power W", "clock MHz",
    "°C", "throttled %",
)  # fmt: skip


def gpu_rows(result: Result) -> list[list[str]]:
    """A row for each GPU of each node."""
    return [
        [
            node.name, f"{gpu.number} {gpu.name or ''}".strip(), ", ".join(gpu.engines) or NONE,
            number(gpu.samples_per_s), number(gpu.tokens_per_s, 0), usage(gpu.util_percent),
            usage(gpu.memory_used_gib, 1), usage(gpu.power_w), usage(gpu.sm_clock_mhz),
            usage(gpu.temperature_c), number(gpu.throttled_percent, 0),
        ]
        for node in result.nodes
        for gpu in node.gpus
    ]  # fmt: skip


LOSS_HEAD = (
    "engine", "node", "lost in", "after s", "at", "samples moved", "samples/s before", "samples/s after",
    "back after s", "reason",
)  # fmt: skip


def loss_rows(result: Result) -> list[list[str]]:
    """A row for each engine that was lost."""
    return [
        [
            loss.engine, loss.node, loss.lost_in, number(loss.at_s, 1), moment(loss.at_unix), number(loss.moved, 0),
            number(loss.samples_per_s_before), number(loss.samples_per_s_after),
            number(loss.rejoined_unix and loss.rejoined_unix - loss.at_unix, 1),
            f"{loss.reason} ({loss.cause})" if loss.cause else loss.reason,
        ]
        for loss in result.engine_losses
    ]  # fmt: skip


ATTEMPT_HEAD = ("node", "attempt", "samples/s sent", "verdict", "TTFT p99 ms", "TPOT p99 ms", "samples", "reason")


def attempt_rows(result: Result) -> list[list[str]]:
    """A row for each attempt of each LoadGen, in order."""
    return [
        [
            attempt.node, str(attempt.number), number(attempt.target_qps), attempt.verdict,
            number(attempt.ttft_ms_p99, 0), number(attempt.tpot_ms_p99, 1), number(attempt.samples, 0),
            attempt.reason or NONE,
        ]
        for attempt in result.attempts
    ]  # fmt: skip


def attempt_sentences(result: Result) -> list[str]:
    """How many attempts there were and which one counts, then each LoadGen's highest VALID rate."""
    counts = Counter(attempt.node for attempt in result.attempts)
    sentences = [_how_many(counts)] if counts else []
    for node in dict.fromkeys([*counts, *(peak.node for peak in result.peaks)]):
        peak = next((peak for peak in result.peaks if peak.node == node), None)
        own = [attempt for attempt in result.attempts if attempt.node == node]
        if sentence := highest_valid(own, latency_limits(result.asked) or (math.inf, math.inf), peak):
            sentences.append(f"{node}: {sentence}." if len(counts) > 1 else f"{sentence}.")
    return sentences


def _how_many(counts: Counter[str]) -> str:
    if len(counts) > 1:
        listed = ", ".join(f"{node} {count}" for node, count in counts.items())
        return f"There were {counts.total()} attempts ({listed}); the verdict is that of each node's last one."
    (count,) = counts.values()
    if count == 1:
        return "There was one attempt; the verdict is that one's."
    return f"There were {count} attempts; the verdict is that of the last one."


def untested(result: Result) -> str:
    """The nodes whose engines were not tested for running steadily, and what the test needs; empty where all were."""
    nodes = [] if result.asked.mode == "accuracy" else result.nodes
    listed = names(
        [
            f"{node.name} ({number(node.figures.seconds, 0)} s, {number(node.figures.samples, 0)} samples)"
            for node in nodes
            if node.figures.samples and node.steadiness is None
        ]
    )
    return f"Steadiness was not tested on {listed}: that needs {REQUIRED}." if listed else ""


def reasons(result: Result) -> list[tuple[Reason, str]]:
    """Why the verdict is not VALID, with the sentence that is shown."""
    return merged(result.verdict.reasons, lambda reason: reason.sentence, result)


def findings(result: Result) -> list[tuple[Finding, str]]:
    """The findings, with the sentence that is shown."""
    return merged(result.findings, lambda finding: finding.sentence, result, lambda finding: finding.node)


def resumed_sentences(result: Result) -> list[str]:
    """What was kept each time that a run was resumed."""
    return [
        f"{one.node}: interrupted in phase {one.phase}, resumed at {moment(one.at_unix)}: {_kept(one)}."
        for one in result.resumed
    ]


def _kept(one: Resumed) -> str:
    if one.phase in ("accuracy", "scoring"):
        return f"{number(one.kept, 0)} answers were kept, {number(one.missing, 0)} were missing"
    return "the phase was run again, whole; what had finished before was kept"


def page(result: Result, form: str, pictures: Mapping[str, str] | None = None) -> str:
    """The report as `md` or `html`; `pictures` are the charts' SVG texts by name, which HTML holds."""
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=select_autoescape((), (), default=form == "html", default_for_string=form == "html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": number, "hours": hours, "moment": moment, "short": short, "percent": percent, "cell": cell,
        "code": _code, "speeds": speeds,
    }  # fmt: skip
    scenario = Scenario(result.asked.scenario) if result.asked.scenario else None
    return environment.get_template(f"report.{form}.j2").render(
        result=result,
        pictures=pictures or {},
        head=HEAD,
        rows=headline(result),
        attempt_head=ATTEMPT_HEAD,
        attempt_rows=attempt_rows(result),
        attempt_sentences=attempt_sentences(result),
        gpu_head=GPU_HEAD,
        gpu_rows=gpu_rows(result),
        energy_head=ENERGY_HEAD,
        energy_rows=energy_rows(result),
        loss_head=LOSS_HEAD,
        loss_rows=loss_rows(result),
        resumed_sentences=resumed_sentences(result),
        untested=untested(result),
        reasons=reasons(result),
        findings=findings(result),
        parts=parts(result),
        infrastructure=columns(infrastructure(result), result, is_reading),
        scenario=scenario,
        tiny=Rule.TINY_MODEL.broken(result.verdict),
        full=FULL_SAMPLES,
        rule_s=RULE_MIN_DURATION_S,
        slack=OFFLINE_SLACK,
        margin=OFFLINE_MARGIN,
        gate=GATE,
        reference=REFERENCE_ROUGE,
        reference_characters=REFERENCE_CHARACTERS,
        Level=Level,
    )


def _code(text: str) -> str:
    """Text as Markdown code, which a backtick in it would end."""
    return "`" + " ".join(str(text).split()).replace("`", "'") + "`"


def junit(result: Result, compared: Mapping[str, Any]) -> str:
    """Every rule as a test case: passed, failed (INVALID) or skipped (UNOFFICIAL); and so the gate of compare.json.

    `compared` is the content of that file, empty where there is none; of its gate only certainty passes or fails.
    """
    by_code: dict[str, list[str]] = {}
    for reason in result.verdict.reasons:
        by_code.setdefault(reason.code, []).append(reason.sentence)
    broken = {reason.code for reason in result.verdict.reasons if reason.level == Level.INVALID}
    failed = len(broken)
    suite = Xml.Element(
        "testsuite",
        name=f"benchmark {result.run_id}",
        tests=str(len(Rule)),
        failures=str(failed),
        errors="0",
        skipped=str(len(by_code) - failed),
    )
    for rule in Rule:
        case = Xml.SubElement(suite, "testcase", classname="verdict", name=rule.checks)
        if rule.name in by_code:
            message = "; ".join(by_code[rule.name])
            Xml.SubElement(case, "failure" if rule.name in broken else "skipped", message=message)
    if gate := compared.get("gate"):
        name = f"is not slower than {', '.join(compared['base'])} by more than {gate['percent']:g} %"
        case = Xml.SubElement(suite, "testcase", classname="comparison", name=name)
        outcome = "failures" if gate["failed"] else None if gate["certain"] else "skipped"
        if outcome:
            Xml.SubElement(case, {"failures": "failure"}.get(outcome, outcome), message=gate["sentence"])
            suite.set(outcome, str(int(suite.get(outcome, "0")) + 1))
        suite.set("tests", str(len(Rule) + 1))
    Xml.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(suite, encoding="unicode") + "\n"


def summary(result: Result) -> str:
    """The report in a terminal: verdict with reasons, table, findings."""
    table = [list(HEAD), *headline(result)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    lines = [f"{result.verdict.level}  {result.run_id}"]
    lines += [f"  - [{reason.level}] {sentence}" for reason, sentence in reasons(result)]
    lines.append("")
    for row in table:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    for sentences in (attempt_sentences(result), resumed_sentences(result)):
        lines += ["", *(f"  {sentence}" for sentence in sentences)] if sentences else []
    lines += ["", *(f"  * {f.node + ': ' if f.node else ''}{text}" for f, text in findings(result))]
    return "\n".join([*lines, "", f"Figures are unverified. {result.notice}"])
