"""How many queries over a limit LoadGen forgives: figures measured with LoadGen 6.0.17."""

import pytest

from harness.early_stopping import forgiven


@pytest.mark.parametrize(
    ("queries", "most"),
    [(1, -1), (458, -1), (459, 0), (661, 0), (662, 1), (837, 1), (838, 2), (13_368, 107), (26_736, 229)],
)
def test_as_many_as_loadgen_forgives(queries: int, most: int) -> None:
    assert forgiven(queries) == most
