"""`vllm bench serve` kept loaded between measurements: a JSON object of options a line in, its results a line out.

The code measured is vLLM's own `vllm.benchmarks.serve.main`, as the `vllm bench serve` command calls it. It runs in a
process of its own because importing it takes longer than a measurement.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

FIXED = {
    "backend": "openai", "dataset_name": "random", "random_output_len": 128, "temperature": 0,
    "percentile_metrics": "ttft,tpot", "metric_percentiles": "50,99", "seed": 1,
}  # fmt: skip


class VllmServe:
    """A context manager; `python` is one that can import vLLM."""

    def __init__(self, python: str) -> None:
        self._python = python

    def __enter__(self) -> Self:
        print("loading vllm bench serve", flush=True)
        command = [self._python, str(Path(__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, url: str, model: str, tokenizer: str, **options: Any) -> dict[str, Any]:
        """Measure; returns its result with `cpu_s` added."""
        assert self._process.stdin
        options |= {"base_url": url, "model": model, "tokenizer": tokenizer}
        self._process.stdin.write(json.dumps(options) + "\n")
        self._process.stdin.flush()
        result = self._read()
        if result["failed"]:
            raise RuntimeError(f"vllm bench serve: {result['failed']} requests failed")
        return result

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"vllm bench serve ended with status {self._process.wait()}")
        result: dict[str, Any] = json.loads(line)
        return result


def _option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def _serve() -> None:
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        from vllm.benchmarks import serve

        parser = argparse.ArgumentParser()
        serve.add_cli_args(parser)
        print(json.dumps({}), file=out, flush=True)
        for line in sys.stdin:
            values = {**FIXED, **json.loads(line)}
            words = [word for name, value in values.items() for word in _option(name, value)]
            options = parser.parse_args([*words, "--disable-tqdm"])
            cpu_s = time.process_time()
            with open("/dev/null", "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
                result = serve.main(options)
            cpu_s = time.process_time() - cpu_s
            plain = {name: value for name, value in result.items() if isinstance(value, int | float | str)}
            print(json.dumps({**plain, "cpu_s": cpu_s}), file=out, flush=True)


if __name__ == "__main__":
    _serve()
