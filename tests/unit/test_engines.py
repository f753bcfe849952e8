"""Engines as an inventory describes them: their settings, and how runs refer to them."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleError

from harness.benchmark import engines
from harness.errors import BadInput
from tests.unit.ansible_modules import Failed, action, call, on_this_machine

ASKED = {"scenario": "server", "mode": "both", "samples": 600, "target_qps": "auto"}
REQUEST = {
    "run_id": "r1", "asked": ASKED, "directory": "/results/r1", "begun": False, "ended": False, "plan": {},
    "nodes": ["jw2"], "topology": "per_node", "loadgen_hosts": ["jw2"],
}  # fmt: skip


A30 = {"name": "NVIDIA A30", "memory_mib": 24_576, "compute_capability": "8.0"}
UNKNOWN = {"name": None, "memory_mib": None, "compute_capability": None}


def there(*kinds: dict[str, Any]) -> dict[str, Any]:
    """What is known of a host with these GPUs."""
    gpus = [{**kind, "index": index, "uuid": f"GPU-{index}"} for index, kind in enumerate(kinds)]
    return {"state": "absent", "gpus": gpus}


def settings(**more: Any) -> dict[str, Any]:
    arguments = {
        "request": REQUEST, "engines": [{"name": "jw2", "port": 8101}], "model": "/m", "dataset": "/d.json", **more
    }  # fmt: skip
    return call("mlperf_settings", arguments, variables={"inventory_hostname": "jw2"})


def test_own_settings_win_over_common_ones_and_those_over_defaults() -> None:
    described = [{"name": "a", "port": 1, "dtype": "float16"}, {"name": "b", "port": 2, "model": "/own"}]
    configs = engines.on_host(described, {"dtype": "auto", "host": "::"}, model="/m", bind="127.0.0.1")
    assert configs == [
        {"kind": "vllm", "name": "a", "port": 1, "dtype": "float16", "model": "/m", "host": "::"},
        {"kind": "vllm", "name": "b", "port": 2, "dtype": "auto", "model": "/own", "host": "::"},
    ]


@pytest.mark.parametrize(
    ("count", "width", "engines_of_host"),
    [
        (0, 1, {"jw2": (8101, None)}),
        (1, 1, {"jw2": (8101, "0")}),
        (2, 2, {"jw2": (8101, "0,1")}),
        (3, 1, {"jw2-0": (8101, "0"), "jw2-1": (8102, "1"), "jw2-2": (8103, "2")}),
        (5, 2, {"jw2-0": (8101, "0,1"), "jw2-1": (8102, "2,3")}),
    ],
)
def test_auto_is_one_engine_for_each_gpu(count: int, width: int, engines_of_host: dict[str, Any]) -> None:
    common = {"tensor_parallel": width, "max_num_seqs": 64}
    result = settings(engines="auto", engine_settings=common, runs=there(*[UNKNOWN] * count))
    assert {engine["name"]: (engine["port"], engine.get("gpus")) for engine in result["engines"]} == engines_of_host


def test_other_words_than_auto_and_too_few_gpus_are_refused() -> None:
    with pytest.raises(Failed, match="harness_engines = 'all' on jw2: give a list of engines, or auto"):
        settings(engines="all")
    with pytest.raises(Failed, match="tensor_parallel = 4, but jw2 has 2 GPUs; use 2 or fewer"):
        settings(engines="auto", engine_settings={"tensor_parallel": 4}, runs=there(A30, A30))


def test_engines_have_the_settings_of_their_gpus_where_none_are_given() -> None:
    h100 = {"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81_559, "compute_capability": "9.0"}

    def shown(**more: Any) -> list[tuple[Any, ...]]:
        keys = ("max_num_seqs", "max_num_batched_tokens", "quantization", "kv_cache_dtype")
        return [tuple(map(engine.get, keys)) for engine in settings(runs=there(A30, h100), **more)["engines"]]

    a30, fast = (48, 2048, None, None), (256, 8192, "fp8_per_channel", "fp8")
    assert shown(engines="auto") == [a30, fast]
    assert shown(engines=[{"name": "a", "port": 1, "gpus": "GPU-1"}, {"name": "b", "port": 2}]) == [fast, a30]
    assert shown(engines="auto", engine_settings={"max_num_seqs": 32, "kv_cache_dtype": None})[1][::3] == (32, None)
    assert shown(engines="auto", engine_settings_by_gpu=False) == [(None,) * 4] * 2
    # With two GPUs the smaller one decides, of servers that are no vLLM of ours nothing does.
    assert shown(engines="auto", engine_settings={"tensor_parallel": 2}) == [(234, 2048, None, None)]
    others = [{"name": "a", "kind": "endpoint", "url": "http://far"}, {"name": "b", "kind": "deepspeed", "port": 2}]
    assert shown(engines=others) == [(None,) * 4] * 2


@pytest.mark.parametrize(
    ("own", "address", "url"),
    [
        ({"port": 8101}, "192.0.2.1", "http://192.0.2.1:8101"),
        ({"port": 8101, "host": "0.0.0.0"}, "2001:db8::1", "http://[2001:db8::1]:8101"),
        ({"kind": "endpoint", "url": "http://far:80"}, "192.0.2.1", "http://far:80"),
    ],
)
def test_runs_reach_an_engine_at_the_nodes_address(own: dict[str, Any], address: str, url: str) -> None:
    reference = engines.reference({"name": "a", "model": "/m", "max_num_seqs": 64, **own}, node="jw2", address=address)
    assert reference.model_dump(exclude_none=True) == {"name": "a", "url": url, "node": "jw2", "max_in_flight": 72}


def test_wrong_settings_are_refused_before_anything_is_started() -> None:
    with pytest.raises(BadInput, match="unknown key 'prot'"):
        engines.reference({"name": "a", "model": "/m", "prot": 1, "port": 2}, node="jw2", address="x")
    with pytest.raises(Failed, match="port is missing") as refused:
        settings(engines=[{"name": "jw2"}])
    assert refused.value.result["exit"] == 2


def test_settings_of_a_host() -> None:
    result = settings(metrics_port=9000, limits={"calibration_s": 3})
    assert [engine["port"] for engine in result["engines"]] == [8101]
    assert [reference["url"] for reference in result["references"]] == ["http://127.0.0.1:8101"]
    assert result["spec"] == {
        "scenario": "server", "mode": "both", "samples": 600, "rate_attempts": 4, "node": "jw2", "model": "/m",
        "dataset": "/d.json", "reference_ids": None, "punkt": None, "limits": {"calibration_s": 3}, "seed": 42,
        "metrics_port": 9000, "metrics_address": "127.0.0.1", "on_engine_loss": "continue", "replay_of": None,
    }  # fmt: skip
    assert settings(dataset="/other.json")["speed_depends_on"] != result["speed_depends_on"]
    assert settings(engines=[])["references"] == []


def test_a_host_that_did_not_answer_is_lost_with_its_first_failure() -> None:
    result = settings(reply={"unreachable": True, "msg": "no route"}, runs={})
    failure = {"host": "jw2", "phase": "reach", "reason": "jw2 is unreachable: no route", "log": None}
    assert (result["lost"], result["state"], result["failures"]) == (True, "lost", [failure])
    assert (settings()["lost"], settings()["failures"]) == (False, [])


@pytest.mark.parametrize(
    ("request_", "engines", "restarts"),
    [
        ({"topology": "per_node"}, 1, 0), ({"topology": "per_node"}, 2, 1), ({"topology": "fleet"}, 1, 1),
        ({"topology": "fleet", "asked": {**ASKED, "on_engine_loss": "fail"}}, 1, 0),
    ],
)  # fmt: skip
def test_engines_are_started_again_only_where_their_run_goes_on_meanwhile(
    request_: dict[str, Any], engines: int, restarts: int
) -> None:
    described = [{"name": f"e{number}", "port": 8101 + number} for number in range(engines)]
    configs = settings(request={**REQUEST, **request_}, engines=described, engine_restarts=1)["engines"]
    assert [config["restarts"] for config in configs] == [restarts] * engines
    assert (
        settings(request={**REQUEST, "topology": "fleet"}, engine_settings={"restarts": 3})["engines"][0]["restarts"]
        == 3
    )


@pytest.mark.parametrize(
    ("topology", "bind", "own", "listens", "reached"),
    [
        ("per_node", "", {}, "127.0.0.1", "127.0.0.1"),
        ("fleet", "", {}, "192.0.2.2", "192.0.2.2"),
        ("per_node", "0.0.0.0", {}, "0.0.0.0", "192.0.2.2"),
        ("fleet", "0.0.0.0", {}, "0.0.0.0", "192.0.2.2"),
        ("per_node", "", {"host": "192.0.2.2"}, "192.0.2.2", "192.0.2.2"),
    ],
)
def test_engines_listen_at_the_narrowest_address_that_works(
    topology: str, bind: str, own: dict[str, Any], listens: str, reached: str
) -> None:
    request = {**REQUEST, "topology": topology}
    result = settings(request=request, bind=bind, address="192.0.2.2", engines=[{"name": "a", "port": 8101, **own}])
    assert result["engines"][0]["host"] == listens
    assert result["references"][0]["url"] == f"http://{reached}:8101"


def test_keys_are_read_from_where_the_engines_have_them_and_an_inventory_has_none() -> None:
    far = {"kind": "endpoint", "url": "http://far"}
    described = [
        {"name": "own", "port": 8101}, {"name": "env", **far, "api_key_env": "KEY"}, {"name": "open", **far},
        {"name": "file", **far, "api_key_file": "/secret/key"},
    ]  # fmt: skip
    result = settings(engines=described, root="/srv")
    assert result["key_files"] == {"own": "/srv/keys/own", "env": "/srv/keys/env", "file": "/secret/key"}
    assert result["_ansible_no_log"] is True
    with pytest.raises(Failed, match="engine a: api_key has no place in an inventory") as refused:
        settings(engines=[{"name": "a", **far, "api_key": "hunter2"}])
    assert "hunter2" not in str(refused.value.result)


def test_a_fixed_rate_is_run_once() -> None:
    assert settings(request={**REQUEST, "asked": {**ASKED, "target_qps": 7.0}})["spec"]["rate_attempts"] == 1


def test_on_a_cluster_engines_are_services_and_paths_are_the_images() -> None:
    request = {**REQUEST, "asked": {**ASKED, "launcher": "kubernetes"}}
    cluster = {"image": "registry.example.org/node@sha256:" + "1" * 64, "namespace": "bench"}
    result = settings(request=request, cluster=cluster, runs=there(A30, A30), punkt="/punkt")
    assert [engine["max_num_seqs"] for engine in result["engines"]] == [48, 48]
    assert [engine["host"] for engine in result["engines"]] == ["0.0.0.0"] * 2
    assert [reference["url"] for reference in result["references"]] == [
        "http://engine-r1-jw2-0.bench.svc:8101", "http://engine-r1-jw2-1.bench.svc:8101",
    ]  # fmt: skip
    assert (result["spec"]["punkt"], result["spec"]["metrics_port"]) == (None, 9101)
    # Prometheus comes from outside the pod; each engine's key is in its Secret.
    assert (result["spec"]["metrics_address"], result["key_files"]) == ("0.0.0.0", {})
    assert result["references"][0]["api_key_file"] == "/etc/mlperf-secrets/engine-r1-jw2-0"
    with pytest.raises(Failed, match="image is missing"):
        settings(request=request)


def test_a_key_of_the_controllers_environment_goes_to_standard_input_only(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"kind": "endpoint", "url": "http://far", "model": "/m", "api_key_env": "TEAM_KEY"}
    sent: list[tuple[str, bytes | None]] = []

    def execute(command: str, in_data: bytes | None = None, chdir: str | None = None) -> dict[str, Any]:
        sent.append((command, in_data))
        return {"rc": 0, "stdout": '{"changed": true, "state": "ready"}', "stderr": ""}

    arguments = {"command": ["harness"], "root": "/srv", "name": "far", "config": config}
    with pytest.raises(Failed, match=r"engine far: environment variable TEAM_KEY \(api_key_env\) is not set"):
        call("mlperf_engine", arguments, execute=execute)
    monkeypatch.setenv("TEAM_KEY", "hunter2")
    result = call("mlperf_engine", arguments, execute=execute)
    ((command, given),) = sent
    assert json.loads(given or b"")["api_key"] == "hunter2"
    assert "hunter2" not in command + str(result)


def test_keys_reach_a_run_on_standard_input_and_no_result_shows_them(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("hunter2")
    plugin = action("mlperf_engine_keys", {"files": {"own": str(file)}}, check=False, execute=on_this_machine)
    logged = []

    def fetch(source: str, target: str) -> None:
        logged.append(plugin._play_context.no_log)
        shutil.copyfile(source, target)

    plugin._play_context.no_log = False
    plugin._connection.fetch_file = fetch
    result = plugin.run(task_vars={})
    assert (result["api_keys"], result["_ansible_no_log"]) == ({"own": "hunter2"}, True)
    # A connection prints what it sends and gets at -vvv, unless it is told not to.
    assert (logged, plugin._play_context.no_log) == ([True], False)

    def fetch_endless(source: str, target: str) -> None:
        with Path(target).open("wb") as out:
            while True:
                out.write(b"k" * 4096)

    plugin._connection.fetch_file = fetch_endless
    endless = plugin.run(task_vars={})
    assert endless["failed"] and "cannot be read" in endless["msg"] and "File too large" in endless["msg"]
    plugin._connection.fetch_file = MagicMock(side_effect=AnsibleError("no such file"))
    plugin._task.args = {"files": {"own": "/gone"}}
    refused = plugin.run(task_vars={})
    assert (refused["failed"], refused["msg"]) == (
        True, "the API key of engine own cannot be read from /gone: no such file",
    )  # fmt: skip

    def execute(command: str, in_data: bytes | None = None, chdir: str | None = None) -> dict[str, Any]:
        assert json.loads(in_data or b"")["keys"] == {"own": "hunter2"}
        assert "hunter2" not in command
        return {"rc": 0, "stdout": '{"changed": true, "state": "running"}', "stderr": ""}

    arguments = {"command": ["harness"], "root": "/srv", "run_id": "r1", "spec": {}, "api_keys": {"own": "hunter2"}}
    assert "hunter2" not in str(call("mlperf_run", arguments, execute=execute))
