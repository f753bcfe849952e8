"""Runs compared: what may be compared, what is said of it, and what it takes to say more."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bench import compare as bench
from harness import compare as comparing
from harness import report
from harness.cli import cli
from harness.compare import history as histories
from harness.compare import statistics
from harness.compare.charts import over_time
from harness.compare.comparison import Change, Comparison, Word, compare
from harness.compare.page import page, short, summary
from harness.errors import BadInput
from harness.report.work import Asked, Figures, Node, Percentiles, Run, Verdict
from tests.unit.results_tree import benchmark

BASE = (40.0, 40.2, 39.9)


def run(run_id: str, speed: float = 40.0, ttft: float = 500.0, **more: Any) -> Run:
    machine = {"model_sha256": "a" * 64, "samples_sha256": "b" * 64, "driver": "580.1", "gpus": [{"name": "A30"}]}
    values = {
        "run_id": run_id,
        "asked": Asked(scenario="offline", mode="both", samples=600, topology="fleet"),
        "verdict": Verdict(level="UNOFFICIAL"),
        "together": Figures(samples_per_s=speed, ttft=Percentiles(p50_ms=ttft / 2, p99_ms=ttft)),
        "nodes": (Node(name="n1", machine=machine, engines=({"kind": "vllm", "version": {"vllm": "0.32"}},)),),
    }
    return Run(**{**values, **more})


def of(base: tuple[float, ...], new: tuple[float, ...], percent: float | None = None, **more: Any) -> Comparison:
    sides = [[run(f"{side}{i}", value, **more) for i, value in enumerate(vs)] for side, vs in (("a", base), ("b", new))]
    return compare(*sides, percent)


def word(comparison: Comparison, metric: str = "samples/s") -> Word:
    return next(row.word for row in comparison.rows if row.metric == metric)


def test_a_difference_has_the_interval_of_students_test() -> None:
    result = statistics.test([100.0, 102.0, 98.0], [90.0, 91.0, 89.5])
    assert result and result.difference_percent == pytest.approx(-9.823, abs=0.001)
    # By hand: logarithms, pooled deviation 0.015357, t(4) at 97.5 % is 2.7764; the test's t is 8.246.
    assert (result.low_percent, result.high_percent) == pytest.approx((-12.909, -6.629), abs=0.001)
    assert result.p == pytest.approx(0.00118, abs=0.00002)


def test_holm_multiplies_the_smallest_most() -> None:
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_more_repeats_find_smaller_differences() -> None:
    sides = [100.0, 101.0, 99.0], [100.0, 100.5, 99.5]
    percents = [statistics.smallest_percent(*sides, 5, repeats) for repeats in (3, 6, 12)]
    assert percents == sorted(percents, reverse=True)
    needed = statistics.repeats_for(*sides, 1.0, 5)
    assert needed and statistics.smallest_percent(*sides, 5, needed) <= 1.0
    assert statistics.smallest_percent(*sides, 5, needed - 1) > 1.0
    assert statistics.repeats_for(*sides, 0.001, 5) is None


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ((36.0, 36.1, 35.9), Word.SLOWER),
        ((44.0, 44.1, 43.9), Word.FASTER),
        ((40.1, 39.9, 40.0), Word.NO_DIFFERENCE),
        ((36.0,), Word.NOT_DECIDED),
    ],
)
def test_each_figure_gets_a_word(new: tuple[float, ...], says: Word) -> None:
    comparison = of(BASE, new)
    assert word(comparison) is says
    assert {Word.SLOWER: "is slower", Word.FASTER: "is faster"}.get(says, "o") in comparison.sentence


def test_one_run_on_a_side_decides_nothing_whatever_it_shows() -> None:
    comparison = of((40.0,), (20.0,), 3)
    assert {row.word for row in comparison.rows} == {Word.NOT_DECIDED}
    assert comparison.sentence.startswith("Not decided") and "-50.0 %" in comparison.sentence
    assert comparison.gate and not comparison.gate.failed and "at least two runs" in comparison.gate.sentence


@pytest.mark.parametrize(
    ("new", "failed", "says"),
    [
        ((36.0, 36.1, 35.9), True, "slower by more than 3 % in samples/s"),
        ((39.5, 39.6, 39.4), False, "not slower by more than 3 %"),
        ((38.0, 39.9, 38.4), False, "is not certain; "),
        ((44.0, 44.1, 43.9), False, "not slower"),
    ],
)
def test_the_gate_fails_only_with_certainty(new: tuple[float, ...], failed: bool, says: str) -> None:
    gate = of(BASE, new, 3.0).gate
    assert gate and gate.failed is failed
    assert says in gate.sentence


def test_the_gate_warns_in_a_terminal_where_it_is_not_certain() -> None:
    unsure, certain = of(BASE, (38.0, 39.9, 38.4), 3.0), of(BASE, (39.5, 39.6, 39.4), 3.0)
    assert "\nwarning: whether samples/s is slower by more than 3 % is not certain; " in summary(unsure)
    assert "warning" not in summary(certain)


@pytest.mark.parametrize("new", [(38.4, 39.9, 39.3), (39.3, 39.8, 38.6, 39.9, 39.4), (39.3,)])
def test_the_gate_asks_for_more_runs_than_there_are(new: tuple[float, ...]) -> None:
    gate = of(BASE, new, 3.0).gate
    assert gate and not gate.failed and not gate.certain
    needed = int(gate.sentence.split("; ")[1].split()[0])
    assert max(len(BASE), len(new)) < needed < 100


def test_as_many_repeats_as_are_said_tell_that_the_limit_is_passed() -> None:
    base, new, limit, deviation = [100.0, 101.0, 99.0], [95.0, 96.0, 94.0], -3.0, 0.01026
    needed = statistics.repeats_beyond(base, new, limit, 2)
    # By hand: log(95 ÷ 97) is -0.0208; (t(8) at 97.5 % + at 80 %) · 0.01026 · √(2/5) is 0.0207, with 4 runs 0.0243.
    assert needed == 5
    random, told = np.random.default_rng(1), 0
    for _ in range(200):
        sides = [middle * np.exp(deviation * random.standard_normal(needed)) for middle in (100.0, 95.0)]
        told += statistics.p_beyond(*sides, limit) < 0.025
    assert told / 200 > 0.75


def test_one_run_is_judged_by_how_much_those_of_the_other_side_differ() -> None:
    known = of(BASE, (38.0,)).sentence
    assert "If they differ as those of the base side do, so many runs on each side would tell: " in known
    assert "; 3 runs on each side would find " in known
    assert of((38.0,), BASE).sentence.endswith(known[known.index("; 3 runs") :])
    apart = of((40.0, 44.0, 36.0), (38.0,)).sentence
    percents = [float(text.split("would find ")[1].removesuffix(" %.")) for text in (known, apart)]
    assert percents[0] < 5 < percents[1]
    assert "Nothing is known of that here" in of((40.0,), (38.0,)).sentence


def test_one_run_is_told_how_many_would_tell_of_the_difference_that_is_shown() -> None:
    comparison = of((40.0, 41.0, 39.0), (38.0,))
    row = next(row for row in comparison.rows if row.metric == "samples/s")
    # By hand: log(39.99 ÷ 38) is 0.0511; (t(12) at 1 − 0.025 ÷ 3 + at 80 %) · 0.02501 · √(2/7) is 0.0488, with 6
    # it is 0.0541.
    assert row.repeats == 7
    for text in (summary(comparison), page(comparison, "md"), page(comparison, "html")):
        assert "7 for samples/s" in text and "runs a side that would tell" in text
    line = next(line for line in page(comparison, "md").splitlines() if line.startswith("| samples/s"))
    assert line.endswith("| – | 7 |")
    same = of((40.0, 41.0, 39.0), (39.9917,))
    assert "more than 100 for samples/s" in same.sentence
    alone = page(of((40.0,), (38.0,)), "md")
    assert next(line for line in alone.splitlines() if line.startswith("| samples/s")).endswith("| – | – |")


def test_a_figure_that_no_side_has_is_no_pass() -> None:
    asked = Asked(scenario="server", mode="both", samples=600, topology="fleet", target_qps=40.0)
    sides = [
        [run(f"{side}{i}", asked=asked, together=Figures(samples_per_s=40.0)) for i in range(3)] for side in ("a", "b")
    ]
    gate = compare(*sides, 3.0).gate
    assert gate and not gate.certain and "no figure says" in gate.sentence


def test_a_rate_that_offline_does_not_depend_on_is_no_change() -> None:
    asked = Asked(scenario="offline", mode="both", samples=600, topology="fleet", target_qps=40.0)
    assert compare([run("a")], [run("b", asked=asked)]).changes == ()


def test_at_a_rate_that_was_given_latencies_are_judged() -> None:
    asked = Asked(scenario="server", mode="both", samples=600, topology="fleet", target_qps=40.0)
    base = [run(f"a{i}", 40.0, 500 + i, asked=asked) for i in range(3)]
    new = [run(f"b{i}", 40.0, 600 + i, asked=asked) for i in range(3)]
    comparison = compare(base, new, 5.0)
    assert {row.metric for row in comparison.rows if row.judged} == {"TTFT p50", "TTFT p99"}
    assert word(comparison, "TTFT p99") is Word.SLOWER
    assert comparison.gate and comparison.gate.failed


def test_whole_searches_for_the_peak_are_judged_by_speed() -> None:
    asked = Asked(scenario="server", mode="both", samples=600, topology="fleet", target_qps="peak")
    comparison = of(BASE, (36.0, 36.1, 35.9), 3.0, asked=asked)
    assert {row.metric for row in comparison.rows if row.judged} == {"samples/s"}
    assert word(comparison) is Word.SLOWER and "highest rate" in comparison.meaningful
    assert comparison.gate and comparison.gate.failed


def test_at_different_rates_nothing_says_what_is_faster() -> None:
    asked = Asked(scenario="server", mode="both", samples=600, topology="fleet", target_qps="auto")
    sides = [[run(f"{side}{i}", speed, asked=asked) for i in range(3)] for side, speed in (("a", 40.0), ("b", 30.0))]
    comparison = compare(*sides, 3.0)
    assert "offered different rates" in comparison.sentence
    assert comparison.gate and not comparison.gate.failed
    given = [[one.model_copy(update={"asked": asked.model_copy(update={"target_qps": rate})}) for one in side]
             for side, rate in zip(sides, (40.0, 30.0), strict=True)]  # fmt: skip
    assert ("target_qps", "40.0", "30.0") in [(one.what, one.base, one.new) for one in compare(*given).changes]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"asked": Asked(scenario="server", mode="both", samples=600, topology="fleet")},
            "scenario: offline against server",
        ),
        ({"asked": Asked(scenario="offline", mode="both", samples=50, topology="fleet")}, "samples: 600 against 50"),
        ({"nodes": ()}, "GPUs: 1 × A30 against"),
        (
            {"together": Figures(samples_per_s=40.0, rouge={"rouge1": 40.0}), "accuracy_reference": {"compared": 600}},
            "answers judged by: nothing against answers of another engine",
        ),
    ],
)
def test_other_work_is_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        compare([run("a", together=Figures(samples_per_s=40.0, rouge={"rouge1": 40.0}))], [run("b", **more)])
    with pytest.raises(BadInput, match="run a is given twice"):
        compare([run("a")], [run("a")])


def test_runs_without_nodes_have_weights_that_nobody_knows() -> None:
    with pytest.raises(BadInput, match="the weights of a, b are not known"):
        compare([run("a", nodes=())], [run("b", nodes=())])


def test_what_changed_is_listed_and_forgotten_nothing() -> None:
    machine = {**run("a").nodes[0].machine.model_dump(), "driver": "590.2"}
    other = (Node(name="n1", machine=machine, engines=({"kind": "vllm", "version": {"vllm": "0.33"}},)),)
    changes = {
        change.what: (change.base, change.new) for change in compare([run("a")], [run("b", nodes=other)]).changes
    }
    assert changes == {"driver": ("580.1", "590.2"), "engine's vllm": ("0.32", "0.33")}


def test_number_of_engines_and_settings_of_the_machine_are_changes() -> None:
    usual = run("a").nodes[0]
    gpu = {"name": "A30", "sm_clock_max_mhz": 1440.0, "sm_clock_set_mhz": 930.0, "ecc": False, "pcie": "gen 4 ×8"}
    seen = {
        "gpus": [gpu],
        "host": {"cpu_governor": "powersave"},
        "variables": {"OMP_NUM_THREADS": "4"},
        "model_dtype": "float16",
    }
    machine = {**usual.machine.model_dump(), **seen}
    other = (Node(name="n1", machine=machine, engines=(*usual.engines, *usual.engines)),)
    changes = {one.what: one.new for one in compare([run("a")], [run("b", nodes=other)]).changes}
    assert changes == {
        "engines": "2",
        "GPU SM clock MHz": "1440.0",
        "GPU SM clock set MHz": "930.0",
        "GPU ECC": "False",
        "GPU PCIe": "gen 4 ×8",
        "processor's governor": "powersave",
        "variable OMP_NUM_THREADS": "4",
        "type of the weights": "float16",
    }


def test_several_loadgens_have_the_rate_that_was_given() -> None:
    asked = Asked(scenario="server", mode="both", samples=600, topology="per_node", target_qps=40.0)
    sides = [[run(f"{side}{i}", speed, asked=asked) for i in range(2)] for side, speed in (("a", 39.0), ("b", 35.0))]
    assert {row.metric for row in compare(*sides).rows if row.judged} == {"TTFT p50", "TTFT p99"}


def test_what_nodes_say_of_themselves_is_no_markup_in_markdown() -> None:
    evil = "A30|<img src=x> [y](http://z)\n# title \x1b[31mred"
    usual = run("a")
    machine = usual.nodes[0].machine.model_copy(update={"driver": evil})
    nodes = (usual.nodes[0].model_copy(update={"machine": machine}),)
    comparison = compare([usual], [run("b", nodes=nodes)], None)
    assert any(evil in change.new for change in comparison.changes)
    for text in (page(comparison, "md"), short(comparison)):
        assert "A30\\|&lt;img src=x> [y]\\(http://z) # title red" in text
        assert "<img" not in text and "](http" not in text and "\n# title" not in text and "\x1b" not in text


def test_in_virtual_time_runs_that_are_alike_are_rarely_called_different() -> None:
    alike = [bench.one_set(0.0, seed) for seed in range(20)]
    assert bench.called(alike, {Word.FASTER, Word.SLOWER}) <= 3
    slower = [bench.one_set(5.0, 500 + seed, 3.0) for seed in range(10)]
    assert bench.called(slower, {Word.SLOWER}) == 10
    assert bench.called(slower, {Word.FASTER}) == 0


def results(tmp_path: Path, *speeds: float) -> list[str]:
    """Runs with these speeds, reported."""
    for number, speed in enumerate(speeds):
        folder = benchmark(tmp_path / f"r{number}")
        report.report(folder)
        file = folder / "result.json"
        content = json.loads(file.read_text())
        content["run_id"] = folder.name
        content["asked"]["scenario"] = "offline"
        content["together"]["samples_per_s"] = speed
        file.write_text(json.dumps(content))
    return [f"r{number}" for number in range(len(speeds))]


def test_the_command_writes_pages_and_ends_with_6(tmp_path: Path) -> None:
    ids = results(tmp_path, 40, 40.1, 30, 30.1)
    words = ["compare", ",".join(ids[:2]), ",".join(ids[2:]), "--results", str(tmp_path), "--regression-percent", "3"]
    done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert done.return_value == comparing.SLOWER, done.output
    assert "slower by more than 3 % in samples/s" in done.output
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<svg") == 2 and "<title>" in page and "http" not in page
    assert "slower" in (tmp_path / "out" / "compare.md").read_text()
    document = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert document["gate"]["failed"] is True and document["base"] == ids[:2]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "5", '{"run_id": 5}', "\x00\xff", '{"run_id": "x", "verdict": null}']
)
def test_damaged_results_are_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInput, match=r"result\.json|no figures"):
        comparing.compare(["a"], ["a"], tmp_path)


def test_places_without_a_result_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(BadInput, match=r"holds no result\.json; run `harness report"):
        comparing.compare(["a"], ["a"], tmp_path)
    with pytest.raises(BadInput, match="run nope is neither a folder nor a run in"):
        comparing.compare(["nope"], ["a"], tmp_path)


def keep(results: Path, run_id: str, created: float, speed: float | None = 40.0, **machine: Any) -> None:
    """A result as a report leaves it, as far as the history reads it."""
    machine = {"model_sha256": "a" * 64, "driver": "580.1", "gpus": [], **machine}
    content = {
        "run_id": run_id,
        "created_unix": created,
        "asked": {"scenario": "offline", "mode": "both", "samples": 600, "target_qps": "auto", "topology": "fleet"},
        "verdict": {"level": "UNOFFICIAL"},
        "together": {"samples_per_s": speed},
        "nodes": [{"name": "n1", "machine": machine}],
    }
    (results / run_id).mkdir(parents=True)
    (results / run_id / "result.json").write_text(json.dumps(content))


def test_history_lists_runs_with_what_changed_before_them(tmp_path: Path) -> None:
    keep(tmp_path, "second", 2.0, driver="590.2")
    keep(tmp_path, "first", 1.0)
    keep(tmp_path, "third", 3.0, speed=None, driver="590.2")
    keep(tmp_path, "other", 2.5, model_sha256="c" * 64)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("[]")
    past = histories.history(tmp_path)
    assert [entry.run.run_id for entry in past.entries] == ["first", "second", "other", "third"]
    changed = {entry.run.run_id: entry.document()["changed"] for entry in past.entries}
    assert changed == {"first": None, "second": {"driver": ["580.1", "590.2"]}, "third": {}, "other": None}
    assert len(past.problems) == 1 and "broken" in past.problems[0]
    assert histories.history(tmp_path, scenario="server").entries == []


def test_the_page_of_all_runs_stands_alone(tmp_path: Path) -> None:
    for number in range(3):
        keep(tmp_path, f"r{number}", number, 40.0 + number, driver=f"58{number}")
    (tmp_path / "r1" / "report.html").write_text("a report")
    (tmp_path / "r1" / "compare.html").write_text("a comparison")
    (tmp_path / "bad <b>").mkdir()
    done = CliRunner().invoke(cli, ["history", "--results", str(tmp_path), "--index"], standalone_mode=False)
    assert done.exception is None and "driver: 580 → 581" in done.output
    page = (tmp_path / "index.html").read_text()
    assert (
        page.count("<svg") == 1
        and 'href="r1/report.html"' in page
        and 'href="r1/compare.html">compare</a>' in page
        and 'href="r2' not in page
    )
    assert "<b>" not in page and "http" not in page


def test_the_chart_of_a_kind_of_work_has_dates_and_the_latencies_of_a_rate() -> None:
    def group(scenario: str, count: int) -> list[histories.Entry]:
        asked = Asked(scenario=scenario, mode="both", samples=600, topology="fleet")
        change = (Change("driver", "580", "590"),)
        runs = [run(f"r{day}", asked=asked, created_unix=86_400.0 * day) for day in range(count)]
        return [histories.Entry(one, change if day in (3, 4, 60) else ()) for day, one in enumerate(runs)]

    offline, server = over_time(group("offline", 100)), over_time(group("server", 100))
    for date in ("1970-01-01", "1970-03-02", "1970-04-10"):  # the first run, a changed one and the last
        assert date in offline and date in server
    assert "1970-01-04" not in offline and "1970-01-05" not in offline  # too near the first one's
    assert "TTFT p99" not in offline and "TTFT p99 (ms)" in server
    assert "1970-01-04" in over_time(group("offline", 9))
    assert over_time(group("server", 1)) == ""


@pytest.mark.parametrize(
    "content",
    [
        *("", "5", "{}", "null", '{"nodes": 5}', '{"run_id": "x", "verdict": {"level": 1}}'),
        pytest.param('{"a":' * 480 + "5" + "}" * 480, id="deep"),
    ],
)
def test_damaged_runs_never_end_the_history(tmp_path: Path, content: str) -> None:
    keep(tmp_path, "good", 1.0)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text(content)
    past = histories.history(tmp_path)
    assert [entry.run.run_id for entry in past.entries] == ["good"]
    assert "bad" in past.problems[0]


@pytest.mark.parametrize("created", [1e20, -1e15, float("inf"), float("nan")])
def test_a_run_at_an_impossible_time_is_damaged(tmp_path: Path, created: float) -> None:
    keep(tmp_path, "good", 1.0)
    keep(tmp_path, "bad", created)
    report.report(benchmark(tmp_path / "new"))
    past = histories.history(tmp_path)
    assert [entry.run.run_id for entry in past.entries] == ["good", "new"]
    assert "created_unix" in past.problems[0] and "created_unix" in histories.write_index(tmp_path).read_text()


@pytest.mark.parametrize("speed", [float("inf"), float("nan")])
def test_a_run_with_an_impossible_speed_is_damaged(tmp_path: Path, speed: float) -> None:
    keep(tmp_path, "bad", 1.0, speed)
    assert "samples_per_s" in histories.history(tmp_path).problems[0]
