"""Reference answers from an independent engine: Transformers, greedy, float32."""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.files import write_atomic
from harness.scoring.pool import cores, spread
from harness.spec import MAX_NEW_TOKENS

BLOCK = 32
"""Samples are answered in whole blocks of consecutive ones: rounding may depend on the batch, so the batches must not
depend on the size of the data set."""

_PROGRESS_EVERY_S = 2.0


class Transformers:
    """Answers blocks of prompts, on one core: small matrices gain nothing from more."""

    def __init__(self, model_dir: Path) -> None:
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self._torch = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of each greedy answer, up to 128, the end token included."""
        pad: int = self._model.generation_config.bos_token_id
        longest = max(map(len, prompts))
        inputs = self._torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = self._torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with self._torch.inference_mode():
            rows = self._model.generate(
                inputs,
                attention_mask=mask,
                max_new_tokens=MAX_NEW_TOKENS,
                min_new_tokens=1,
                do_sample=False,
                pad_token_id=pad,
            )
        ends = set(self._model.generation_config.eos_token_id)
        return [_until_end(row, ends) for row in rows[:, longest:].tolist()]


def answer(
    prompts: Sequence[Sequence[int]],
    model_dir: Path,
    kept: dict[int, list[int]],
    journal: Path,
    on_progress: Callable[[str], None],
) -> None:
    """Answer every prompt that is missing in `kept`; adds each finished block to `kept` and `journal`.

    Args:
        prompts: token ids of all samples, whole blocks of them.
        model_dir: the model.
        kept: answers by sample, extended in place.
        journal: JSON lines {"qsl_idx", "token_ids"}, appended to.
        on_progress: called with a line of progress every other second.
    """
    firsts = [
        first
        for first in range(0, len(prompts), BLOCK)
        if any(sample not in kept for sample in range(first, first + BLOCK))
    ]
    if not firsts:
        return
    workers = min(cores(), len(firsts))
    on_progress(f"loading Transformers to answer {len(firsts) * BLOCK} samples, on {workers} cores")
    started = reported = time.monotonic()
    blocks = [prompts[first : first + BLOCK] for first in firsts]
    write_atomic(journal, "".join(line(sample, ids) for sample, ids in kept.items()))  # without an incomplete last line
    with journal.open("a") as lines:
        results = spread(partial(Transformers, model_dir), blocks, workers)
        for done, (number, answers) in enumerate(results, 1):
            block = dict(enumerate(answers, firsts[number]))
            lines.writelines(line(sample, ids) for sample, ids in block.items())
            lines.flush()
            kept |= block
            if time.monotonic() - reported >= _PROGRESS_EVERY_S or done == len(blocks):
                reported = time.monotonic()
                rate = done * BLOCK / (reported - started)
                left = math.ceil((len(blocks) - done) * BLOCK / rate)
                on_progress(f"answered {done * BLOCK} of {len(blocks) * BLOCK} samples, {rate:.0f}/s, {left} s left")


def line(sample: int, ids: Sequence[int]) -> str:
    """One line of reference_ids.jsonl."""
    return json.dumps({"qsl_idx": sample, "token_ids": list(ids)}, separators=(",", ":")) + "\n"


def read(path: Path) -> dict[int, list[int]]:
    """Answers by sample from such lines, without an incomplete last line; empty when there is no file."""
    answers = {}
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    for text in lines:
        if text.endswith("\n"):
            entry = json.loads(text)
            answers[entry["qsl_idx"]] = entry["token_ids"]
    return answers


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    stop = next((position for position, item in enumerate(ids) if item in ends), len(ids))
    return ids[: stop + 1]
