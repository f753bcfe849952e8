"""benchmark.yml over fake servers of which one is lost in the middle: the benchmark ends with what is left."""

import os
import signal

import pytest

from tests.integration.conftest import Fakes, until

MANY = 600
"""Samples that take long enough for a test to interfere."""


@pytest.mark.long
def test_a_fleet_goes_on_without_an_engine_that_is_killed(fakes: Fakes) -> None:
    """Fault: one of two engines is killed in the performance run of a fleet."""
    site = fakes.site
    process = site.start(mode="performance", run_id="lost", samples=MANY, target_qps=40)
    until(lambda: "pick it up" in site.output(), "watching")
    until(lambda: site.status("node1", "lost")["samples_done"] > 50, "samples")
    os.kill(fakes.servers["node2"].pid, signal.SIGKILL)
    assert process.wait(200) == 2, site.output()
    assert site.read("lost", "failures.json") == []
    assert "run lost has finished, but it is INVALID" in " ".join(site.output().split())
    assert "engine node2 on node2 lost after " in site.output() and "without node2" in site.output()
    journal = site.performance("lost", "node1")
    assert sorted(line["qsl_idx"] for line in journal) == list(range(MANY))
    result = site.read("lost", "result.json")
    (loss,) = result["engine_losses"]
    assert (loss["engine"], loss["node"], loss["mode"]) == ("node2", "node2", "performance")
    assert loss["moved"] == sum("moved" in line for line in journal)
    assert loss["samples_per_s_before"] > 10 and loss["samples_per_s_after"] > 10
    reasons = result["verdict"]["reasons"]
    assert [reason["code"] for reason in reasons if reason["level"] == "INVALID"] == ["ENGINE_ALIVE"]
