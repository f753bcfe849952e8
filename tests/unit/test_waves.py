"""Engines of a cluster's hosts, started in waves."""

from collections.abc import Sequence
from typing import Any

import pytest

from harness.benchmark import waves
from harness.errors import NotReady

GOOD = {"good": True, "state": "ready", "reason": "", "log": ""}


def test_a_wave_follows_the_end_of_the_one_before() -> None:
    calls: list[tuple[str, Sequence[str]]] = []

    def start(hosts: Sequence[str]) -> dict[str, Any]:
        calls.append(("start", hosts))
        return {host: {"changed": host == "a", "error": "no such node" if host == "b" else ""} for host in hosts}

    def watch(hosts: Sequence[str]) -> waves.Ends:
        calls.append(("watch", hosts))
        return dict.fromkeys(hosts, GOOD)

    result = waves.run(["a", "b", "c"], 2, start, watch)
    assert calls == [("start", ["a", "b"]), ("watch", ["a"]), ("start", ["c"]), ("watch", ["c"])]
    assert result["hosts"] == {"a": GOOD, "b": waves.failed("no such node"), "c": GOOD}
    assert (result["changed"], result["diff"]) == (True, {"before": {"a": "down"}, "after": {"a": "up"}})


@pytest.mark.parametrize("at_once", [0, 1])
def test_without_hosts_nothing_is_started(at_once: int) -> None:
    result = waves.run([], at_once, lambda hosts: {}, lambda hosts: {})
    assert (result["changed"], result["hosts"]) == (False, {})


@pytest.mark.parametrize("error", [NotReady("no rights"), OSError("no such file")])
def test_what_keeps_a_wave_from_starting_is_a_failure_of_each_of_its_hosts(error: Exception) -> None:
    def start(hosts: Sequence[str]) -> dict[str, Any]:
        if "c" in hosts:
            return {host: {"changed": True, "error": ""} for host in hosts}
        raise error

    result = waves.run(["a", "b", "c"], 2, start, lambda hosts: dict.fromkeys(hosts, GOOD))
    assert result["hosts"] == {"a": waves.failed(str(error)), "b": waves.failed(str(error)), "c": GOOD}


def test_the_first_engine_that_failed_counts_for_its_host() -> None:
    ready, bad = {"state": "ready"}, {"state": "failed", "reason": "out of memory", "log": "/l"}
    records = [("a", ready), ("a", bad), ("a", {**bad, "reason": "late"}), ("b", ready), ("c", {"state": "stopped"})]
    assert waves.ends(records) == {
        "a": {"good": False, "state": "failed", "reason": "out of memory", "log": "/l"},
        "b": GOOD,
        "c": {"good": False, "state": "stopped", "reason": "it ended as stopped", "log": ""},
    }
