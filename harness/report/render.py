"""The report's pages from the record. The same record gives the same bytes."""

import math
import xml.etree.ElementTree as Xml
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from harness.report.accuracy_rules import GATE, REFERENCE_CHARACTERS, REFERENCE_ROUGE
from harness.report.attempts import highest_valid
from harness.report.history import summed
from harness.report.machines import EngineSettings, Gpu, Usage
from harness.report.record import Figures, Latency, Level, Node, Result, latency_limits
from harness.report.rules import Rule
from harness.spec import FULL_SAMPLES, OFFLINE_MARGIN, OFFLINE_SLACK, RULE_MIN_DURATION_S, Scenario

NONE = "–"


def number(value: float | None, digits: int = 2) -> str:
    """A figure with thousands separated; None, not measured, is a dash and never a zero."""
    return NONE if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """A ratio as a percentage."""
    return NONE if value is None else f"{100 * value:.0f} %"


def milliseconds(latency: Latency | None) -> str:
    """Median and 99th percentile."""
    if latency is None:
        return NONE
    return " / ".join(number(value, 0 if value >= 100 else 1) for value in (latency.p50_ms, latency.p99_ms))


def hours(value: float | None) -> str:
    """Hours with two digits below ten, one above."""
    return NONE if value is None else number(value, 2 if value < 10 else 1)


def moment(unix: float | None) -> str:
    """Unix seconds as UTC."""
    return NONE if unix is None else datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def usage(value: Usage | None, digits: int = 0) -> str:
    """Mean and peak."""
    return NONE if value is None else f"{number(value.mean, digits)} / {number(value.peak, digits)}"


def short(value: Any) -> str:
    """A hash by its first twelve digits, anything else as it is, None as a dash."""
    if value is None or value in ("", (), {}):
        return NONE
    text = str(value)
    return text[:12] if len(text) == 64 else text


def switched(value: bool | None) -> str:
    """On, off, or a dash for a setting that the running server did not show."""
    return NONE if value is None else "on" if value else "off"


HEAD = (
    "unverified", "samples/s", "tokens/s", "TTFT p50 / p99 ms", "TPOT p50 / p99 ms", "ROUGE-1 / 2 / L",
    "hours for 13,368", "alone samples/s", "efficiency",
)  # fmt: skip


def headline(result: Result) -> list[list[str]]:
    """The table at the top: a row for each node and one for all together."""
    rows = [_row(node.name, node.figures, number(node.alone_samples_per_s), NONE) for node in result.nodes]
    if len(result.nodes) == 1:
        rows = []
    name = "together" if len(result.nodes) != 1 else result.nodes[0].name
    return [*rows, _row(name, result.together, number(summed(result.nodes)), percent(result.efficiency))]


def _row(name: str, figures: Figures, alone: str, efficiency: str) -> list[str]:
    rouge = figures.rouge
    scores = (
        NONE if rouge is None else " / ".join(f"{value:.2f}" for value in (rouge.rouge1, rouge.rouge2, rouge.rougeL))
    )
    return [
        name, number(figures.samples_per_s), number(figures.tokens_per_s, 0), milliseconds(figures.ttft),
        milliseconds(figures.tpot), scores, hours(figures.full_hours), alone, efficiency,
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


_Property = tuple[str, Callable[[Node], Sequence[Any]], Callable[..., str]]


def infrastructure(result: Result) -> list[list[str]]:
    """The nodes' machines and their use: the names, then a row for each property known of any node."""
    rows = [["node", *(node.name for node in result.nodes)]]
    for name, values_of, show in _PROPERTIES:
        values = [values_of(node) for node in result.nodes]
        if any(value is not None for of_node in values for value in of_node):
            rows.append([name, *(show(*of_node) for of_node in values)])
    return rows


def _machine(label: str, *names: str) -> _Property:
    return label, lambda node: [getattr(node.machine, name) for name in names], _listed


def _package(label: str, name: str) -> _Property:
    return label, lambda node: [_version(node, name)], short


def _telemetry(label: str, name: str, digits: int = 0) -> _Property:
    return f"{label}, mean / peak", lambda node: [getattr(node.telemetry, name)], lambda value: usage(value, digits)


def _listed(*values: Any) -> str:
    return ", ".join(map(short, values))


def _version(node: Node, name: str) -> str | None:
    from_engine = next((engine.version.get(name) for engine in node.engines if engine.version.get(name)), None)
    return from_engine or (None if name == "vllm" and node.engines else node.machine.versions.get(name))


def _gpus(gpus: Sequence[Gpu]) -> str:
    texts = [
        ", ".join(
            part for part in (gpu.name, f"{gpu.memory_gib:.0f} GiB" if gpu.memory_gib else None, gpu.pcie) if part
        )
        for gpu in gpus
    ]
    return "; ".join(texts) or "none"


def _engines(engines: Sequence[EngineSettings] | None) -> str:
    texts = [
        f"{engine.name} ({_kind(engine)}, max_num_seqs {short(engine.max_num_seqs)}, "
        f"context {short(engine.max_model_len)}, prefix caching {switched(engine.prefix_caching)}, "
        f"speculative decoding {switched(engine.speculative_decoding)})"
        for engine in engines or ()
    ]
    return "; ".join(texts) or NONE


def _kind(engine: EngineSettings) -> str:
    if engine.kind != "deepspeed":
        return engine.kind
    return f"deepspeed {short(engine.version.get('deepspeed'))}, not tuned"


_PROPERTIES: tuple[_Property, ...] = (
    ("GPU", lambda node: [node.machine.gpus], _gpus),
    _machine("driver, CUDA", "driver", "cuda"),
    (
        "processor",
        lambda node: [node.machine.cpu_model, node.machine.cpu_count],
        lambda model, count: f"{short(model)} ({short(count)} cores)",
    ),
    ("memory GiB", lambda node: [node.machine.memory_gib], lambda value: number(value, 1)),
    _machine("system", "os", "kernel"),
    _machine("model", "model_name", "model_dtype"),
    ("engines", lambda node: [node.engines or None], _engines),
    _package("vLLM", "vllm"),
    _package("PyTorch", "torch"),
    _machine("Python", "python"),
    _package("LoadGen", "mlcommons-loadgen"),
    _package("harness", "harness"),
    _machine("weights sha256", "model_sha256"),
    _machine("data set sha256", "dataset_sha256"),
    _machine("samples sha256", "samples_sha256"),
    _machine("environment sha256", "environment_sha256"),
    _machine("image digest", "image_digest"),
    _telemetry("processor %", "cpu_percent"),
    _telemetry("memory GiB", "memory_used_gib", 1),
    _telemetry("GPU busy %", "gpu_util_percent"),
    _telemetry("GPU power W", "gpu_power_w"),
    _telemetry("GPU clock MHz", "gpu_sm_clock_mhz"),
    _telemetry("sequences running", "running", 1),
    _telemetry("requests waiting", "waiting", 1),
    _telemetry("KV cache %", "kv_cache_percent", 1),
    (
        "telemetry's own cost, % of a core",
        lambda node: [node.telemetry.own_cost_cpu_percent],
        lambda value: number(value, 1),
    ),
)


def page(result: Result, form: str) -> str:
    """The report as `md` or `html`."""
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=select_autoescape((), (), default=form == "html", default_for_string=form == "html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": number, "hours": hours, "moment": moment, "short": short, "percent": percent, "cell": _cell,
    }  # fmt: skip
    scenario = Scenario(result.asked.scenario) if result.asked.scenario else None
    return environment.get_template(f"report.{form}.j2").render(
        result=result,
        head=HEAD,
        rows=headline(result),
        attempt_head=ATTEMPT_HEAD,
        attempt_rows=attempt_rows(result),
        attempt_sentences=attempt_sentences(result),
        infrastructure=infrastructure(result),
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


def _cell(text: str) -> str:
    """Text inside a Markdown table or list: one line, no bar that would end the cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def junit(result: Result) -> str:
    """Every rule as a test case: passed, failed (INVALID) or skipped (UNOFFICIAL)."""
    by_code: dict[str, list[str]] = {}
    for reason in result.verdict.reasons:
        by_code.setdefault(reason.code, []).append(reason.sentence)
    failed = sum(rule.level == Level.INVALID for rule in Rule if rule.name in by_code)
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
            Xml.SubElement(case, "failure" if rule.level == Level.INVALID else "skipped", message=message)
    Xml.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(suite, encoding="unicode") + "\n"


def summary(result: Result) -> str:
    """The report in a terminal: verdict with reasons, table, findings."""
    table = [list(HEAD), *headline(result)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    lines = [f"{result.verdict.level}  {result.run_id}"]
    lines += [f"  - [{reason.level}] {reason.sentence}" for reason in result.verdict.reasons]
    lines.append("")
    for row in table:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines += [f"  {sentence}" for sentence in ("", *attempt_sentences(result)) if result.attempts or result.peaks]
    lines += ["", *(f"  * {f.node + ': ' if f.node else ''}{f.sentence}" for f in result.findings)]
    return "\n".join([*lines, "", f"Figures are unverified. {result.notice}"])
