"""A stateful double of Kubernetes 1.36 for tests: real HTTP on 127.0.0.1, as the official Python client sees it.

`Cluster` is a context manager around an API server with storage, watches, admission and rights, and around what makes a
cluster move: the Job controller, the scheduler, taint eviction, the garbage collector and the kubelets; and for jobs of
Volcano its controller, scheduler and admission. By default a kubelet runs each container's command as a process of this
machine (root only): in a mount, process and host name namespace of its own, with claims as directories, ConfigMaps as
files, its user, its variables and its read-only root. `scripts` are what a test has happen to a pod instead.
`python -m tests.cluster` starts one to try by hand.

PyPI's kmock 0.8 was looked at and not used. It stores objects as they are sent: no uid, time, generated name,
defaults or resource versions (its lists say "..."), so no conflicts and no watch that goes on or expires; no
selectors, dry run, propagation, immutability, subresources or websockets; its refusals are worded unlike Kubernetes'.
All of that would stand here as well, on top of its way of answering requests.

What it does not do:

- TLS, client certificates, service account tokens inside pods, aggregated API servers, CustomResourceDefinitions (the
  kinds of Volcano are simply there, without a schema), protobuf, tables, `kubectl explain`.
- Lenient decoding: an unknown field is refused, as with `fieldValidation=Strict`; a real server warns and drops it.
- Server-side apply is a merge without field managers. Strategic merge knows the usual lists only.
- Validation beyond the schema covers what benchmarks make: names, labels, Jobs, pods, ConfigMaps, Services.
- Priority and fairness, API server audit, bookmarks other than on request, consistent paging after changes.
- Jobs: no indexed completion, success policy, backoff delays or per-index limits; policy actions other than FailJob
  count as Count. The two writes in which the real controller ends a Job are one.
- Volcano: no plugins, commands, volumes of jobs, dependencies between tasks, minSuccess, timeouts of policies, or
  actions on single pods and tasks; its admission does not judge the pods in a template. Jobs are looked at when
  something changes, not in sessions; the only events of policies are PodFailed, PodEvicted and TaskCompleted. A queue
  has a capability and no share, weight or parent; nothing is reclaimed or preempted. Its scheduler says of a node what
  the other one would, after resources.
- The scheduler filters by name, selector, taints, claims and resources; it does not score, preempt or reserve.
- The kubelet treats every restartPolicy as Never and init containers as absent; no liveness probes, lifecycle hooks,
  limits of CPU and memory, image contents, DNS, or volumes other than claims, ConfigMaps and emptyDirs. A read-only
  claim is not given to the fsGroup. seccomp and capabilities are checked by admission, and not enforced.
- All pods share this machine's network: one address, so two that listen on one port clash. Names of Services stand in
  /etc/hosts while a pod is behind them; ports are not mapped.
- A container sees this machine's files below its own mounts (what an image holds is not simulated), except what its
  mounts cover: of that only the image's folders, this checkout and its Python are brought back.
- Nodes have no leases: `lose_node` is the moment, 50 s after the last sign of life, at which the node controller acts.
"""

from tests.cluster import kinds, scripts
from tests.cluster.cluster import Cluster
from tests.cluster.rbac import Request
from tests.cluster.running import ADMIN
from tests.cluster.state import Image

__all__ = ["ADMIN", "Cluster", "Image", "Request", "kinds", "scripts"]
