"""Every page in a real browser: it stands alone, fits a phone, can be read in light and dark, and shows the result."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import compare, report
from harness.compare.history import write_index
from tests.browser import Page, chromium
from tests.unit import results_tree
from tests.unit.results_tree import START, Pace, benchmark, edit

pytestmark = pytest.mark.xdist_group("browser")
PAGES = ("new/report.html", "new/compare.html", "new/repeats.html", "index.html", "bad/report.html", "many/report.html")
GPU_ROW = ",24.0,0,95,20.1,150.0,1400,60,power,"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind with their pages: a comparison with repeats, one that is INVALID, one of many nodes."""
    folder = tmp_path_factory.mktemp("results")
    for number, name in enumerate(("alpha", "beta")):
        alone = folder / f"{name}-alone"
        report.report(benchmark(alone, nodes=[name], samples=100, created_unix=START - 9500 + number))
    for number, name in enumerate(("base", "base-r2", "new", "new-r2")):
        home = benchmark(folder / name, samples=100, speeds={"alpha": 3}, created_unix=START - 9000 + number)
        results_tree.edit(home / "plan.json", lambda plan: plan["nodes"]["alpha"].update(price_per_hour=1.8))
        for path in home.glob("nodes/*/engines/*/telemetry.csv"):
            path.write_text(path.read_text().replace(",24.0,,,,,,,,", GPU_ROW))
        report.report(home)

        def change(result: Any, name: str = name, number: int = number) -> None:
            result["asked"].update(repeat_of=name.partition("-")[0] if "-" in name else None, target_qps=10.0)
            result["nodes"][0]["machine"]["driver"] = "590" if number > 1 else "580"
            result["together"]["ttft"]["p99_ms"] += 30 * (number > 1) + 0.1 * (number % 2)

        if name != "new":
            edit(home / "result.json", change)
    compare.conclude(folder / "new", "base", 3.0)
    bad = benchmark(folder / "bad", pace=Pace(ttft_ms=2500.0, slow=9, slow_ttft_ms=9000), created_unix=START - 20)
    over = {"verdict": "INVALID", "target_qps": 50.0, "ttft_ms_p99": 2310.0}
    results_tree.attempts(bad, over, over | {"target_qps": 42.0})
    report.report(bad)
    report.report(benchmark(folder / "many", nodes=[f"node{number}" for number in range(9)], samples=90))
    (folder / "broken <b>").mkdir()
    write_index(folder)
    return folder


@pytest.mark.parametrize("name", PAGES)
def test_a_page_stands_alone_and_fits_a_phone(browser: Page, results: Path, name: str) -> None:
    for width in (360, 1280):
        browser.open(results / name, width, "light")
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(OUTSIDE) == []
        assert (browser.complaints, browser.requests) == ([], [])
    pictures = browser.run("[...document.querySelectorAll('svg')].map(one => one.querySelector('title')?.textContent)")
    assert pictures and all(pictures)
    assert browser.run("document.querySelectorAll('img, script, link, iframe').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_all_text_can_be_read(browser: Page, results: Path, name: str, scheme: str) -> None:
    browser.open(results / name, 1280, scheme)
    dark = browser.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert browser.run(CONTRAST) == []


def test_the_check_of_contrast_and_of_width_can_fail(browser: Page, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<body style="color:#999"><p>pale</p><p style="width:500px">wide</p><img src="gone.png">')
    browser.open(page, 360, "light")
    assert {text for text, _ in browser.run(CONTRAST)} == {"pale", "wide"}
    assert browser.run(OUTSIDE) == ["P"] and browser.requests and browser.complaints


def test_figures_on_the_page_are_those_of_the_result(browser: Page, results: Path) -> None:
    browser.open(results / "new/report.html", 1280, "light")
    rows = rows_of(browser, "table.headline")
    result = json.loads((results / "new/result.json").read_text())
    of = [*(node["figures"] for node in result["nodes"]), result["together"]]
    assert [row[0] for row in rows] == ["alpha in this run", "beta in this run", "together"]
    for row, figures in zip(rows, of, strict=True):
        assert number(row[1]) == pytest.approx(figures["samples_per_s"], abs=0.005)
        assert number(row[2]) == pytest.approx(figures["tokens_per_s"], abs=0.5)
        for cell, latency in ((row[4], figures["ttft"]), (row[5], figures["tpot"])):
            shown = [number(text) for text in cell.split(" / ")]
            assert shown == pytest.approx([latency[f"p{p}_ms"] for p in (50, 90, 99)], abs=0.5)
        assert [number(text) for text in row[6].split(" / ")] == pytest.approx(
            [figures["rouge"][name] for name in ("rouge1", "rouge2", "rougeL")], abs=0.005
        )
    energy = [*(node["energy"] for node in result["nodes"]), result["energy"]]
    shown = rows_of(browser, "table.energy")
    for cells, part in zip(shown, energy, strict=True):
        assert number(cells[1]) == pytest.approx(part["joules"], abs=0.5)
        for cell, name in ((cells[3], "tokens_per_joule"), (cells[4], "joules_per_sample")):
            assert number(cell) == pytest.approx(part[name], abs=0.005)
    assert [cells[6] for cells in shown] == ["1.80", "–", "–"]
    titles = browser.run("[...document.querySelectorAll('svg title')].map(one => one.textContent)")
    assert f"together {result['together']['samples_per_s']:.2f} samples/s" in titles[0]
    assert any(title.startswith("Efficiency: ") for title in titles)


def rows_of(browser: Page, table: str) -> list[list[str]]:
    """The cells of a table's rows."""
    found: list[list[str]] = browser.run(
        f"[...document.querySelectorAll('{table} tbody tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    return found


def test_figures_of_the_index_are_those_of_the_results(browser: Page, results: Path) -> None:
    browser.open(results / "index.html", 1280, "light")
    rows = {row[0].split()[0]: row for row in rows_of(browser, "table")}
    assert set(rows) == {path.parent.name for path in results.glob("*/result.json")}
    for name, row in rows.items():
        result = json.loads((results / name / "result.json").read_text())
        figures = result["together"]
        p99 = [figures[latency]["p99_ms"] for latency in ("ttft", "tpot")]
        shown = [figures["samples_per_s"], figures["tokens_per_s"], *p99]
        assert row[1] == result["verdict"]["level"]
        assert [number(text) for text in row[3:7]] == pytest.approx(shown, abs=0.5)
        assert number(row[3]) == pytest.approx(figures["samples_per_s"], abs=0.005)
        assert number(row[7]) == pytest.approx(figures["rouge"]["rougeL"], abs=0.005)


def test_figures_of_repeats_are_those_of_their_file(browser: Page, results: Path) -> None:
    browser.open(results / "new/repeats.html", 1280, "light")
    rows, document = rows_of(browser, "table"), json.loads((results / "new/repeats.json").read_text())
    assert len(rows) == len(document["rows"]) > 8
    for cells, row in zip(rows, document["rows"], strict=True):
        assert cells[0].startswith(row["metric"])
        low, high = cells[3].split(" to ")
        shown = [number(text) for text in (cells[1], low, high, *cells[4:])]
        assert shown == pytest.approx([row["median"], row["low"], row["high"], *row["values"]], abs=0.5)
        assert number(cells[2].removesuffix(" %")) == pytest.approx(row["deviation_percent"], abs=0.005)


def test_figures_of_a_comparison_are_those_of_its_file(browser: Page, results: Path) -> None:
    browser.open(results / "new/compare.html", 1280, "light")
    rows = rows_of(browser, "table.headline")
    compared = json.loads((results / "new/compare.json").read_text())
    assert len(rows) == len(compared["rows"]) > 8
    for cells, row in zip(rows, compared["rows"], strict=True):
        assert cells[0].startswith(row["metric"]) and cells[5] == row["word"]
        assert number(cells[1]) == pytest.approx(row["base"], abs=0.5)
        assert number(cells[3].removesuffix(" %")) == pytest.approx(row["difference_percent"], abs=0.005)


def number(text: str) -> float:
    return float(text.replace(",", ""))


# Elements that reach beyond the window and lie in no box that scrolls by itself.
OUTSIDE = """[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1
  && !one.parentElement.closest('.wide, figure')).map(one => one.tagName)"""

# Texts with less contrast than WCAG's AA asks for, against what is painted behind them.
CONTRAST = """(() => {
  const rgb = text => (text.match(/[0-9.]+/g) || [0, 0, 0, 0]).map(Number);
  const seen = c => c.length < 4 || c[3] > 0.5;
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ratio = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (seen(colour) && getComputedStyle(at).backgroundColor !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return [255, 255, 255];
  };
  const inside = (inner, outer) => { const a = inner.getBoundingClientRect(), b = outer.getBoundingClientRect();
    const x = (a.left + a.right) / 2, y = (a.top + a.bottom) / 2;
    return b.left <= x && x <= b.right && b.top <= y && y <= b.bottom; };
  const bars = [...document.querySelectorAll('svg path')].filter(one => {
    const style = getComputedStyle(one), box = one.getBoundingClientRect();
    return style.fill !== 'none' && style.opacity * style.fillOpacity > .8 && box.height > 12 && box.width > 30; });
  const pale = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    const svg = one instanceof SVGElement;
    if (!own || (svg && one.tagName !== 'text' && one.tagName !== 'tspan') || one.tagName === 'STYLE') continue;
    const style = getComputedStyle(one), size = parseFloat(style.fontSize);
    const bar = svg && bars.filter(path => inside(one, path)).pop();
    const ground = bar ? rgb(getComputedStyle(bar).fill) : behind(svg ? one.closest('figure') : one);
    const needed = size >= 24 || (size >= 18.6 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const found = ratio(rgb(svg ? style.fill : style.color), ground);
    if (found < needed) pale.push([one.textContent.trim().slice(0, 40), found]);
  }
  return pale;
})()"""
