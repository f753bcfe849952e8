"""A stateful double of the Kubernetes API, with the controllers, scheduler and kubelets that make it move."""

from tests.cluster import scripts
from tests.cluster.cluster import ADMIN, Cluster
from tests.cluster.rbac import Request
from tests.cluster.world import Image

__all__ = ["ADMIN", "Cluster", "Image", "Request", "scripts"]
