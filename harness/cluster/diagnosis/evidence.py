"""What was observed of one engine or run, with the look-ups and wording that every diagnosis needs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.cluster.diagnosis.causes import Kind, Object, Observation

_PREEMPTION = re.compile(r"\.?\s+(no new claims to deallocate,?\s*)?preemption:.*", re.S)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Engine or run `name` on `node`, and what was observed of it."""

    kind: Kind
    name: str
    node: str
    observation: Observation

    @property
    def subject(self) -> str:
        """The engine or run by its name."""
        return f"{self.kind} {self.name}"

    @property
    def pods(self) -> list[Object]:
        """Pods of this Job; those of an earlier Job with the same name may still be terminating."""
        uid = ((self.observation.job or {}).get("metadata") or {}).get("uid")
        pods = [
            (pod, [owner["uid"] for owner in pod["metadata"].get("ownerReferences") or ()])
            for pod in self.observation.pods
        ]
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

    def status_reason(self) -> str:
        """The reason that the harness itself reported."""
        status = self.observation.last_status or {}
        return str(status.get("reason") or status.get("error") or f"{self.subject} is {status.get('state')}")


def event_time(event: Object) -> str:
    """When an event last occurred; RFC 3339 in UTC, which sorts as text."""
    times = (event.get("lastTimestamp"), (event.get("series") or {}).get("lastObservedTime"), event.get("eventTime"))
    return next((str(time) for time in times if time), "")


def one_line(message: str) -> str:
    """A message as one line of at most 400 characters, without the scheduler's remarks on preemption."""
    return " ".join(_PREEMPTION.sub("", message).split())[:400].rstrip(". ")
