"""What was observed of one engine or run, with the look-ups and wording that every diagnosis needs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.cluster.diagnosis.causes import Kind, Object, Observation
from harness.printable import printable

_PREEMPTION = re.compile(r"\.?\s+(no new claims to deallocate,?\s*)?preemption:.*", re.S)
_POST_FILTER = re.compile(r"\. not found$")  # the scheduler's own addition to another message
_RANDOM_NAME = re.compile(r'(Error creating: pods "\S+)-[a-z0-9]{5}"')  # another one at each retry
_SUBJECTS = {"loader": "loader of the claims of", "look": "look into the claims of"}
CONTROLLER = "batch.kubernetes.io/controller-uid"
LINE_CHARS, STATUS_CHARS = 400, 1600
"""Of a line of a log or a message, and of the harness's own reason, which may hold three lines of a log."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Engine or run `name` on `node`, and what was observed of it."""

    kind: Kind
    name: str
    node: str
    observation: Observation

    @property
    def subject(self) -> str:
        """What its Job is, by its name."""
        return f"{_SUBJECTS.get(self.kind, self.kind)} {self.name}"

    @property
    def pods(self) -> list[Object]:
        """Pods of this Job; those of an earlier one of its name may still be terminating, or have lost it."""
        uid = ((self.observation.job or {}).get("metadata") or {}).get("uid")
        pods = [(pod, _owners(pod["metadata"])) for pod in self.observation.pods]
        return [pod for pod, owners in pods if not (uid and owners) or uid in owners]

    @property
    def pod(self) -> Object | None:
        """The newest of them."""
        pods = self.pods
        return pods[-1] if pods else None

    @property
    def pod_name(self) -> str:
        """Its name; empty when there is no pod."""
        return str(self.pod["metadata"]["name"]) if self.pod else ""

    @property
    def namespace(self) -> str:
        """The namespace of Job and pod."""
        source = self.observation.job or self.pod
        return str(source["metadata"].get("namespace", "mlperf")) if source else "mlperf"

    @property
    def pod_status(self) -> Object:
        """The pod's status; empty when there is no pod."""
        return dict(self.pod.get("status") or {}) if self.pod else {}

    def pod_conditions(self) -> list[Object]:
        """The conditions in the pod's status."""
        return list(self.pod_status.get("conditions") or ())

    def node_conditions(self) -> list[Object]:
        """The conditions in the node's status; none when the node cannot be read."""
        return list(((self.observation.node or {}).get("status") or {}).get("conditions") or ())

    def kubectl(self, command: str = "") -> str:
        """A kubectl command in the namespace; by default the one that describes the pod, or lists events."""
        default = f"describe pod {self.pod_name}" if self.pod else "get events --sort-by=.lastTimestamp"
        return f"kubectl -n {self.namespace} {command or default}"

    def kubectl_logs(self) -> str:
        """The kubectl command that prints the pod's log."""
        return self.kubectl(f"logs {self.pod_name}")

    def container_state(self, state: str) -> Object | None:
        """The container's state of this type (waiting, running or terminated); None when it is in another one."""
        for status in self.pod_status.get("containerStatuses") or ():
            details = (status.get("state") or {}).get(state)
            if details is not None:
                return dict(details)
        return None

    def event_messages(self, *reasons: str) -> Iterator[str]:
        """Messages of events with one of these reasons, newest first."""
        events = [event for event in self.observation.events if event.get("reason") in reasons]
        yield from (str(event.get("message", "")) for event in sorted(events, key=event_time, reverse=True))

    def container_spec(self) -> Object:
        """The container's spec; empty when neither pod nor Job exists."""
        template = ((self.observation.job or {}).get("spec") or {}).get("template") or {}
        pod_spec = (self.pod or {}).get("spec") or template.get("spec") or {}
        return dict((pod_spec.get("containers") or [{}])[0])

    def limit(self, resource: str) -> str:
        """The container's limit of a resource; empty when it has none."""
        limits = (self.container_spec().get("resources") or {}).get("limits") or {}
        return str(limits.get(resource, ""))

    def gpu_shortage(self, *, below_limit: bool = False) -> str:
        """A sentence if the node's allocatable GPUs are fewer than its capacity, else empty.

        With `below_limit` only if they are also fewer than the container's limit.
        """
        status = (self.observation.node or {}).get("status") or {}
        capacity, allocatable = status.get("capacity") or {}, status.get("allocatable") or {}
        for resource in (resource for resource in capacity if "gpu" in resource):
            available, limit = int(allocatable.get(resource, 0)), int(self.limit(resource) or 0)
            if available < int(capacity[resource]) and (available < limit or not below_limit):
                return f"node {self.node} offers {available} of its {capacity[resource]} {resource}"
        return ""

    def gpu_excess(self) -> str:
        """A sentence if the container asks for more GPUs than its node has at all, else empty."""
        for resource, wanted, present in self._gpu_limits():
            if wanted > present > 0:
                return f"it asks for {wanted} {resource}, and the node has {present}"
        return ""

    def gpu_absent(self) -> str:
        """The resource that the container asks for and that its node does not have at all, else empty."""
        return next((resource for resource, wanted, present in self._gpu_limits() if wanted > present == 0), "")

    def _gpu_limits(self) -> list[tuple[str, int, int]]:
        """Each GPU resource of the container, its limit, and the node's capacity; none when the node was not read."""
        if self.observation.node is None:
            return []
        capacity = (self.observation.node.get("status") or {}).get("capacity") or {}
        limits = (self.container_spec().get("resources") or {}).get("limits") or {}
        return [(name, int(limits[name]), int(capacity.get(name, 0))) for name in limits if "gpu" in name]

    @property
    def is_being_deleted(self) -> bool:
        """Whether somebody has deleted the pod."""
        return bool(self.pod and "deletionTimestamp" in self.pod["metadata"])

    def taints(self, *effects: str) -> str:
        """The keys of the node's taints with one of these effects; empty when it has none or cannot be read."""
        taints = ((self.observation.node or {}).get("spec") or {}).get("taints") or ()
        return ", ".join(str(taint["key"]) for taint in taints if taint.get("effect") in effects)

    def status_reason(self) -> str:
        """The reason that the harness itself reported."""
        status = self.observation.last_status or {}
        reason = status.get("reason") or status.get("error") or f"{self.subject} is {status.get('state')}"
        return printed(str(reason), STATUS_CHARS)


def event_time(event: Object) -> str:
    """When an event last occurred; RFC 3339 in UTC, which sorts as text."""
    times = (event.get("lastTimestamp"), (event.get("series") or {}).get("lastObservedTime"), event.get("eventTime"))
    return next((str(time) for time in times if time), "")


def one_line(message: str) -> str:
    """A message as one line, without remarks on preemption and without random names."""
    line = _POST_FILTER.sub("", " ".join(_PREEMPTION.sub("", message).split()))
    return printed(_RANDOM_NAME.sub(r'\1"', line)).rstrip(". ")


def printed(text: str, most_chars: int = LINE_CHARS) -> str:
    """What a node or a pod printed, as one line of at most so many characters that a terminal shows as they are."""
    return " ".join(str(printable(text)).split())[:most_chars]


def _owners(metadata: Object) -> list[str]:
    """The uids of a pod's owners; of an orphaned one that of the Job that created it."""
    owners = [str(owner["uid"]) for owner in metadata.get("ownerReferences") or ()]
    creator = (metadata.get("labels") or {}).get(CONTROLLER)
    return owners or ([str(creator)] if creator else [])
