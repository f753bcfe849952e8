"""benchmark.yml several times at one rate, and against a baseline, over fake servers."""

import json
import xml.etree.ElementTree as Xml

import pytest

from tests.integration.conftest import Fakes

pytestmark = pytest.mark.long
# The LoadGen's node alone: of a server on another node nobody knows the weights, and so whether the work is the same.
ALONE = ("benchmark.yml", "--limit", "node1")
WORK = {"mode": "performance", "samples": 60, "target_qps": 40, "repeats": 2}


def test_repeats_are_compared_with_a_baseline_and_the_gate_fails(fakes: Fakes) -> None:
    site = fakes.site
    assert site.play(*ALONE, run_id="before", **WORK) == 0, site.output()
    second = site.read("before-r2", "result.json")
    assert (second["asked"]["repeat_of"], second["asked"]["target_qps"]) == ("before", 40)
    assert second["attempts"] == [] and second["verdict"]["level"] == "UNOFFICIAL"
    spread = site.read("before", "repeats.json")
    assert spread["runs"] == ["before", "before-r2"]
    row = next(row for row in spread["rows"] if row["metric"] == "TTFT p50")
    assert row["values"][1] == second["together"]["ttft"]["p50_ms"]
    # The repeat used the engines of the first run, which were stopped after the last one.
    engines = [site.read(run, "nodes/node1/engines/node1/engine.json") for run in ("before", "before-r2")]
    assert [engine["state"] for engine in engines] == ["ready", "ready"]
    assert engines[0]["started_unix"] == engines[1]["started_unix"]
    stopped = json.loads((site.folder / "node1/engines/node1/engine.json").read_text())
    assert stopped["state"] == "stopped"

    for server in fakes.servers.values():
        server.set(ms_per_token=3.0)
    gate = {"baseline": "before", "regression_percent": 3}
    assert site.play(*ALONE, run_id="after", restart_engines=True, **WORK, **gate) == 2
    assert "slower by more than 3 % in" in " ".join(site.output().split()), site.output()
    assert site.read("after", "compare.json")["new"] == ["after", "after-r2"]
    suite = Xml.parse(site.results / "after" / "junit.xml")
    assert suite.find("testcase[@classname='comparison']/failure") is not None
    assert "slower" in (site.results / "after" / "summary.md").read_text()


def test_a_baseline_that_is_not_there_is_refused_before_anything_starts(fakes: Fakes) -> None:
    site = fakes.site
    assert site.play(mode="performance", baseline="nope") == 2
    assert "run nope is neither a folder nor a run in" in " ".join(site.output().split())
    assert site.untouched()
