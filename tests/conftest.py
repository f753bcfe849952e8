"""Shared by all tests: where the node's environment is, and a way to import from it."""

import os
import sys
import sysconfig
from collections.abc import Generator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NODE_ENVIRONMENT = Path(os.environ.get("MLPERF_NODE_ENV", REPOSITORY / ".mlperf" / "env"))

# Torch and Transformers live in the node's environment only. Both locks carry the same versions of what they share,
# so this process may take from it what .venv lacks; child processes do not inherit it.
_SITE = NODE_ENVIRONMENT / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
sys.path.append(str(_SITE))


@pytest.fixture(scope="session")
def node_python() -> Path:
    """The Python of the node's environment, in which vLLM and the harness are installed by site.yml."""
    python = NODE_ENVIRONMENT / "bin" / "python"
    assert python.exists(), f"{python} is missing: run `make site` first"
    return python


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test counts as failed."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        _, _, reason = report.longrepr
        report.outcome, report.longrepr = "failed", reason.replace("Skipped", "CI does not allow a skip")
    return report
