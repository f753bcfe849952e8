"""Settings that a running server reports, endpoints, and an engine's log."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness import engine
from harness.engine import logs, verify
from harness.errors import BadInput, NotReady
from harness.node import probe
from harness.spec import unverified
from tests.engines import write_model

LOG = Path(__file__).resolve().parents[1] / "fixtures" / "vllm" / "worker_died.txt"
GAUGE = 'vllm:num_requests_running{engine="0",model_name="m"} 0.0\n'
CARD = {"id": "llama", "root": "/srv/models/llama", "max_model_len": 2668}


def cache(prefix: bool) -> str:
    return (
        f'vllm:cache_config_info{{block_size="16",enable_prefix_caching="{prefix}",kv_cache_size_tokens="4096"}} 1.0\n'
    )


@contextmanager
def serving(pages: dict[str, tuple[str, str]], status: int = 200) -> Iterator[str]:
    """A server with fixed pages: path -> (content type, body); everything else is 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = pages.get(self.path, ("text/plain", "not here"))
            self.send_response(status if self.path in pages else 404)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pages(*, metrics: str | None = GAUGE + cache(False), version: str | None = "0.32.0", **card: Any) -> dict[str, Any]:
    result: dict[str, tuple[str, str]] = {"/v1/models": ("application/json", json.dumps({"data": [CARD | card]}))}
    result["/health"] = ("text/plain", "")
    if metrics is not None:
        result["/metrics"] = ("text/plain; version=0.0.4", metrics)
    if version is not None:
        result["/version"] = ("application/json", json.dumps({"version": version}))
    return result


def endpoint(url: str, **values: Any) -> engine.EngineConfig:
    return engine.parse_config({"name": "ep", "kind": "endpoint", "model": "/models/llama", "url": url} | values)


def test_an_endpoint_that_reports_everything_is_verified(tmp_path: Path) -> None:
    with serving(pages()) as url:
        state = engine.up(tmp_path, endpoint(url, max_num_seqs=32))
        again = engine.up(tmp_path, endpoint(url, max_num_seqs=32))
        assert engine.status(tmp_path, "ep").state == "ready"
    assert (state.state, state.changed, again.changed) == ("ready", True, False)
    assert (state.pid, state.engine_pid, state.machine) == (None, None, None)
    assert state.verified["max_model_len"] == 2668
    assert state.verified["enable_prefix_caching"] is False
    assert state.verified["speculative_decoding"] is False
    assert state.verified["kv_cache_tokens"] == 4096
    assert state.unverified == ["weights"]
    assert state.max_in_flight == 36
    final_status = engine.status(tmp_path, "ep")
    assert final_status.state == "failed"
    assert "no server answers" in str(final_status.reason)
    assert engine.down(tmp_path, "ep").changed is True
    assert engine.down(tmp_path, "ep").changed is False


@pytest.mark.parametrize(
    ("contents", "unverified"),
    [
        (pages(metrics=None), ["enable_prefix_caching", "speculative_decoding"]),
        (pages(version=None), ["speculative_decoding"]),
        (pages(version="0.6.3"), ["speculative_decoding"]),
        (pages(metrics=cache(False)), ["speculative_decoding"]),
        (pages(metrics=GAUGE), ["enable_prefix_caching"]),
        (pages(metrics=GAUGE + 'vllm:cache_config_info{enable_prefix_caching="None"} 1\n'), ["enable_prefix_caching"]),
        (pages(max_model_len=None), ["max_model_len"]),
    ],
)
def test_what_an_endpoint_does_not_report_is_unverified(
    contents: dict[str, Any], unverified: list[str], tmp_path: Path
) -> None:
    with serving(contents) as url:
        state = engine.up(tmp_path, endpoint(url))
    assert state.unverified == [*unverified, "weights"]
    assert [state.verified[key] for key in unverified] == [None] * len(unverified)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pages(metrics=GAUGE + cache(True)), "enable_prefix_caching is True on the running server, requested False"),
        (
            pages(metrics=GAUGE + cache(False) + "vllm:spec_decode_num_drafts_total 0.0\n"),
            "speculative_decoding is True on the running server, requested False",
        ),
        (pages(max_model_len=2048), "max_model_len is 2048 on the running server, requested 2668"),
        (pages(id="gpt", root="/srv/gpt"), "model is 'gpt' on the running server, requested '/models/llama'"),
    ],
)
def test_an_endpoint_that_violates_a_rule_is_rejected(contents: dict[str, Any], message: str, tmp_path: Path) -> None:
    with serving(contents) as url, pytest.raises(BadInput) as error:
        engine.up(tmp_path, endpoint(url))
    assert message in str(error.value)
    assert engine.names(tmp_path) == []


def test_an_endpoint_may_take_longer_sequences_and_show_only_its_root(tmp_path: Path) -> None:
    with serving(pages(max_model_len=8192, id="served-under-another-name")) as url:
        assert engine.up(tmp_path, endpoint(url)).verified["max_model_len"] == 8192


def vllm(model: Path, **values: Any) -> engine.EngineConfig:
    return engine.parse_config({"name": "e", "port": 8000, "model": str(model)} | values)


SHOWN = {
    "model": "m",
    "root": "m",
    "max_model_len": 2668,
    "enable_prefix_caching": False,
    "speculative_decoding": False,
}


@pytest.mark.parametrize(
    ("requested", "reported", "matches"),
    [
        ("auto", "bfloat16", True),
        ("float32", "float32", True),
        ("float32", "bfloat16", False),
        ("float16", "float32", False),
    ],
)
def test_the_dtype_must_be_the_requested_one(requested: str, reported: str, matches: bool, tmp_path: Path) -> None:
    config = vllm(write_model(tmp_path / "m"), dtype=requested)
    sentences = verify.mismatches(config, SHOWN | {"dtype": reported, "quantization": None})
    assert [text.split(";")[0] for text in sentences] == (
        [] if matches else [f"dtype is {reported!r} on the running server, requested {requested!r}"]
    )


@pytest.mark.parametrize(
    ("stored", "requested", "reported", "matches"),
    [
        (None, None, None, True),
        (None, None, "fp8", False),
        (None, "fp8", "fp8", True),
        (None, "fp8", None, False),
        (None, "fp8", "int8_per_channel_weight_only", False),
        ("gptq", None, "auto_gptq", True),
        ("gptq", None, None, False),
        ("gptq", "gptq", "gptq_marlin", True),
        ("gptq", "gptq", "awq", False),
        ("modelopt", None, "modelopt_fp4", True),
    ],
)
def test_the_quantization_must_be_the_requested_one_or_that_of_the_weights(
    stored: str | None, requested: str | None, reported: str | None, matches: bool, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "m")
    if stored == "modelopt":
        (model / "hf_quant_config.json").write_text("{}")
    elif stored:
        plain = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(plain | {"quantization_config": {"quant_method": stored}}))
    sentences = verify.mismatches(
        vllm(model, quantization=requested), SHOWN | {"dtype": "float32", "quantization": reported}
    )
    assert [text.split(";")[0] for text in sentences] == (
        [] if matches else [f"quantization is {reported!r} on the running server, requested {requested!r}"]
    )


def test_what_the_log_does_not_contain_is_unverified() -> None:
    assert unverified("vllm", "float32", SHOWN) == ["dtype", "quantization"]
    assert unverified("vllm", "auto", SHOWN | {"quantization": None}) == []
    with serving(pages()) as url:
        assert unverified("endpoint", "bfloat16", verify.reported_settings(url)) == ["dtype", "weights"]


def test_observing_stores_and_rejects_nothing(tmp_path: Path) -> None:
    with serving(pages(metrics=GAUGE + cache(True))) as url:
        state = engine.observe("ep", url, Path("/models/llama"))
    assert (state.state, state.verified["enable_prefix_caching"]) == ("ready", True)


@pytest.mark.parametrize(
    ("contents", "status", "message"),
    [
        ({"/v1/models": ("text/html", "<!doctype html><p>Hello")}, 200, "answered 200 text/html instead of JSON"),
        ({"/v1/models": ("text/html", "<h1>Bad Gateway</h1>")}, 502, "answered 502 text/html instead of JSON"),
        ({}, 200, "answered 404 text/plain instead of JSON"),
        ({"/v1/models": ("application/json", "{nope")}, 200, "without a list of models"),
        ({"/v1/models": ("application/json", '{"data": []}')}, 200, "without a list of models"),
        ({"/v1/models": ("application/json", '{"data": [{"id": null}]}')}, 200, "without a list of models"),
        ({"/v1/models": ("application/json", '["a"]')}, 200, "without a list of models"),
    ],
)
def test_a_server_that_is_not_openai_compatible_is_reported(
    contents: dict[str, Any], status: int, message: str, tmp_path: Path
) -> None:
    with serving(contents, status) as url, pytest.raises(BadInput) as error:
        engine.up(tmp_path, endpoint(url))
    assert message in str(error.value)
    assert url in str(error.value)
    assert "correct the url" in str(error.value)


def test_a_closed_port_and_a_server_of_another_protocol(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NotReady, match=r"no server answers at .*refused.*start the server or correct the url"):
            engine.up(tmp_path, endpoint(url))
        listener.listen()

        def greet() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"220 mail.example ESMTP\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(BadInput, match="does not speak HTTP"):
            engine.up(tmp_path, endpoint(url))
        thread.join()


def test_probes_bypass_a_configured_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(pages()) as url:
        assert verify.reported_settings(url)["model"] == "llama"


def test_metrics_are_matched_by_their_full_name() -> None:
    page = (
        '# HELP a:b Text a:b 9\na:b_total 7\na:b{x="1"} 1.5\na:b{x="2,}"} 2\nza:b 9\na:b NaN-ish\n'
        'a:info{path="C:\\\\x",q="\\""} 1.0'
    )
    assert probe.values(page, ["a:b", "a:b_total", "c"]) == {"a:b": [1.5, 2.0], "a:b_total": [7.0]}
    assert probe.labels(page, "a:info") == {"path": "C:\\\\x", "q": '\\"'}
    assert probe.has_prefix(page, "a:in") and not probe.has_prefix(page, "b_total")


def test_a_real_log_of_a_crashed_worker_gives_the_first_cause_only() -> None:
    assert (
        logs.root_cause(LOG)
        == "its log names no known cause, and ends with: RuntimeError: Unsupported CPU attention configuration: "
        "head_dim=16 isa=2 kv_cache_idx=0"
    )


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (
            [
                "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "(APIServer pid=1)   Value error, max_model_len (2668) is greater than 2048 [type=value_error]",
                "(APIServer pid=1)     For further information visit https://example.org",
            ],
            "Value error, max_model_len (2668) is greater than 2048",
        ),
        (
            ["api_server.py: error: unrecognized arguments: --nonsense"],
            "api_server.py: error: unrecognized arguments: --nonsense; correct extra_args",
        ),
        (
            ["(A pid=1) WARNING 11-23 18:47:37 [core_client.py:817] engine core exited unexpectedly; starting cleanup"],
            "check dmesg for the kernel's OOM killer",
        ),
        (
            ["(E pid=2) ValueError: No available memory for the cache blocks."],
            "; too little memory is left for the KV cache: raise gpu_memory_utilization",
        ),
        (["OSError: [Errno 98] Address already in use"], "choose another port"),
        (["just", "words", ""], "just | words"),
        (
            ["EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.", "last"],
            "last",
        ),
        (
            [
                "the server was stopped",
                "/usr/lib/python3/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear "
                "to be 1 leaked shared_memory objects to clean up at shutdown",
                "  warnings.warn('resource_tracker: There appear to be %d '",
                "Traceback (most recent call last):",
                '  File "/usr/lib/python3.12/multiprocessing/resource_tracker.py", line 239, in main',
                "    cache[rtype].remove(name)",
                "KeyError: '/psm_1'",
            ],
            "the server was stopped",
        ),
        ([], ""),
    ],
)
def test_causes_and_advice(lines: list[str], cause: str, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("\n".join(lines))
    text = logs.root_cause(log)
    assert cause in text if cause else text == ""
    assert "resource_tracker" not in text and "KeyError" not in text


def test_the_steps_of_a_real_start(tmp_path: Path) -> None:
    growing = tmp_path / "engine.log"
    start = logs.StartLog(growing)
    assert start.step() is None
    steps = []
    data = LOG.read_bytes()
    for end in range(0, len(data), 700):
        growing.write_bytes(data[:end])
        if step := start.step():
            steps.append(step)
    order = [
        "reading the model's configuration",
        "starting the engine core",
        "loading weights",
        "weights loaded, sizing the KV cache",
        "KV cache holds 2,081,548 tokens, warming up",
        "engine core ready, starting the HTTP server",
        "HTTP server started",
    ]
    assert [step for step in steps if step in order] == [step for step in order if step in steps]
    assert {"starting the engine core", "HTTP server started"} <= set(steps)


def test_settings_that_the_engine_core_logged() -> None:
    settings = logs.core_settings(LOG)
    assert settings["dtype"] == "float32"
    assert settings["max_seq_len"] == "2668"
    assert settings["speculative_config"] is None
    assert settings["model"] == "/srv/model"


def test_a_method_of_quantization_is_not_its_configuration(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    begins = "Initializing a V1 LLM engine (v0.32.0) with config: model='/srv/model', dtype=torch.bfloat16, "
    log.write_text(begins + "quantization=fp8, quantization_config=None, enforce_eager=True, x=Y(quantized=False)\n")
    assert [logs.core_settings(log)[key] for key in ("dtype", "quantization")] == ["bfloat16", "fp8"]


def test_the_dtype_of_weights_that_are_quantized_at_loading_is_not_the_models(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    key = "QuantKey(dtype=torch.float8_e4m3fn, scale=ScaleDesc(dtype=torch.float32, static=True), scale2=None)"
    log.write_text(
        "Initializing a V1 LLM engine (v0.32.0) with config: model='/srv/model', dtype=torch.bfloat16, "
        f"quantization=fp8_per_channel, quantization_config=QuantizationConfigArgs(linear=QuantSpec(weight={key})), "
        "enforce_eager=True\n"
    )
    assert [logs.core_settings(log)[key] for key in ("dtype", "quantization")] == ["bfloat16", "fp8_per_channel"]
