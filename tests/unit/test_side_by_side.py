"""Tests that share something costly stay together when tests run side by side."""

import os

import pytest


@pytest.mark.xdist_group("together")
def test_a_group_is_known_to_the_scheduler(request: pytest.FixtureRequest) -> None:
    """Its name must be a part of the test's id; pytest-xdist 3.8 loses it with pytest 9.2, without a word."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@together")
