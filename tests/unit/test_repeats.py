"""A benchmark several times: its repeats, the spread between them, and the baseline that they are compared with."""

import json
import re
import shutil
import xml.etree.ElementTree as Xml
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness import compare, report
from harness.benchmark import plan, public_settings, repeats
from harness.benchmark.request import Request
from harness.cli import cli
from harness.compare import sets
from harness.errors import BadInput, RunFailed
from tests.unit.ansible_modules import Failed, call
from tests.unit.results_tree import START, benchmark, edit
from tests.unit.test_compare import keep


def asked(**more: Any) -> public_settings.Asked:
    return public_settings.check({"samples": 50, **more})


def first(results: Path, **more: Any) -> Request:
    folder = benchmark(results / "run")
    return Request(
        run_id="run", asked=asked(**more), directory=folder, begun=True, ended=False, plan={},
        nodes=("alpha", "beta"), topology="fleet", loadgen_hosts=("alpha", "beta"),
    )  # fmt: skip


def planned(folder: Path) -> plan.Plan:
    """The plan of a run; the tree's is less than a whole one."""
    content = json.loads((folder / "plan.json").read_text())
    made = plan.load(folder / "plan.json")
    assert made and made.loadgens == tuple(content["loadgens"])
    return made


def test_a_repeat_has_the_rate_that_was_found_as_a_number(tmp_path: Path) -> None:
    request = first(tmp_path, repeats="3", baseline="latest", regression_percent="3")
    edit(request.directory / "nodes/alpha/outcome.json", lambda outcome: outcome.update(target_qps=12.5))
    repeat, made = repeats.begin(request, planned(request.directory), 2)
    assert (repeat.run_id, repeat.repeat_of, repeat.directory) == ("run-r2", "run", tmp_path / "run-r2")
    assert (repeat.asked.target_qps, repeat.asked.repeats, repeat.asked.baseline) == (12.5, 1, None)
    assert made.nodes["alpha"].target_qps == 12.5 and made.nodes["beta"].target_qps is None
    stored = json.loads((tmp_path / "run-r2/request.json").read_text())
    assert stored["repeat_of"] == "run" and stored["asked"]["target_qps"] == 12.5
    assert plan.load(tmp_path / "run-r2/plan.json") == made
    with pytest.raises(BadInput, match="run-r2 is there already; choose another run_id"):
        repeats.begin(request, made, 2)


def test_without_a_rate_nothing_is_repeated(tmp_path: Path) -> None:
    request = first(tmp_path)
    edit(request.directory / "nodes/alpha/outcome.json", lambda outcome: outcome.update(target_qps=None))
    with pytest.raises(RunFailed, match="no rate to repeat at"):
        repeats.begin(request, planned(request.directory), 2)
    assert not (tmp_path / "run-r2").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"restart_engines": "true"}, "restart_engines = true needs more than one repeat"),
        ({"regression_percent": "3"}, "nothing to compare with"),
        ({"repeats": "2", "launcher": "kubernetes"}, "engines belong to one run"),
        ({"repeats": "20", "target_qps": "0.005"}, "more than a day"),
        ({"repeats": "2", "target_qps": "peak", "samples": 13368}, "start the benchmark several times, and compare"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        asked(**given)


def side(results: Path, name: str, created: float, *speeds: float, **machine: Any) -> None:
    """A run with these speeds, the first its own, the others of its repeats."""
    for number, speed in enumerate(speeds):
        run_id = name if not number else f"{name}-r{number + 1}"
        keep(results, run_id, created + number, speed, **machine)
        if number:
            edit(results / run_id / "result.json", lambda result: result["asked"].update(repeat_of=name))


def test_a_run_is_compared_with_its_repeats(tmp_path: Path) -> None:
    side(tmp_path, "before", 1.0, 40.0, 40.2, 39.9)
    side(tmp_path, "after", 10.0, 36.0, 36.1, driver="590.2")
    keep(tmp_path, "after-another", 20.0, 50.0)
    comparison = compare.compare(["before"], ["after"], tmp_path, regression_percent=3)
    assert (comparison.base, comparison.new) == (("before", "before-r2", "before-r3"), ("after", "after-r2"))
    assert comparison.gate and comparison.gate.failed
    assert compare.compare(["before,".strip(","), "before-r2"], ["after"], tmp_path).base == (
        "before", "before-r3", "before-r2")  # fmt: skip


def test_the_spread_is_between_runs(tmp_path: Path) -> None:
    side(tmp_path, "run", 1.0, 40.0, 42.0, 41.0)
    made = compare.conclude(tmp_path / "run")
    assert made.repeats and made.repeats.runs == ("run", "run-r2", "run-r3")
    row = made.repeats.rows[0]
    # By hand: logarithms' standard deviation 0.024395, t(2) at 97.5 % is 4.3027.
    assert (row.median, row.values) == (41.0, (40.0, 42.0, 41.0))
    assert (row.deviation_percent, row.low, row.high) == pytest.approx((2.4695, 38.582, 43.553), abs=0.002)
    page = (tmp_path / "run/repeats.html").read_text()
    assert "41.00" in page and 'href="../run-r2/report.html"' in page
    assert "median 41.00 samples/s" in made.text
    assert json.loads((tmp_path / "run/repeats.json").read_text())["runs"] == ["run", "run-r2", "run-r3"]


def test_one_run_without_baseline_writes_nothing(tmp_path: Path) -> None:
    keep(tmp_path, "run", 1.0)
    made = compare.conclude(tmp_path / "run")
    assert (made.text, made.repeats, made.comparison) == ("", None, None)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]


def test_latest_is_the_last_run_of_the_same_work_that_is_not_invalid(tmp_path: Path) -> None:
    side(tmp_path, "old", 1.0, 40.0, 40.1)
    keep(tmp_path, "other", 5.0, model_sha256="c" * 64)
    keep(tmp_path, "wrong", 6.0)
    edit(tmp_path / "wrong/result.json", lambda result: result["verdict"].update(level="INVALID"))
    side(tmp_path, "new", 10.0, 40.0, 40.1)
    keep(tmp_path, "later", 20.0)
    new = sets.expand(["new"], tmp_path)[0]
    assert [run.run_id for run in sets.baseline("latest", new, tmp_path)] == ["old", "old-r2"]
    assert sets.baseline("pinned", new, tmp_path) == []


def test_a_run_whose_answers_were_judged_by_something_else_is_no_baseline(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "reference", "new")):
        keep(tmp_path, name, float(number))
        edit(tmp_path / name / "result.json", lambda result: result["together"].update(rouge={"rouge1": 40.0}))
    edit(tmp_path / "reference/result.json", lambda result: result.update(accuracy_reference={"compared": 600}))
    new = sets.expand(["new"], tmp_path)[0]
    assert [run.run_id for run in sets.baseline("latest", new, tmp_path)] == ["old"]
    for name in ("old", "reference"):
        sets.pin(name, tmp_path)
    assert sets.pins(tmp_path) == ["old", "reference"]
    assert [run.run_id for run in sets.baseline("pinned", new, tmp_path)] == ["old"]


def test_pinning_replaces_the_pin_of_the_same_work_only(tmp_path: Path) -> None:
    for number, (name, more) in enumerate({"a": {}, "b": {"model_sha256": "c" * 64}, "c": {}, "new": {}}.items()):
        keep(tmp_path, name, float(number), **more)
    for name in ("a", "b", "c"):
        done = CliRunner().invoke(cli, ["pin", name, "--results", str(tmp_path)], standalone_mode=False)
        assert done.exception is None and f"pinned: {name}" in done.output
    assert sets.pins(tmp_path) == ["b", "c"]
    new = sets.expand(["new"], tmp_path)[0]
    assert [run.run_id for run in sets.baseline("pinned", new, tmp_path)] == ["c"]
    (tmp_path / "pinned.json").write_text("{}")
    with pytest.raises(BadInput, match=r"list of pinned runs .* is damaged"):
        sets.pins(tmp_path)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("nope", "run nope is neither a folder nor a run"),
        ("pinned", "no run is pinned; pin one with `harness pin RUN_ID`"),
        ("run", "not the same work \\(scenario: offline against server; mode: both against performance\\)"),
        ("silent", "has no figures"),
    ],
)
def test_a_baseline_that_cannot_serve_is_refused_at_once(tmp_path: Path, choice: str, says: str) -> None:
    keep(tmp_path, "run", 1.0)
    keep(tmp_path, "silent", 1.0, speed=None)
    settings = {"scenario": "server", "mode": "performance", "samples": 600, "topology": "fleet"}
    with pytest.raises(BadInput, match=says):
        sets.refuse_unfit(choice, settings, tmp_path)
    sets.refuse_unfit("latest", settings, tmp_path)


@pytest.mark.parametrize(
    ("speeds", "outcome"),
    [((36.0, 36.1, 36.0), "failure"), ((39.9, 40.0, 40.1), None), ((36.0,), "skipped")],
)
def test_the_gate_is_a_case_of_junit(tmp_path: Path, speeds: tuple[float, ...], outcome: str | None) -> None:
    names = ["base", "base-r2", "base-r3", "new", "new-r2", "new-r3"]
    for number, (name, speed) in enumerate(zip(names, (40.0, 40.1, 39.9, *speeds), strict=False)):
        report.report(benchmark(tmp_path / name, scenario="offline", created_unix=START - 9000 + number))

        def change(result: Any, name: str = name, speed: float = speed) -> None:
            result["together"]["samples_per_s"] = result["together"]["tokens_per_s"] = speed
            result["asked"]["repeat_of"] = name.partition("-")[0] if "-" in name else None

        edit(tmp_path / name / "result.json", change)
    before = Xml.parse(tmp_path / "new/junit.xml").getroot()
    made = compare.conclude(tmp_path / "new", "base", 3.0)
    suite = Xml.parse(tmp_path / "new/junit.xml").getroot()
    case = suite.find("testcase[@classname='comparison']")
    assert case is not None and "base" in case.get("name", "")
    assert [child.tag for child in case] == ([outcome] if outcome else [])
    for kind in ("failures", "skipped"):
        more = int(suite.get(kind, "0")) - int(before.get(kind, "0"))
        assert more == (outcome in (kind, kind.removesuffix("s")))
    assert bool(made.slower) == (outcome == "failure")
    short = (tmp_path / "new/summary.md").read_text()
    assert short.startswith("### ") and ("❌" in short) == (outcome == "failure") and len(short.splitlines()) < 20


def test_the_module_reports_once_and_says_so(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "base-r2", "new", "new-r2")):
        report.report(benchmark(tmp_path / name, scenario="offline", created_unix=START - 9000 + number))
        repeat_of = name.partition("-")[0] if "-" in name else None
        edit(tmp_path / name / "result.json", lambda result, of=repeat_of: result["asked"].update(repeat_of=of))
    arguments = {"path": str(tmp_path / "new"), "baseline": "latest", "regression_percent": 3.0}
    assert call("mlperf_compare", arguments, check=True)["changed"] is False
    first = call("mlperf_compare", arguments)
    assert first["changed"] is True and "Against base" in first["text"] and first["slower"] == ""
    index = (tmp_path / "index.html").read_text()
    assert 'href="new/compare.html"' in index and 'href="new/repeats.html"' in index
    assert call("mlperf_compare", arguments)["changed"] is False
    assert first["warnings"] == []
    shutil.rmtree(tmp_path / "new-r2")
    (warning,) = call("mlperf_compare", arguments)["warnings"]
    assert "is slower by more than 3 % is not certain; " in warning
    assert call("mlperf_compare", {"path": str(tmp_path / "none")})["text"] == ""


def test_control_characters_of_a_foreign_result_reach_no_page(tmp_path: Path) -> None:
    report.report(benchmark(tmp_path / "new", scenario="offline"))
    shutil.copytree(tmp_path / "new", tmp_path / "base")

    def change(result: dict[str, Any]) -> None:
        bad = "\x1b[31mred\x1b]0;title\x07 \0 \x9b \ud800"
        result["run_id"], result["verdict"]["level"] = f"base {bad}", "INVALID"
        result["nodes"][0]["machine"] |= {"driver": bad, "variables": {f"A{bad}": bad}}

    edit(tmp_path / "base/result.json", change)
    arguments = {"path": str(tmp_path / "new"), "baseline": "base", "regression_percent": 3.0}
    answer = call("mlperf_compare", arguments)
    assert "Against base red" in answer["text"]
    case = Xml.parse(tmp_path / "new/junit.xml").getroot().find("testcase[@classname='comparison']")
    assert case is not None and "base red" in case.get("name", "")
    names = ("junit.xml", "compare.html", "compare.md", "compare.json", "summary.md")
    texts = [json.dumps(answer), *((tmp_path / "new" / name).read_text() for name in names)]
    for text in texts:
        assert not set(text) & {"\x1b", "\0", "\x07", "\x9b"} and not re.search(r"\\u(00[019]|d800)", text)


def test_a_baseline_of_other_weights_is_bad_input_and_latest_passes_it_by(tmp_path: Path) -> None:
    keep(tmp_path, "base", 1.0, model_sha256="c" * 64)
    keep(tmp_path, "unknown", 2.0, model_sha256=None)
    keep(tmp_path, "new", 3.0)
    with pytest.raises(
        Failed, match=r"not the same work \(weights \(sha256\): cccccccccccc against aaaaaaaaaaaa\)"
    ) as wrong:
        call("mlperf_compare", {"path": str(tmp_path / "new"), "baseline": "base"})
    assert wrong.value.result["exit"] == 2
    assert "no such run" in call("mlperf_compare", {"path": str(tmp_path / "new"), "baseline": "latest"})["text"]
    keep(tmp_path, "unknown-too", 4.0, model_sha256=None)
    assert sets.baseline("latest", sets.expand(["unknown-too"], tmp_path)[0], tmp_path) == []
    with pytest.raises(BadInput, match="the weights of unknown, unknown-too are not known"):
        compare.compare(["unknown"], ["unknown-too"], tmp_path)


def test_the_module_begins_a_repeat_once(tmp_path: Path) -> None:
    request = first(tmp_path, repeats="2")
    arguments = {"request": request.model_dump(mode="json"), "number": 2}
    assert call("mlperf_repeat", arguments, check=True) == {"changed": True}
    made = call("mlperf_repeat", arguments)
    assert made["request"]["run_id"] == made["plan"]["run_id"] == "run-r2" and made["plan"]["schema"] == 1
    with pytest.raises(Failed, match="choose another run_id"):
        call("mlperf_repeat", arguments)


@pytest.mark.parametrize(("price", "found"), [("", None), ("1.8", 1.8), ("0", 0.0)])
def test_the_price_of_a_node_reaches_the_plan(price: str, found: float | None) -> None:
    from tests.unit.test_engines import settings

    assert settings(price_per_hour=price)["price_per_hour"] == found


@pytest.mark.parametrize("price", ["-1", "much", "nan", "inf"])
def test_a_price_that_is_none_is_refused(price: str) -> None:
    from tests.unit.test_engines import settings

    with pytest.raises(Failed, match=f"node_price_per_hour = '{price}': give what an hour"):
        settings(price_per_hour=price)
