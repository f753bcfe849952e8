"""Fixtures of the tests that use the double of the Kubernetes API."""

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.unit.cluster_clients import Clients


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster of one node with a GPU; some modules have another one."""
    with Cluster() as running:
        running.node("n1", gpus=1)
        yield running


@pytest.fixture
def k8s(cluster: Cluster) -> Clients:
    """The official client with the administrator's credentials."""
    return Clients(cluster.kubeconfig())
