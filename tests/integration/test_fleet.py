"""benchmark.yml over twenty nodes of this machine: one run tells of all, and the report is readable."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.fake_server import FakeServer
from tests.integration.conftest import Site, endpoints

NAMES = [f"node{number:02}" for number in range(1, 21)]


def inventory(site: Site, folder: Path) -> Path:
    """inventory/local with other nodes."""
    local = REPOSITORY / "inventory" / "local" / "group_vars" / "gpu_nodes.yml"
    variables: dict[str, Any] = yaml.safe_load(local.read_text()) | site.extra()
    del variables["harness_results"]
    content = {"gpu_nodes": {"hosts": {name: {} for name in NAMES}, "vars": variables}, "controller": {"hosts": {}}}
    file = folder / "twenty.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.long
def test_twenty_nodes_are_watched_by_one_run_and_reported_in_groups(site: Site, tmp_path: Path) -> None:
    with FakeServer(servers=len(NAMES), model="model", vocab=1024, ms_per_token=1.0, slots=64) as server:
        site.variables = endpoints(**dict(zip(NAMES, server.urls, strict=True)))
        words = ("-i", str(inventory(site, tmp_path)), "-e", json.dumps({"harness_engines_at_once": 5}))
        code = site.play("benchmark.yml", *words, run_id="twenty", mode="performance", target_qps=10, timeout_s=900)
    assert code == 0, site.output()[-4000:]
    plan, result = site.read("twenty", "plan.json"), site.read("twenty", "result.json")
    assert (list(plan["nodes"]), plan["loadgens"]) == (NAMES, ["node01"])
    assert sorted(plan["calibration"]["node01"]["by_engine"]) == NAMES
    assert [node["name"] for node in result["nodes"]] == NAMES
    assert (result["failures"], result["verdict"]["level"]) == ([], "UNOFFICIAL")
    assert {line["engine"] for line in site.performance("twenty", "node01")} == set(NAMES)
    states = [site.read("twenty", f"nodes/{name}/engines/{name}/engine.json")["state"] for name in NAMES]
    assert states == ["stopped"] * len(NAMES)

    looks = site.lines("twenty", "progress.jsonl")
    assert {look["host"] for look in looks if look["kind"] == "engine"} == set(NAMES)
    runs = [look for look in looks if look["kind"] == "run"]
    assert {look["host"] for look in runs} == {"node01"}
    assert sorted(one["name"] for one in runs[-1]["status"]["engines"]) == NAMES
    assert "20 engines  all answer" in site.output()
    report = (site.results / "twenty" / "report.md").read_text()
    assert "slowest of 20" in report
    assert len(report.splitlines()) < 150
