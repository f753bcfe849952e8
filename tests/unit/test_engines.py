"""Engines as an inventory describes them: their settings, and how runs refer to them."""

from typing import Any

import pytest

from harness.benchmark import engines
from harness.errors import BadInput
from tests.unit.ansible_modules import Failed, call

ASKED = {"scenario": "server", "mode": "both", "samples": 600, "target_qps": "auto"}
REQUEST = {
    "run_id": "r1", "asked": ASKED, "directory": "/results/r1", "begun": False, "ended": False, "plan": {},
    "nodes": ["jw2"], "topology": "per_node", "loadgen_hosts": ["jw2"],
}  # fmt: skip


def settings(**more: Any) -> dict[str, Any]:
    arguments = {
        "request": REQUEST, "engines": [{"name": "jw2", "port": 8101}], "model": "/m", "dataset": "/d.json", **more
    }  # fmt: skip
    return call("mlperf_settings", arguments, variables={"inventory_hostname": "jw2"})


def test_own_settings_win_over_common_ones_and_those_over_defaults() -> None:
    described = [{"name": "a", "port": 1, "dtype": "float16"}, {"name": "b", "port": 2, "model": "/own"}]
    found = engines.on_host(described, {"dtype": "auto", "host": "::"}, model="/m", bind="127.0.0.1")
    assert found == [
        {"kind": "vllm", "name": "a", "port": 1, "dtype": "float16", "model": "/m", "host": "::"},
        {"kind": "vllm", "name": "b", "port": 2, "dtype": "auto", "model": "/own", "host": "::"},
    ]


@pytest.mark.parametrize(
    ("own", "address", "url"),
    [
        ({"port": 8101}, "192.0.2.1", "http://192.0.2.1:8101"),
        ({"port": 8101, "host": "0.0.0.0"}, "2001:db8::1", "http://[2001:db8::1]:8101"),
        ({"kind": "endpoint", "url": "http://far:80"}, "192.0.2.1", "http://far:80"),
    ],
)
def test_runs_reach_an_engine_at_the_nodes_address(own: dict[str, Any], address: str, url: str) -> None:
    found = engines.reference({"name": "a", "model": "/m", "max_num_seqs": 64, **own}, node="jw2", address=address)
    assert found.model_dump(exclude_none=True) == {"name": "a", "url": url, "node": "jw2", "max_in_flight": 72}


def test_wrong_settings_are_refused_before_anything_is_started() -> None:
    with pytest.raises(BadInput, match="unknown key 'prot'"):
        engines.reference({"name": "a", "model": "/m", "prot": 1, "port": 2}, node="jw2", address="x")
    with pytest.raises(Failed, match="port is missing") as refused:
        settings(engines=[{"name": "jw2"}])
    assert refused.value.result["exit"] == 2


def test_settings_of_a_host() -> None:
    found = settings(metrics_port=9000, limits={"calibration_s": 3})
    assert [engine["port"] for engine in found["engines"]] == [8101]
    assert [reference["url"] for reference in found["references"]] == ["http://127.0.0.1:8101"]
    assert found["spec"] == {
        "scenario": "server", "mode": "both", "samples": 600, "rate_attempts": 4, "node": "jw2", "model": "/m",
        "dataset": "/d.json", "reference_ids": None, "punkt": None, "limits": {"calibration_s": 3}, "seed": 42,
        "metrics_port": 9000,
    }  # fmt: skip
    assert settings(dataset="/other.json")["speed_depends_on"] != found["speed_depends_on"]
    assert settings(engines=[])["references"] == []


def test_a_rate_that_is_given_is_run_once() -> None:
    assert settings(request={**REQUEST, "asked": {**ASKED, "target_qps": 7.0}})["spec"]["rate_attempts"] == 1


def test_on_a_cluster_engines_are_services_and_the_image_has_what_a_host_is_told() -> None:
    request = {**REQUEST, "asked": {**ASKED, "launcher": "kubernetes"}}
    cluster = {"image": "registry.example.org/node@sha256:1", "namespace": "bench"}
    found = settings(request=request, cluster=cluster, gpus=2, punkt="/punkt")
    assert [engine["host"] for engine in found["engines"]] == ["0.0.0.0"] * 2
    assert [reference["url"] for reference in found["references"]] == [
        "http://engine-r1-jw2-0.bench.svc:8101", "http://engine-r1-jw2-1.bench.svc:8101",
    ]  # fmt: skip
    assert (found["spec"]["punkt"], found["spec"]["metrics_port"]) == (None, 9101)
    with pytest.raises(Failed, match="image is missing"):
        settings(request=request)
