"""A stateful double of Kubernetes 1.36 for tests: real HTTP on 127.0.0.1, used with the official Python client.

`Cluster` is a context manager around an API server (storage, watches, admission, RBAC) and its controllers:
Jobs, the scheduler, taint eviction, the garbage collector and the kubelets; and Volcano's controller, scheduler and
admission. By default a kubelet runs each container's command as a process of this machine (root only), in mount, PID
and UTS namespaces of its own, with claims as directories, ConfigMaps as files, the pod's user and variables, and a
read-only root. `scripts` replace that by what a test wants to happen to a pod. `python -m tests.cluster` starts one to
try by hand. `control_plane` is the same API server for the booted hosts of tests/hosts, kept in a file.

PyPI's kmock 0.8 was evaluated and not used. It stores objects as they are sent, without uid, time, generated name,
defaults or resource versions (its lists say "..."), so there are no conflicts and no watch that continues or expires;
it has no selectors, dry run, propagation, immutability, subresources or websockets, and its error messages differ from
Kubernetes'. All of that would be needed here as well, in addition to its way of answering requests.

Not implemented:

- TLS, client certificates, service account tokens inside pods, aggregated API servers, schemas of custom resources (the
  kinds of Volcano exist from the start), protobuf, tables, `kubectl explain`. A CustomResourceDefinition is served only
  by the control plane of the booted hosts.
- Lenient decoding: an unknown field is an error, as with `fieldValidation=Strict`; a real server warns and drops it.
- Server-side apply is a merge without field managers. Strategic merge knows the usual lists only.
- Validation beyond the schema covers what benchmarks create: names, labels, Jobs, pods, ConfigMaps, Services.
- Priority and fairness, audit, bookmarks other than on request, consistent paging after changes.
- Jobs: no indexed completion, success policy, backoff delays or per-index limits; policy actions other than FailJob
  count as Count. The two writes in which the real controller ends a Job are one.
- Deployments and DaemonSets have no pods; on the control plane of booted hosts they are available at once.
- Volcano: no plugins, commands, volumes of jobs, dependencies between tasks, minSuccess, timeouts of policies, or
  actions on single pods and tasks; its admission does not validate pod templates. Jobs are reconciled when something
  changes, not in sessions; the only events of policies are PodFailed, PodEvicted and TaskCompleted. A queue has a
  capability and no share, weight or parent; nothing is reclaimed or preempted. Its scheduler reports about nodes what
  the default scheduler would, after resources.
- The scheduler filters by name, selector, taints, claims and resources; it does not score, preempt or reserve.
- The kubelet treats every restartPolicy as Never and ignores init containers; no liveness probes, lifecycle hooks,
  limits of CPU and memory, image contents, DNS, or volumes other than claims, ConfigMaps and emptyDirs. A read-only
  claim is not chowned to the fsGroup. seccomp and capabilities are validated by admission, and not enforced.
- All pods share this machine's network and address, so two that listen on the same port conflict. Names of Services are
  in /etc/hosts while a pod is behind them; ports are not mapped. Lines of a log have the time of the request.
- A container sees this machine's files below its own mounts (image contents are not simulated), except what its mounts
  cover: of that only the image's folders, this checkout and its Python are visible.
- Nodes have no leases: `lose_node` is the moment, 50 s after the last heartbeat, at which the node controller acts.
"""

from tests.cluster import kinds, scripts
from tests.cluster.cluster import Cluster
from tests.cluster.rbac import Request
from tests.cluster.running import ADMIN
from tests.cluster.state import Image

__all__ = ["ADMIN", "Cluster", "Image", "Request", "kinds", "scripts"]
