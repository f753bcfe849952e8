"""The record and its pages, from a benchmark's files."""

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as Xml
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness import report as reports
from harness.errors import BadInput
from harness.files import write_json
from harness.printable import printable
from harness.report import figures, render
from harness.report.build import build
from harness.report.findings import Advice
from harness.report.record import Finding, Result, Steadiness, schema
from harness.report.rules import Rule
from tests.unit import results_tree
from tests.unit.results_tree import REAL, START, benchmark, edit

SCHEMA = Path(reports.__file__).with_name("result.schema.json")
NODE_ONLY = ("mlperf_loadgen", "uvloop", "httptools", "nltk", "rouge_score", "tokenizers", "torch", "vllm", "psutil")


def record(folder: Path) -> Result:
    return build(folder)[0]


def keep(folder: Path) -> None:
    """Write a result for later runs to compare with."""
    write_json(folder / "result.json", record(folder).model_dump(mode="json"))


def finding(result: Result, code: str) -> Finding:
    return next(candidate for candidate in result.findings if candidate.code == code)


def test_schema_in_the_repository_is_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == schema()


@pytest.mark.parametrize("topology", ["fleet", "per_node"])
def test_result_json_validates_and_reads_back(tmp_path: Path, topology: str) -> None:
    folder = benchmark(tmp_path / "run", topology=topology, samples=100 if topology == "per_node" else 50)
    result = reports.report(folder)
    content = json.loads((folder / "result.json").read_text())
    jsonschema.validate(content, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)
    assert Result.model_validate(content) == result
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "surprise": 1}, json.loads(SCHEMA.read_text()))


def test_fleet_figures_come_from_loadgen_and_nodes_from_the_journal(tmp_path: Path) -> None:
    result = record(benchmark(tmp_path / "run", speeds={"alpha": 4, "beta": 1}))
    together, alpha, beta = result.together, result.nodes[0].figures, result.nodes[1].figures
    assert (together.samples_per_s, together.tokens_per_s, together.source) == (9.70872, 1268.08, "LoadGen")
    assert together.ttft and (together.ttft.p99_ms, together.ttft.source) == (20.01, "LoadGen")
    assert (together.samples, alpha.samples, beta.samples) == (50, 40, 10)
    # alpha answers samples 0 to 3, 5 to 8 …: issued from 0 s on, the last (48) answered at 4.8 + 0.147 s
    assert alpha.seconds == pytest.approx(4.947)
    assert alpha.samples_per_s == pytest.approx(40 / 4.947)
    assert alpha.tokens_per_s == pytest.approx(40 * 128 / 4.947)
    assert alpha.ttft and alpha.tpot and alpha.end_to_end and alpha.source == "journal"
    assert (alpha.ttft.p50_ms, alpha.tpot.p90_ms, alpha.end_to_end.p99_ms) == pytest.approx((20, 1, 147))
    assert result.pair is None


def test_per_node_counts_only_what_finished_while_all_were_running(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", topology="per_node", samples=100, speeds={"alpha": 3, "beta": 1})
    for host in ("alpha", "beta"):  # LoadGen writes its logs for 9 s, which is not running
        edit(folder / "nodes" / host / "outcome.json", lambda o: o["performance"].update(finished_unix=START + 20))
    later = folder / "nodes/beta/journal.jsonl"
    lines = [json.loads(line) for line in later.read_text().splitlines()]
    lines = [line | {"issued_unix": line["issued_unix"] + 0.05} for line in lines]
    later.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = record(folder)
    # sample i is answered at 0.1 i + 0.147 s: alpha's 75 by 7.547 s; beta, 0.05 s later, its 25 by 2.597 s
    assert result.pair is not None
    assert result.pair.all_running_s == pytest.approx(2.547)
    assert result.pair.makespan_s == pytest.approx(7.547)
    assert result.pair.finished_apart_s == pytest.approx(4.95)
    assert result.pair.makespan_samples_per_s == pytest.approx(100 / 7.547)
    # of each node the samples 0 to 24 were answered by 2.597 s
    assert result.together.samples == 50
    assert result.together.samples_per_s == pytest.approx(50 / 2.547)
    assert result.together.source == "journal"
    assert [node.figures.samples_per_s for node in result.nodes] == [9.80521, 9.42281]
    assert finding(result, "FINISHED_APART").sentence.startswith("The nodes finished 5 s apart (66 % of the run)")


def test_one_pass_of_the_rule_is_repeated_until_600_s() -> None:
    assert figures.projected_hours(13_368 / 1000, offline=False) == pytest.approx((1000 / 3600, 1000 / 3600))
    assert figures.projected_hours(13_368 / 250, offline=False) == pytest.approx((3 * 250 / 3600, 250 / 3600))
    assert figures.projected_hours(None, offline=False) == (None, None)
    # Offline: 1.1 x 1.05 x 600 s = 693 s.
    assert figures.projected_hours(13_368 / 650, offline=True) == pytest.approx((2 * 650 / 3600, 650 / 3600))
    assert figures.projected_hours(13_368 / 700, offline=True) == pytest.approx((700 / 3600, 700 / 3600))


def test_accuracy_is_merged_and_split_by_node(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", speeds={"alpha": 4, "beta": 1})
    path = folder / "nodes/alpha/accuracy/scores.csv"
    lines = path.read_text().splitlines()
    # sample 4 was answered by beta, whose ten samples then have a mean of 0.95
    path.write_text("\n".join(line.replace("4,1.0,", "4,0.5,", 1) if line.startswith("4,") else line for line in lines))
    result = record(folder)
    alpha, beta = (node.figures.rouge for node in result.nodes)
    assert alpha and beta
    assert (alpha.rouge1, beta.rouge1, beta.rouge2) == (100.0, 95.0, 100.0)
    assert (alpha.gen_num, beta.gen_num, beta.gen_len_characters) == (40, 10, 6110)


def test_attempts_are_listed_and_the_last_one_is_measured(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    over = {"target_qps": 50.0, "verdict": "INVALID", "ttft_ms_p99": 2310.4, "reason": "TTFT p99 2,310 | of 2,000 ms"}
    results_tree.attempts(folder, over, {"target_qps": 42.0})
    result = reports.report(folder)
    assert [(a.node, a.number, a.target_qps, a.verdict) for a in result.attempts] == [
        ("alpha", 1, 50.0, "INVALID"), ("alpha", 2, 42.0, "VALID")]  # fmt: skip
    assert (result.together.samples_per_s, result.together.source, result.phases[0].target_qps) == (
        9.70872, "LoadGen", 42.0)  # fmt: skip
    sentences = (
        "There were 2 attempts; the verdict is that of the last one. "
        "Highest VALID rate 42.0 samples/s; 50.0 failed: TTFT p99 2,310 ms."
    )
    for name in ("report.md", "report.html"):
        assert sentences in (folder / name).read_text()
    assert (
        "| alpha | 1 | 50.00 | INVALID | 2,310 | 1.0 | 50 | TTFT p99 2,310 \\| of" in (folder / "report.md").read_text()
    )
    assert "There were 2 attempts" in reports.summary(result)


def test_figures_of_an_attempt_that_was_ended_early_are_the_journals(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", nodes=["alpha"])
    results_tree.attempts(folder, {"verdict": "ENDED EARLY"})
    result = reports.report(folder)
    # 25 of 50 samples, 0.1 s apart, the last one answered after 2.4 + 0.147 s
    assert result.together.samples_per_s == pytest.approx(25 / 2.547)
    assert (result.together.samples, result.together.source) == (25, "journal")
    assert result.together.ttft and result.together.ttft.p99_ms == pytest.approx(20)
    assert "There was one attempt; the verdict is that one's." in (folder / "report.md").read_text()


def test_attempts_of_several_loadgens_are_counted_for_each(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", topology="per_node", samples=100)
    for node in ("alpha", "beta"):
        results_tree.attempts(folder, {"verdict": "INVALID", "target_qps": 9.0}, {"target_qps": 8.0}, node=node)
    sentences = render.attempt_sentences(record(folder))
    assert sentences[0] == "There were 4 attempts (alpha 2, beta 2); the verdict is that of each node's last one."
    assert sentences[2].startswith("beta: Highest VALID rate 8.00 samples/s; 9.00 failed: ")


def test_no_attempts_no_section(tmp_path: Path) -> None:
    result = reports.report(benchmark(tmp_path / "run"))
    assert result.attempts == () and "ttempts" not in (tmp_path / "run/report.md").read_text()


def test_a_search_for_the_highest_rate_has_its_own_sentence(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    results_tree.attempts(folder, {"target_qps": 41.2})
    figures = {"ttft_ms_p99": 2310, "tpot_ms_p99": 40, "over_ttft": 20, "over_tpot": 0}
    probe = {"target_qps": 42.4, "seconds": 30, "samples": 900, "held": False, **figures}
    peak = {
        "probes": [probe],
        "highest_valid_qps": 41.2,
        "lowest_failed_qps": 42.4,
        "distance_percent": 2.9,
        "sentence": "Highest VALID rate 41.2 samples/s; 42.4 failed: TTFT p99 2,310 ms",
    }
    edit(folder / "nodes/alpha/outcome.json", lambda outcome: outcome.update(peak=peak))
    result = reports.report(folder)
    assert (result.peaks[0].node, result.peaks[0].probes[0].target_qps) == ("alpha", 42.4)
    assert f"{peak['sentence']}." in (folder / "report.html").read_text()
    jsonschema.validate(result.model_dump(mode="json"), schema(), cls=jsonschema.Draft202012Validator)


def test_results_of_the_first_schema_version_are_compared_with(tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        keep(benchmark(tmp_path / f"alone-{name}", nodes=[name], created_unix=START - 5000))
    edit(tmp_path / "alone-alpha/result.json", lambda old: [old.pop(name) for name in ("attempts", "peaks")])
    edit(tmp_path / "alone-alpha/result.json", lambda old: old.update(schema_version=1))
    assert record(benchmark(tmp_path / "run")).nodes[0].alone_run_id == "alone-alpha"


def test_efficiency_is_against_comparable_runs_alone(tmp_path: Path) -> None:
    for name, created in (("alpha", -5000), ("beta", -4000)):
        keep(benchmark(tmp_path / f"alone-{name}", nodes=[name], created_unix=START + created))
    result = record(benchmark(tmp_path / "run"))
    assert [node.alone_run_id for node in result.nodes] == ["alone-alpha", "alone-beta"]
    assert result.efficiency == pytest.approx(0.5)
    assert render.headline(result)[-1][-2:] == ["19.42", "50 %"]


def test_copied_result_keeps_what_it_was_compared_with(tmp_path: Path) -> None:
    for name, created in (("alpha", -5000), ("beta", -4000)):
        keep(benchmark(tmp_path / f"here/alone-{name}", nodes=[name], created_unix=START + created))
    keep(benchmark(tmp_path / "here/older", created_unix=START - 3000))
    keep(benchmark(tmp_path / "here/other", created_unix=START - 2000, samples=40))
    before = reports.report(benchmark(tmp_path / "here/run"))
    assert before.efficiency and [run.run_id for run in before.history] == ["older", "run"]
    away = shutil.copytree(tmp_path / "here/run", tmp_path / "away/run")
    assert reports.report(away) == before
    names = [baseline["run"]["run_id"] for baseline in json.loads((away / "baselines.json").read_text())]
    assert names == ["alone-alpha", "alone-beta", "older"]
    # What is there outranks what was kept of it.
    keep(benchmark(tmp_path / "here/alone-beta-again", nodes=["beta"], created_unix=START - 1000))
    edit(tmp_path / "here/alone-alpha/result.json", lambda result: result["verdict"].update(level="INVALID"))
    after = record(tmp_path / "here/run")
    assert [node.alone_run_id for node in after.nodes] == [None, "alone-beta-again"]
    for broken in ('[{"run": 1}]', "5", ""):
        (away / "baselines.json").write_text(broken)
        assert (record(away).verdict, record(away).efficiency) == (before.verdict, None)


def test_a_data_set_that_grew_stays_comparable_as_long_as_the_samples_are_the_same(tmp_path: Path) -> None:
    def data(folder: Path, **values: str) -> None:
        def change(described: dict[str, Any]) -> None:
            for machine in (described, *(engine["machine"] for engine in described["engines"])):
                machine["dataset"].update(values)

        edit(folder / "nodes/alpha/manifest.json", change)
        edit(
            folder / "nodes/alpha/engines/alpha-0/engine.json",
            lambda engine: engine["machine"]["dataset"].update(values),
        )

    grown = benchmark(tmp_path / "alone-grown", nodes=["alpha"], created_unix=START - 5000)
    data(grown, sha256="9" * 64)
    keep(grown)
    other = benchmark(tmp_path / "alone-other", nodes=["alpha"], created_unix=START - 4000)
    data(other, samples_sha256="9" * 64)
    keep(other)
    assert record(benchmark(tmp_path / "run")).nodes[0].alone_run_id == "alone-grown"


@pytest.mark.parametrize(
    "other",
    [{"scenario": "interactive"}, {"samples": 49}, {"model": REAL}, {"created_unix": START}, {"mode": "accuracy"}],
)
def test_what_is_not_comparable_gives_no_efficiency(tmp_path: Path, other: dict[str, object]) -> None:
    for name in ("alpha", "beta"):
        settings = {"nodes": [name], "created_unix": START - 5000} | (other if name == "beta" else {})
        keep(benchmark(tmp_path / f"alone-{name}", **settings))  # type: ignore[arg-type]
    result = record(benchmark(tmp_path / "run"))
    assert (result.nodes[0].alone_run_id, result.nodes[1].alone_run_id) == ("alone-alpha", None)
    assert result.efficiency is None
    assert result.efficiency_absent and "beta alone" in result.efficiency_absent
    assert render.headline(result)[-1][-2:] == ["–", "–"]


def test_the_baseline_is_the_run_with_the_fewest_differences_and_names_them(tmp_path: Path) -> None:
    for number, changes in enumerate(({"driver": "1"}, {}, {"driver": "1", "kernel": "5.0"})):
        folder = benchmark(tmp_path / f"alone-{number}", nodes=["alpha"], created_unix=START - 5000 + number)
        results_tree.change_engines(folder, lambda engine, changes=changes: engine["machine"].update(changes))
        keep(folder)
    node = record(benchmark(tmp_path / "run")).nodes[0]
    assert (node.alone_run_id, node.alone_changes) == ("alone-1", ())
    shutil.rmtree(tmp_path / "alone-1")
    node = record(tmp_path / "run").nodes[0]
    assert (node.alone_run_id, node.alone_changes) == ("alone-0", ("driver 1 → not known",))
    assert "driver 1 → not known" in render.page(record(tmp_path / "run"), "md")


def test_what_changed_since_the_baseline_is_no_markup(tmp_path: Path) -> None:
    evil = {"driver": "1<img src=x>[y](http://z)\n# a \x1b[31m", "kernel": "5<script>"}
    folder = benchmark(tmp_path / "alone", nodes=["alpha"], created_unix=START - 5000)
    results_tree.change_engines(folder, lambda engine: engine["machine"].update(evil))
    keep(folder)
    result = record(benchmark(tmp_path / "run"))
    changed = "driver 1&lt;img src=x>[y]\\(http://z) # a → not known; kernel 5&lt;script> →"
    assert f" alpha alone: run alone, since when changed: {changed}" in (text := render.page(result, "md"))
    html = render.page(result, "html")
    assert "alpha alone: run alone, since when changed: driver 1&lt;img src=x&gt;" in html and "&amp;lt;" not in html
    assert not any(bad in text for bad in ("<img", "<script", "](http", "\n# a", "\x1b"))


def test_an_upgrade_does_not_end_the_history_but_is_named(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "older", created_unix=START - 5000)

    def upgrade(engine: dict[str, Any]) -> None:
        engine["version"].update(vllm="0.31.0")

    results_tree.change_engines(folder, upgrade)
    edit(folder / "nodes/alpha/manifest.json", lambda manifest: [upgrade(engine) for engine in manifest["engines"]])
    keep(folder)
    history = record(benchmark(tmp_path / "run")).history
    assert [run.run_id for run in history] == ["older", "run"]
    assert history[1].changes == ("engine's vllm 0.31.0 → 0.32.0",) and history[0].changes == ()


def test_another_rate_or_number_of_engines_ends_no_history_but_is_no_speed_alone(tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        result["asked"]["target_qps"] = 12.5
        result["nodes"][0]["engines"] *= 2

    for name, created in (("older", -5000), ("latest", -4000)):
        keep(benchmark(tmp_path / name, nodes=["alpha"], created_unix=START + created))
        edit(tmp_path / name / "result.json", change)
    result = reports.report(benchmark(tmp_path / "run", nodes=["alpha"]))
    assert [run.run_id for run in result.history] == ["older", "latest", "run"]
    assert [run.changes for run in result.history] == [(), (), ("engines 2 → 1", "target_qps 12.5 → auto")]
    assert result.nodes[0].alone_run_id is None
    for name in ("older", "latest"):
        shutil.rmtree(tmp_path / name)
    assert reports.report(tmp_path / "run") == result  # from its own copy


def test_history_holds_runs_of_the_same_nodes(tmp_path: Path) -> None:
    keep(benchmark(tmp_path / "alone", nodes=["alpha"], created_unix=START - 9000))
    keep(benchmark(tmp_path / "older", created_unix=START - 5000))
    result = record(benchmark(tmp_path / "run"))
    assert [run.run_id for run in result.history] == ["older", "run"]


def test_telemetry_is_cut_to_the_performance_run(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    path = folder / "nodes/alpha/engines/alpha-0/telemetry.csv"
    path.write_text(path.read_text().replace(",50.0,", ",99.0,", 4))  # the seconds before the run began
    telemetry = record(folder).nodes[0].telemetry
    # the run lasts from START to START + 5.1 s: six readings, memory 4.5 to 5.0 GiB
    assert telemetry.cpu_percent and (telemetry.cpu_percent.peak, telemetry.cpu_percent.seconds) == (50.0, 6)
    assert telemetry.memory_used_gib and telemetry.memory_used_gib.peak == pytest.approx(5.0)
    assert telemetry.running and telemetry.waiting and (telemetry.running.mean, telemetry.waiting.mean) == (2, 1)
    assert telemetry.gpu_util_percent is None
    assert telemetry.own_cost_cpu_percent == pytest.approx(0.25)
    beta = folder / "nodes/beta/engines/beta-0/engine.json"
    assert record(folder).nodes[1].telemetry.own_cost_cpu_percent is None
    for engine in (beta, folder / "nodes/alpha/engines/alpha-0/engine.json"):
        edit(engine, lambda e: e.update(telemetry_cost={"cpu_s": 0.4, "samples": 40, "wall_s": 40.0}))
    costs = [node.telemetry.own_cost_cpu_percent for node in record(folder).nodes]
    assert costs == [pytest.approx(1.25), pytest.approx(1.0)]


def test_of_two_readings_in_a_second_the_higher_one_counts(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", nodes=["alpha"])
    path = folder / "nodes/alpha/engines/alpha-0/telemetry.csv"
    lines = path.read_text().splitlines()
    peak = f"{START + 2.3},97.0,9.5,24.0,,,,,,,,alpha-0,8,3,60.0"  # after the reading at START + 2
    path.write_text("\n".join([*lines[:8], peak, *lines[8:]]) + "\n")
    telemetry = record(folder).nodes[0].telemetry
    usages = (telemetry.cpu_percent, telemetry.memory_used_gib, telemetry.running, telemetry.kv_cache_percent)
    assert [(usage.peak, usage.seconds) for usage in usages if usage] == [(97.0, 6), (9.5, 6), (8.0, 6), (60.0, 6)]


def test_of_readings_of_a_gpu_by_several_engines_the_highest_counts(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", nodes=["alpha"])
    path = folder / "nodes/alpha/engines/alpha-0/telemetry.csv"
    head, *_ = path.read_text().splitlines()
    readings = ((0, 0.0, 60), (0, 0.0, 90), (0, 0.3, 70), (1, 0.0, 10), (0, 1.0, 50))
    lines = [f"{START + second},50.0,4.0,24.0,{gpu},{util},8.0,,,,,alpha-0,2,1,30.0" for gpu, second, util in readings]
    path.write_text("\n".join([head, *lines]) + "\n")
    usage = record(folder).nodes[0].telemetry.gpu_util_percent
    assert usage and (usage.peak, usage.mean, usage.seconds) == (90.0, 50.0, 3)


def test_infrastructure_leaves_out_what_no_node_is_known_by(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    rows = {name: cells for name, *cells in render.infrastructure(record(folder))}
    assert rows["GPU"] == ["none", "none"] and rows["processor"] == ["a processor (2 cores)"] * 2
    assert not {"driver, CUDA", "image digest", "GPU busy %, mean / peak"} & set(rows)

    def rename(engine: dict[str, Any]) -> None:
        engine["machine"].update(cpu_model="cores", cpu_count=None, os=None, kernel=None, driver="0")

    edit(folder / "nodes/alpha/engines/alpha-0/engine.json", rename)
    edit(folder / "nodes/beta/engines/beta-0/engine.json", lambda engine: engine["machine"].update(os=None))
    rows = {name: cells for name, *cells in render.infrastructure(record(folder))}
    assert rows["processor"] == ["cores (– cores)", "a processor (2 cores)"]
    assert rows["driver, CUDA"] == ["0, –", "–, –"] and rows["system"] == ["–, –", "–, 6.1.0"]


def test_deepspeed_is_labelled_as_not_tuned(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    version = {"deepspeed": "0.19.8", "torch": "2.13.0"}
    path = folder / "nodes/beta/engines/beta-0/engine.json"
    edit(path, lambda engine: engine.update(kind="deepspeed", version=version))
    rows = {name: cells for name, *cells in render.infrastructure(record(folder))}
    assert rows["engines"][0].startswith("alpha-0 (vllm, max")
    assert rows["engines"][1].startswith("beta-0 (deepspeed 0.19.8, not tuned, max")
    assert rows["vLLM"][1] == "–"


def test_failed_node_costs_only_its_own_figures(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", topology="per_node", samples=100)
    shutil.rmtree(folder / "nodes/beta")
    lost = {"host": "beta", "phase": "performance", "reason": "unreachable for 120 s", "log": "/srv/harness.log"}
    results_tree.write(folder / "failures.json", [lost])
    result = reports.report(folder)
    assert result.verdict.level == "INVALID"
    assert result.nodes[0].figures.samples_per_s == 9.70872
    assert result.nodes[1].figures.samples_per_s is None
    assert result.together.samples_per_s is None
    text = (folder / "report.md").read_text()
    assert "**beta** in phase performance: unreachable for 120 s (log: `/srv/harness.log`)" in text
    assert [row[1] for row in render.headline(result)] == ["9.71", "–", "–"]


@pytest.mark.parametrize("keep", [(), ("plan.json",), ("plan.json", "failures.json")])
def test_a_benchmark_without_results_has_a_report(tmp_path: Path, keep: tuple[str, ...]) -> None:
    folder = benchmark(tmp_path / "run")
    for path in list(folder.iterdir()):
        if path.name not in keep and path.name != "nodes":
            path.unlink()
    shutil.rmtree(folder / "nodes")
    (folder / "nodes").mkdir()
    result = reports.report(folder)
    assert result.verdict.level == "INVALID"
    assert result.together.samples_per_s is None
    assert (folder / "report.html").stat().st_size > 1000
    assert all(chart.file is None and chart.absent for chart in result.charts)
    assert not list((folder / "charts").glob("*.png"))


def test_lone_run_reports_into_its_own_directory(tmp_path: Path) -> None:
    home = benchmark(tmp_path / "run", nodes=["alpha"]) / "nodes/alpha"
    result = reports.report(home)
    assert reports.output_directory(home) == home / "report"
    assert (home / "report/report.html").exists() and not (home / "result.json").exists()
    assert (result.asked.topology, result.nodes[0].name, result.together.samples_per_s) == (None, "alpha", 9.70872)


def test_a_benchmark_without_runs_is_reported_by_its_failures(tmp_path: Path) -> None:
    failure = {"host": "jw2", "phase": "engine", "reason": "node jw2 cannot pull the image", "log": None}
    (tmp_path / "failures.json").write_text(json.dumps([failure]))
    result = reports.report(tmp_path)
    assert result.verdict.level == "INVALID"
    assert "cannot pull the image" in result.verdict.reasons[0].sentence
    assert (tmp_path / "report.md").exists()


def test_a_directory_that_is_not_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no plan"):
        reports.report(tmp_path)
    with pytest.raises(BadInput, match="not a directory"):
        reports.report(tmp_path / "absent")
    with pytest.raises(BadInput, match="'pdf' is unknown"):
        reports.report(benchmark(tmp_path / "run"), "pdf")


def test_report_is_the_same_bytes_again(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    reports.report(folder)
    names = [
        "result.json",
        "report.md",
        "report.html",
        "junit.xml",
        "baselines.json",
        *(f"charts/{p.name}" for p in folder.glob("charts/*")),
    ]
    before = {name: (folder / name).read_bytes() for name in names}
    reports.report(folder)
    assert {name: (folder / name).read_bytes() for name in names} == before


class _Pictures(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.outside: list[str] = []
        self._inside = self._in_svg = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [value or "" for name, value in attrs if name in ("src", "href") or "://" in (value or "")]
        self._inside = tag == "title" and self._in_svg
        self._in_svg = tag == "svg" or (self._in_svg and tag != "figure")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.titles.append(data)
        self._inside = False


def test_html_stands_alone_with_its_charts(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    result = reports.report(folder)
    page = _Pictures()
    page.feed((folder / "report.html").read_text())
    assert page.outside == []
    drawn = [chart for chart in result.charts if chart.file]
    assert page.titles == [chart.alt for chart in drawn]
    assert all((folder / str(chart.file)).exists() for chart in drawn)


def test_pages_open_with_verdict_reasons_and_table(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    result = reports.report(folder)
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        reasons = [text.index(r.sentence.split("'")[0]) for r in result.verdict.reasons]
        assert (
            text.index("UNOFFICIAL")
            < text.index("samples/s")
            < min(reasons)
            <= max(reasons)
            < text.index("Infrastructure")
            < text.index("Findings")
            < text.index("How each figure")
        )
        assert "unverified" in text and "Result not verified by MLCommons Association." in text
        assert "these figures say nothing about" in text
        assert "5,104" not in text


def test_a_run_too_short_to_be_tested_for_steadiness_says_so(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", nodes=["alpha"])
    result = reports.report(folder)
    for name in ("report.md", "report.html"):
        assert "Steadiness was not tested on alpha (" in (folder / name).read_text()
    assert render.untested(result).endswith("that needs 30 s, 200 samples and answers that come token by token.")
    halves = Steadiness(first_half_tpot_ms=9, second_half_tpot_ms=9, change_percent=0, steady=True)
    tested = result.nodes[0].model_copy(update={"steadiness": halves})
    assert render.untested(result.model_copy(update={"nodes": (tested,)})) == ""
    accuracy = result.asked.model_copy(update={"mode": "accuracy"})
    assert render.untested(result.model_copy(update={"asked": accuracy})) == ""


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    failure = {"host": "beta", "phase": None, "reason": "<script>alert(1)</script> | broken\nline", "log": None}
    results_tree.write(folder / "failures.json", [failure])
    edit(folder / "plan.json", lambda plan: plan["nodes"]["alpha"].update(why="<b>fast</b>"))
    reports.report(folder)
    html = (folder / "report.html").read_text()
    assert "<script>" not in html and "&lt;script&gt;" in html and "<b>fast</b>" not in html
    assert "| broken\nline" not in (folder / "report.md").read_text()


def test_text_from_nodes_cannot_leave_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    bad = "\x1b[31mred\x1b[0m \0 \x07 \x9b ![x](http://192.0.2.1/a) <script> | `code` \ud800"
    failure = {"host": f"n1 {bad}", "phase": bad, "reason": bad, "log": "/srv/`x` \x1b[31m"}
    (folder / "failures.json").write_text(json.dumps([failure]))
    result = reports.report(folder)
    texts = {name: (folder / name).read_text() for name in ("report.md", "report.html", "junit.xml", "result.json")}
    for text in (*texts.values(), render.summary(result)):
        assert not set(text) & {"\x1b", "\0", "\x07", "\x9b", "\ud800"}
        assert "[31m" not in text
    assert Xml.parse(folder / "junit.xml").getroot().get("failures") != "0"
    assert "<script>" not in texts["report.md"] and "<script>" not in texts["report.html"]
    assert "](http" not in texts["report.md"]
    gate = {"percent": 5, "failed": True, "certain": True, "sentence": bad}
    (folder / "compare.json").write_text(json.dumps({"base": [bad], "gate": gate}))
    reports.write_junit(folder)
    cases = Xml.parse(folder / "junit.xml").getroot().findall("testcase[@classname='comparison']")
    assert [case.get("name") for case in cases] == [f"is not slower than {printable(bad)} by more than 5 %"]


def test_published_figures_stand_only_beside_the_real_model(tmp_path: Path) -> None:
    assert record(benchmark(tmp_path / "tiny")).published == ()
    folder = benchmark(tmp_path / "real", model=REAL)
    reports.report(folder)
    assert "| 1×H100 SXM, vLLM FP8 (v5.1, Red Hat) | 5,777 | 5,104 |" in (folder / "report.md").read_text()


def test_junit_has_a_case_for_every_rule(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", pace=results_tree.Pace(tpot_ms=190))
    reports.report(folder)
    suite = Xml.parse(folder / "junit.xml").getroot()
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert set(cases) == {rule.checks for rule in Rule}
    assert cases[Rule.LATENCY_LIMITS.checks] == ["failure"]
    assert cases[Rule.TINY_MODEL.checks] == ["skipped"]
    assert cases[Rule.END_TOKEN.checks] == []
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "3")


def test_summary_is_readable_in_a_terminal(tmp_path: Path) -> None:
    lines = reports.summary(record(benchmark(tmp_path / "run"))).splitlines()
    assert lines[0] == "UNOFFICIAL  run"
    head = next(line for line in lines if "samples/s" in line)
    rows = [line for line in lines if line.startswith(("alpha", "beta", "together"))]
    assert len(rows) == 3 and all(len(row) <= len(head) for row in rows)


def test_report_needs_nothing_of_a_node(tmp_path: Path) -> None:
    """The report runs on a laptop: without the node's packages and the modules of load and engine."""
    folder = benchmark(tmp_path / "run")
    code = (
        "import sys\n"
        f"for name in {NODE_ONLY!r}: sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from harness.report import report\n"
        f"print(report(Path({str(folder)!r})).verdict.level.value)\n"
        "ours = {name for name in sys.modules if name.startswith('harness.')}\n"
        "assert not [name for name in ours if name.startswith(('harness.load', 'harness.engine'))], ours\n"
    )
    light = "import sys, harness.ci; assert not {'pandas', 'matplotlib', 'ansible_runner'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", light], check=True)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.returncode) == ("UNOFFICIAL", 0), result.stderr


def test_without_matplotlib_everything_but_the_pictures_is_made(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'pandas'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from harness.report import report\n"
        f"print(report(Path({str(folder)!r})).verdict.level.value)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.returncode) == ("UNOFFICIAL", 0), result.stderr
    text = (folder / "report.md").read_text()
    assert "matplotlib is not installed here; `harness report` on the controller draws it from a copy" in text
    assert json.loads((folder / "result.json").read_text())["together"]["samples_per_s"] == 9.70872


def test_rates_are_what_they_are_divided_from(tmp_path: Path) -> None:
    for name, settings in {"server": {}, "offline": {"scenario": "offline"}, "two": {"topology": "per_node"}}.items():
        figures_ = record(benchmark(tmp_path / name, **settings)).together  # type: ignore[arg-type]
        assert figures_.seconds and figures_.samples_in_rate and figures_.tokens
        assert figures_.samples_per_s == pytest.approx(figures_.samples_in_rate / figures_.seconds, rel=1e-5)
        assert figures_.tokens_per_s == pytest.approx(figures_.tokens / figures_.seconds, rel=1e-5)
    assert "49 samples and 6,400 tokens in 5.0 s, of 50 samples: LoadGen ends" in render.page(
        record(tmp_path / "server"), "md"
    )


def test_calibration_of_the_benchmark_reaches_the_result(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    calibration = {
        "samples_per_s": 12.5,
        "uncertainty_percent": 4.0,
        "by_engine": {"alpha-0": 12.5},
        "target_qps": 10.0,
    }
    results_tree.write(
        folder / "nodes/alpha/calibration/calibration.json", {**calibration, "tried": [], "seconds": 9.0}
    )
    results_tree.seal(folder)
    result = record(folder)
    (kept,) = result.calibration
    for kind in ("md", "html"):
        assert "Calibration on alpha: 12.50 samples/s ± 4.0 % in 9.0 s" in render.page(result, kind)
    assert (kept.node, kept.samples_per_s, kept.uncertainty_percent, kept.seconds) == ("alpha", 12.5, 4.0, 9.0)


def test_a_run_that_was_stopped_before_its_plan_shows_what_was_asked(tmp_path: Path) -> None:
    asked = {"scenario": "offline", "mode": "both", "samples": 838, "target_qps": "auto", "topology": "fleet"}
    results_tree.write(tmp_path / "request.json", {"schema": 1, "run_id": "r", "asked": asked, "nodes": ["alpha"]})
    killed = reports.report(tmp_path)
    assert killed.verdict.level == "INVALID" and killed.asked.samples == 838
    failure = {"host": "alpha", "phase": "stopped", "reason": "stopped on request", "log": None}
    results_tree.write(tmp_path / "failures.json", [failure])
    result = reports.report(tmp_path)
    assert (result.asked.samples, result.asked.scenario, result.asked.topology) == (838, "offline", "fleet")
    assert (tmp_path / "report.md").read_text().startswith("# INVALID: offline, 838 samples")


def test_documents_list_every_rule_and_finding() -> None:
    text = (Path(__file__).parents[2] / "docs/results.md").read_text()
    assert [rule.name for rule in Rule if f"| `{rule.name}` | {rule.level} |" not in text] == []
    assert [advice.name for advice in Advice if f"`{advice.name}`" not in text] == []
