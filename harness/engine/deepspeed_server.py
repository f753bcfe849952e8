"""A completions server over `deepspeed.init_inference`: static batches, token ids in and out. A baseline, not tuned.

A batch consists of the requests that have arrived, left-padded, up to the batch size. They are decoded greedily until
the last one has ended; only then the next batch starts, and rows of ended requests are computed until then.
"""

import argparse
import asyncio
import contextlib
import json
import os
import queue
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# As vLLM is started here: the first token alone, then chunks of this many, the last token at once.
STREAM_INTERVAL = 16
GATHER_S = 0.05
# Under vLLM's names, which the harness and Prometheus read.
_METRICS = "vllm:num_requests_running {}\nvllm:num_requests_waiting {}\n"
Piece = tuple[list[int], str | None]


class DeepSpeed:
    """A causal language model from a directory, wrapped by DeepSpeed. `ends` are the ids that end an answer."""

    def __init__(self, directory: Path, dtype: str, max_model_len: int) -> None:
        import deepspeed
        import torch
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype, "auto")).eval()
        # Without DeepSpeed's own kernels: the first start would compile them with nvcc.
        settings = {"dtype": model.dtype, "max_out_tokens": max_model_len, "replace_with_kernel_inject": False}
        self._torch, self._engine = torch, deepspeed.init_inference(model, **settings)
        self.dtype = str(model.dtype).removeprefix("torch.")
        ends = model.generation_config.eos_token_id
        self.ends: list[int] = ends if isinstance(ends, list) else [ends]

    def generate(self, prompts: list[list[int]], most: int, step: Callable[[list[int]], object]) -> None:
        """Decode greedily, 1 to `most` ids; `step` gets the next id of each prompt, meaningless after its end."""
        pad, tensor = self._torch.nn.utils.rnn.pad_sequence, self._torch.tensor
        parts = [tensor(one) for one in prompts], [tensor([1] * len(one)) for one in prompts]
        ids, mask = (pad(part, batch_first=True, padding_side="left").to(self._engine.module.device) for part in parts)
        # Transformers streams the prompts first, in two dimensions, then each step's ids in one.
        steps = SimpleNamespace(put=lambda ids: ids.dim() == 1 and step(ids.tolist()), end=lambda: None)
        limits = {"max_new_tokens": most, "min_new_tokens": 1, "eos_token_id": self.ends, "pad_token_id": 0}
        with self._torch.inference_mode():
            self._engine.generate(input_ids=ids, attention_mask=mask, do_sample=False, streamer=steps, **limits)


@dataclass(slots=True, eq=False)
class Sample:
    """A prompt to answer; `over` once it is answered or its client has disconnected."""

    prompt: list[int]
    max_tokens: int
    pieces: "asyncio.Queue[Piece]" = field(default_factory=asyncio.Queue)
    unsent: list[int] = field(default_factory=list)
    count: int = 0
    over: bool = False

    def take(self, token: int, ends: Sequence[int]) -> Piece | None:
        """Add a token; returns the ids to send now and, at the end of the answer, its finish reason."""
        self.unsent.append(token)
        self.count += 1
        finish = "stop" if token in ends else "length" if self.count >= self.max_tokens else None
        if self.count > 1 and not finish and len(self.unsent) < STREAM_INTERVAL:
            return None
        piece, self.unsent, self.over = (self.unsent, finish), [], self.over or finish is not None
        return piece


class Batcher(threading.Thread):
    """Answers samples batch by batch; calls `deliver` in this thread whenever a chunk is complete."""

    def __init__(self, model: DeepSpeed, size: int, deliver: Callable[[Sample, Piece], object]) -> None:
        super().__init__(daemon=True)
        self._model, self._size, self._deliver = model, size, deliver
        self.waiting: queue.Queue[Sample] = queue.Queue()
        self.running = 0

    def run(self) -> None:
        """Never returns; when the model fails, the process exits, so that no client waits for it."""
        try:
            while True:
                if batch := self.gather():
                    self.answer(batch)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def gather(self) -> list[Sample]:
        """Wait for a sample, then briefly for more."""
        batch, until = [self.waiting.get()], time.monotonic() + GATHER_S
        with contextlib.suppress(queue.Empty):
            while len(batch) < self._size:
                batch.append(self.waiting.get(timeout=max(0.0, until - time.monotonic())))
        return [sample for sample in batch if not sample.over]

    def answer(self, batch: list[Sample]) -> None:
        """Decode a batch until its last sample has ended."""
        self.running = len(batch)

        def step(ids: list[int]) -> None:
            for sample, token in zip(batch, ids, strict=True):
                if not sample.over and (piece := sample.take(token, self._model.ends)):
                    self._deliver(sample, piece)
            self.running = sum(not sample.over for sample in batch)

        self._model.generate([one.prompt for one in batch], max(one.max_tokens for one in batch), step)


class App:
    """The server's pages, as an ASGI application; like vLLM's, those below /v1 want the API key where there is one."""

    def __init__(self, model: DeepSpeed, name: str, size: int, max_model_len: int, key: str = "") -> None:
        self._bearer = f"Bearer {key}".encode() if key else None
        soon, self._name, self._longest = asyncio.get_running_loop().call_soon_threadsafe, name, max_model_len
        self.batcher = Batcher(model, size, lambda sample, piece: soon(sample.pieces.put_nowait, piece))
        fixed = {"enable_prefix_caching": False, "speculative_decoding": False, "quantization": None, "tuned": False}
        card = {"id": name, "root": name, "object": "model", "max_model_len": max_model_len}
        self._pages = {"/health": {}, "/v1/models": {"data": [card]}, "/settings": fixed | {"dtype": model.dtype}}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        path, page = scope["path"], self._pages.get(scope["path"])
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self._bearer and path.startswith("/v1") and not secrets.compare_digest(given, self._bearer):
            await _send(send, 401, b"application/json", json.dumps({"error": "Unauthorized"}))
        elif path == "/metrics":
            text = _METRICS.format(self.batcher.running, self.batcher.waiting.qsize())
            await _send(send, 200, b"text/plain", text)
        elif path != "/v1/completions":
            await _send(send, 404 if page is None else 200, b"application/json", json.dumps(page))
        elif message := _problem(request := json.loads(body), self._longest):
            await _send(send, 400, b"application/json", json.dumps({"error": {"message": message}}))
        else:
            await self._stream(Sample(request["prompt"], request["max_tokens"]), receive, send)

    async def _stream(self, sample: Sample, receive: Any, send: Any) -> None:
        disconnect = asyncio.ensure_future(receive())
        disconnect.add_done_callback(lambda _: sample.pieces.put_nowait(([], "gone")))
        self.batcher.waiting.put(sample)
        await _send(send, 200, b"text/event-stream", "", more=True)
        finish, prompt = None, {"prompt_token_ids": sample.prompt}
        while not finish:
            ids, finish = await sample.pieces.get()
            choice = {"index": 0, "text": "", "finish_reason": finish, **prompt, "token_ids": ids}
            event = {"id": "cmpl-0", "object": "text_completion", "model": self._name, "choices": [choice]}
            text = f"data: {json.dumps(event, separators=(',', ':'))}\n\n" + ("data: [DONE]\n\n" if finish else "")
            await send({"type": "http.response.body", "body": text.encode(), "more_body": not finish})
            prompt = {}
        disconnect.cancel()
        sample.over = True


def _problem(request: dict[str, Any], longest: int) -> str | None:
    """Why a request cannot be answered; None when it can."""
    fixed = {"stream": True, "return_token_ids": True, "temperature": 0, "min_tokens": 1}
    if wrong := [key for key, value in fixed.items() if request.get(key) != value]:
        return f"this server only streams greedy answers with their token ids: {wrong[0]} must be {fixed[wrong[0]]}"
    prompt, count = request["prompt"], request["max_tokens"]
    if not isinstance(prompt, list) or {*map(type, prompt)} != {int} or len(prompt) + count > longest:
        return f"prompt must be a list of token ids, with max_tokens = {count} at most max_model_len = {longest}"
    return None


async def _send(send: Any, status: int, kind: bytes, text: str, more: bool = False) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def serve(options: argparse.Namespace) -> None:
    """Load the model, then serve until a signal stops the server."""
    import uvicorn

    model = DeepSpeed(options.model, options.dtype, options.max_model_len)
    print("step: warming up", flush=True)
    model.generate([[0], [0, 0]], 1, lambda ids: None)
    app = App(
        model, str(options.model), options.max_num_seqs, options.max_model_len, os.environ.get("VLLM_API_KEY", "")
    )
    app.batcher.start()
    quiet = {"lifespan": "off", "access_log": False, "log_level": "warning", "timeout_graceful_shutdown": 1}
    await uvicorn.Server(uvicorn.Config(app, options.host, options.port, **quiet)).serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in {"model": Path, "host": str, "port": int, "max-num-seqs": int, "max-model-len": int}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--dtype", default="auto")
    asyncio.run(serve(parser.parse_args()))
    os._exit(0)  # without waiting for the batch in flight
