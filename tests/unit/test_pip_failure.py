"""What pip 23 printed in installations that failed, and the one sentence that is made of it."""

import json
import platform
import re
import sys
import time
from pathlib import Path

import pytest

from harness.pip_failure import explain
from tests.unit.ansible_modules import call

RETRY = (
    "WARNING: Retrying (Retry(total={}, connect=None, read=None, redirect=None, status=None)) after connection broken "
    "by '{}': {}"
)
REFUSED = (
    "NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new "
    "connection: [Errno 111] Connection refused')"
)
UNKNOWN = REFUSED.replace("[Errno 111] Connection refused", "[Errno -2] Name or service not known")
PROXY = f"ProxyError('Cannot connect to proxy.', {REFUSED})"
CERTIFICATE = "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed'))"
NONE = """ERROR: Could not find a version that satisfies the requirement {0} (from versions: none)
ERROR: No matching distribution found for {0}"""
IMPOSSIBLE = """ERROR: Cannot install torch==2.13.0+cpu because these package versions have conflicting dependencies.

The conflict is caused by:
    The user requested torch==2.13.0+cpu
    The user requested (constraint) torch<=2.14.1

ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/"""
HASHES = f"""Collecting six==1.17.0 (from -r hash.txt (line 1))
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package versions, …
    six==1.17.0 from http://mirror.example/six-1.17.0-py3-none-any.whl (from -r hash.txt (line 1)):
        Expected sha256 {"0" * 64}
        Expected     or {"1" * 64}
             Got        b173bcebcd81228df3af30ecaa8a04084d4c90f2165772c5f85f581522de9b32
"""
TORCH = "https://download.pytorch.org/whl/cpu"
PIP = "$ /n/env/bin/python -m pip install --require-hashes -r torch-cpu.txt"


def torch_index_away(second: str) -> str:
    """The step of PyTorch: first the configured sources, then its own index, which cannot be reached."""
    return "\n".join(
        [PIP, "Looking in indexes: https://me:secret@mirror.example/simple", NONE.format("torch==2.13.0+cpu")]
        + [f"{PIP} --index-url {TORCH}", f"Looking in indexes: {TORCH}"]
        + [RETRY.format(left, REFUSED, "/whl/cpu/torch/") for left in (1, 0)]
        + [second]
    )


@pytest.mark.parametrize("second", [NONE.format("torch==2.13.0+cpu"), IMPOSSIBLE])
def test_an_index_out_of_reach_is_the_cause_whatever_pip_says_last(second: str) -> None:
    text = explain(torch_index_away(second).splitlines(), sys.executable)
    python = f"Python {platform.python_version()} on {platform.machine()}"
    assert text.startswith(
        f"torch==2.13.0+cpu for {python} cannot be downloaded: {TORCH} cannot be reached (connection refused)"
    )
    assert f"looked for in https://mirror.example/simple, {TORCH}." in text
    assert "set harness_torch_index" in text and "set node_proxy" in text
    assert "ResolutionImpossible" not in text and "secret" not in text


CASES = {
    "name": ([RETRY.format(0, UNKNOWN, "/simple/six/"), NONE.format("six==1.17.0")], "its name is not known"),
    "proxy": ([RETRY.format(0, PROXY, "/simple/six/"), NONE.format("six==1.17.0")], "the proxy refuses it.*node_proxy"),
    "certificate": ([RETRY.format(0, CERTIFICATE, "/simple/six/"), NONE.format("six==1.17.0")], "PIP_CERT"),
    "made good": ([RETRY.format(3, REFUSED, "/simple/six/"), HASHES], "six==1.17.0 from .* is not the pinned file"),
    "hashes": ([HASHES], "SHA-256 is b173.*2 others are allowed.*mirror"),
    "processor": ([HASHES.replace("six-1.17.0-py3-none-any", "torch-2.13.0-cp312-cp312-manylinux_2_28_aarch64")],
                  r"has no pin for this Python \(but cp312-cp312-manylinux_2_28_aarch64.whl\): .*on x86_64"),
    "python": ([HASHES.replace("six-1.17.0-py3-none-any", "torch-2.13.0-cp314-cp314-linux_x86_64")], "has no pin for"),
    "stable ABI": ([HASHES.replace("py3-none-any", "cp38-abi3-manylinux1_x86_64")], "is not the pinned file"),
    "disk": (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"], "is full"),
    "disk of": (["OSError: [Errno 28] No space left on device: '/n/env/lib/x.so'"], "the disk of /n/env/lib/x.so is"),
    "no wheel": ([NONE.format("torch==2.13.0")], r"torch==2\.13\.0 for this Python does not exist: no file .*3\.11"),
    "other version": (
        ["ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: 2.9.1, 2.10.0)"],
        "there is 2.9.1, 2.10.0; looked for in https://pypi.org/simple",
    ),
    "constraint": ([IMPOSSIBLE], r"forbid it by the constraint torch<=2\.14\.1.*pip config list"),
    "login": (["WARNING: 401 Error, Credentials not correct for https://x/simple", NONE.format("six==1")], "HTTP 401"),
    "plain http": (
        ["WARNING: The repository located at mirror.example is not a trusted or secure host and is being ignored.",
         NONE.format("six==1")],
        "PIP_TRUSTED_HOST=mirror.example",
    ),
    "build": (["x.c:1:10: fatal error: Python.h: No such file", "ERROR: Failed to build deepspeed"], "deepspeed could"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_cause_has_its_sentence(case: str) -> None:
    lines, expected = CASES[case]
    text = explain("\n".join([PIP, *lines]).splitlines())
    assert re.search(expected, text), text
    assert "\n" not in text


def test_other_output_is_left_to_its_last_line() -> None:
    assert explain(["$ sh venv.sh", "python3.9 is 3.9; the pins are for 3.11 to 3.13"]) == ""


def test_a_job_that_fails_says_the_cause(tmp_path: Path) -> None:
    (tmp_path / "out").write_text(torch_index_away(IMPOSSIBLE))
    script = f"cat {tmp_path}/out; exit 1"
    result = call(
        "mlperf_background_job",
        {
            "path": str(tmp_path / "job"),
            "name": "installing",
            "creates": str(tmp_path / "made"),
            "steps": [{"run": ["sh", "-c", script], "otherwise": ["sh", "-c", script]}],
        },
    )
    for _ in range(600):
        record = json.loads(Path(result["file"]).read_text())
        if record["state"] != "running":
            break
        time.sleep(0.1)
    assert record["state"] == "failed"
    assert record["reason"].startswith("installing: torch==2.13.0+cpu for this Python cannot be downloaded: ")
    assert record["reason"].endswith(f"see {record['log']}")
