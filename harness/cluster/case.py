"""What was seen of one engine or run, and how it is put into words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.cluster.causes import Kind, Object, Seen

_PREEMPTION = re.compile(r"\.?\s+(no new claims to deallocate,?\s*)?preemption:.*", re.S)


@dataclass(frozen=True, slots=True)
class Case:
    """Engine or run `name` on `node`, and what was seen of it."""

    kind: Kind
    name: str
    node: str
    seen: Seen

    @property
    def who(self) -> str:
        """The engine or run by its name."""
        return f"{self.kind} {self.name}"

    @property
    def pods(self) -> list[Object]:
        """The Job's own: those of an earlier Job of this name may still be on their way out."""
        uid = ((self.seen.job or {}).get("metadata") or {}).get("uid")
        owners = [[ref["uid"] for ref in pod["metadata"].get("ownerReferences") or ()] for pod in self.seen.pods]
        return [pod for pod, of in zip(self.seen.pods, owners, strict=True) if not (uid and of) or uid in of]

    @property
    def pod(self) -> Object | None:
        """The newest of them."""
        pods = self.pods
        return pods[-1] if pods else None

    @property
    def namespace(self) -> str:
        """Where it is."""
        thing = self.seen.job or self.pod
        return str(thing["metadata"].get("namespace", "mlperf")) if thing else "mlperf"

    def show(self, what: str = "") -> str:
        """The command that shows more."""
        named = f"describe pod {self.pod['metadata']['name']}" if self.pod else "get events --sort-by=.lastTimestamp"
        return f"kubectl -n {self.namespace} {what or named}"

    def status(self) -> Object:
        """The pod's status, empty when there is no pod."""
        return dict(self.pod.get("status") or {}) if self.pod else {}

    def container(self, state: str) -> Object | None:
        """What the API says of the container in this state: waiting, running or terminated."""
        for one in self.status().get("containerStatuses") or ():
            found = (one.get("state") or {}).get(state)
            if found is not None:
                return dict(found)
        return None

    def messages(self, *reasons: str) -> Iterator[str]:
        """Messages of events with one of these reasons, newest first."""
        found = [event for event in self.seen.events if event.get("reason") in reasons]
        yield from (str(event.get("message", "")) for event in sorted(found, key=when, reverse=True))

    def container_spec(self) -> Object:
        """What was asked of the container; empty when neither pod nor Job is there."""
        job = ((self.seen.job or {}).get("spec") or {}).get("template") or {}
        spec = (self.pod or {}).get("spec") or job.get("spec") or {}
        return dict((spec.get("containers") or [{}])[0])

    def limit(self, what: str) -> str:
        """How much of a resource the container may have; empty for no limit."""
        limits = (self.container_spec().get("resources") or {}).get("limits") or {}
        return str(limits.get(what, ""))

    def gpu_short(self, *, too_few: bool = False) -> str:
        """That the node offers fewer GPUs than it has, with `too_few` also fewer than were asked for; else empty."""
        status = (self.seen.node or {}).get("status") or {}
        has, offers = status.get("capacity") or {}, status.get("allocatable") or {}
        for name in (name for name in has if "gpu" in name):
            there, asked = int(offers.get(name, 0)), int(self.limit(name) or 0)
            if there < int(has[name]) and (there < asked or not too_few):
                return f"node {self.node} offers {there} of its {has[name]} {name}"
        return ""


def own_words(case: Case, said: Object) -> str:
    """What the harness itself said of its end."""
    return str(said.get("reason") or said.get("error") or f"{case.who} is {said.get('state')}")


def pod_name(case: Case) -> str:
    """The pod's name, empty when there is none."""
    return str(case.pod["metadata"]["name"]) if case.pod else ""


def when(event: Object) -> str:
    """When an event was seen last; RFC 3339 in UTC sorts as text."""
    times = (event.get("lastTimestamp"), (event.get("series") or {}).get("lastObservedTime"), event.get("eventTime"))
    return next((str(time) for time in times if time), "")


def short(message: str) -> str:
    """A message in one line of bearable length, without what the scheduler says of preemption."""
    return " ".join(_PREEMPTION.sub("", message).split())[:400].rstrip(". ")
