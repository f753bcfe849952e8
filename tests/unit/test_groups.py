"""Many nodes on one page: equal ones together, the odd ones by name."""

from pathlib import Path
from typing import Any

import pytest

from harness.report import groups, render
from harness.report.build import build
from harness.report.infrastructure import infrastructure, is_reading
from harness.report.record import Finding, Level, Node, Reason, Result
from tests.unit.results_tree import benchmark


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A judged benchmark of two nodes."""
    return build(benchmark(tmp_path_factory.mktemp("pair") / "run", samples=60))[0]


def fleet(pair: Result, count: int, **speeds: float | None) -> Result:
    """The same with so many nodes, equal but for some speeds: the first drives LoadGen."""

    def node(number: int) -> Node:
        name, like = f"n{number:03}", pair.nodes[min(number, 2) - 1]
        speed = speeds.get(name, 10.0 + number / 1000)
        engines = tuple(engine.model_copy(update={"name": name}) for engine in like.engines)
        figures = like.figures.model_copy(update={"samples_per_s": speed})
        why = f"takes each sample, about {number}% of them"
        return like.model_copy(update={"name": name, "engines": engines, "figures": figures, "why": why, "share": None})

    return pair.model_copy(update={"nodes": tuple(node(number) for number in range(1, count + 1))})


def test_few_nodes_have_a_row_and_a_column_each(pair: Result) -> None:
    few = fleet(pair, groups.MANY - 1)
    assert [name for name, _ in groups.shown(few.nodes)] == [node.name for node in few.nodes]
    assert len(groups.columns(infrastructure(few), few, is_reading)[0]) == groups.MANY
    assert len(groups.parts(few)) == groups.MANY - 1
    assert groups.names(["a", "b"]) == "a, b"


def test_of_many_nodes_the_slowest_the_odd_the_median_and_the_fastest_are_shown(pair: Result) -> None:
    many = fleet(pair, 100, n007=5.0, n008=6.0, n050=13.0, n099=None)
    assert [row[0] for row in render.headline(many)] == [
        "n099, not measured in this run",
        "n007, slowest of 99 in this run",
        "n008, -40 % of the median in this run",
        "n051, median in this run",
        "n050, fastest in this run",
        "together",
    ]


def test_equal_nodes_share_a_column_and_an_odd_one_has_its_own(pair: Result) -> None:
    many = fleet(pair, 100)
    odd = many.nodes[41]
    machine = odd.machine.model_copy(update={"driver": "570.1", "cuda": "12.8"})
    nodes = (*many.nodes[:41], odd.model_copy(update={"machine": machine}), *many.nodes[42:])
    changed = many.model_copy(update={"nodes": nodes})
    table = groups.columns(infrastructure(changed), changed, is_reading)
    heads = table[0][1:]
    assert "n042" in heads
    assert any(head == "99 nodes: n001, n002, n003 and 96 more" for head in heads), heads
    assert len({len(row) for row in table}) == 1


def test_what_is_said_of_many_nodes_is_said_once(pair: Result) -> None:
    many = fleet(pair, 100)
    names = [node.name for node in many.nodes]

    def reason(sentence: str) -> Reason:
        return Reason(code="UNVERIFIED", level=Level.UNOFFICIAL, sentence=sentence)

    reasons: list[Any] = [reason(f"{name}/{name}: the running server does not show weights") for name in names]
    reasons += [reason("4 % is too little"), reason("5 % is too little"), reason("n003: only this one")]
    said = [text for _, text in groups.merged(reasons, lambda one: one.sentence, many)]
    assert said == [
        "n001/n001: the running server does not show weights. Likewise: n002, n003, n004 and 96 more",
        "4 % is too little",
        "5 % is too little",
        "n003: only this one",
    ]
    findings = [Finding(code="SLOW", node=name, sentence=f"It took {at} s.") for at, name in enumerate(names)]
    [(first, text)] = groups.merged(findings, lambda one: one.sentence, many, lambda one: one.node)
    assert (first.node, text) == (
        "n001",
        "It took 0 s. Likewise, with figures of their own: n002, n003, n004 and 96 more",
    )
    assert groups.merged(reasons[:5], lambda one: one.sentence, pair) == [(one, one.sentence) for one in reasons[:5]]


def test_shares_and_calibrated_speeds_of_many_are_summed_up(pair: Result) -> None:
    [sentence] = groups.parts(fleet(pair, 100))
    assert sentence == "n001: takes each sample, about 1% of them. Likewise n002, n003, n004 and 96 more."
    assert groups.speeds({"a": 2.0, "b": 1.0}) == "a 2.00, b 1.00"
    speeds = {f"e{number}": float(number) for number in range(1, 100)}
    assert groups.speeds(speeds) == "99 engines: slowest e1 1.00, median 50.00, fastest e99 99.00"


@pytest.mark.parametrize("form", ["md", "html"])
def test_a_page_of_a_hundred_nodes_names_few_of_them(pair: Result, form: str) -> None:
    page = render.page(fleet(pair, 100), form)
    assert page.count("n077") == 0
    assert page.count("n002") >= 1


def test_a_summary_of_a_hundred_nodes_fits_a_screen(pair: Result) -> None:
    assert len(render.summary(fleet(pair, 100)).splitlines()) < 40


def test_the_files_say_everything_of_every_node(pair: Result, tmp_path: Path) -> None:
    assert "n077" in fleet(pair, 100).model_dump_json()
