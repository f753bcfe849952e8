"""A test that cannot run here is skipped, and in CI counts as failed."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
SKIPPED = """
import pytest

@pytest.mark.skipif(True, reason="no root")
def test_marked(): pass

def test_called():
    pytest.skip("no way out")
"""


def test_skip_is_a_failure_in_ci(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeconftest(Path(__file__).parents[1].joinpath("conftest.py").read_text())
    pytester.makepyfile(SKIPPED)
    monkeypatch.delenv("CI", raising=False)
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(skipped=2)
    monkeypatch.setenv("CI", "true")
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*CI does not allow a skip: no root", "*CI does not allow a skip: no way out"])
