"""A pod's status as its kubelet reports it."""

from pathlib import Path
from typing import Any

from tests.cluster.kinds import POD, Object
from tests.cluster.state import State
from tests.cluster.store import key_of, stamp

BY = "kubelet"
_MESSAGE_BYTES = 2048
_MESSAGE_LINES = 80


class PodStatus:
    """Reports the state of a pod and its containers while its node is not lost."""

    def __init__(self, state: State, pod: Object) -> None:
        self._state = state
        self.key, self.uid, self.spec = key_of(pod), pod["metadata"]["uid"], pod["spec"]
        self.log_of = {
            one["name"]: state.folder / "logs" / f"{self.uid}.{one['name']}.log" for one in pod["spec"]["containers"]
        }
        self._kept: list[Any] = []
        self.silent = False
        for log in self.log_of.values():
            log.parent.mkdir(parents=True, exist_ok=True)

    @property
    def pod(self) -> Object | None:
        """The stored pod; None when it was deleted."""
        result = self._state.store.find(POD, *self.key)
        return result if result and result["metadata"]["uid"] == self.uid else None

    def speak(self) -> None:
        """Report all that was held back while the node was lost."""
        self.silent = False
        changes, self._kept = self._kept, []
        for change in changes:
            self._edit(change)

    def begin(self) -> None:
        """Accept the pod: its containers wait."""
        spec = self.spec

        def change(status: Object) -> None:
            status |= {"startTime": stamp(), "hostIP": "127.0.0.1", "hostIPs": [{"ip": "127.0.0.1"}]}
            status["containerStatuses"] = [_waiting(one) for one in spec["containers"]]
            for kind in ("Initialized", "PodReadyToStartContainers"):
                _condition(status, kind, "True")
            for kind in ("Ready", "ContainersReady"):
                names = " ".join(one["name"] for one in spec["containers"])
                _condition(status, kind, "False", "ContainersNotReady", f"containers with unready status: [{names}]")

        self._edit(change)

    def waiting(self, name: str, reason: str, message: str = "") -> None:
        """Record that a container waits, with a reason."""
        details = {"reason": reason, **({"message": message} if message else {})}
        self._container(name, {"state": {"waiting": details}, "ready": False, "started": False})

    def running(self, name: str, *, ready: bool, started: bool = True) -> None:
        """Record that a container runs."""
        old = self._status_of(name)
        state = old.get("state", {}) if "running" in old.get("state", {}) else {"running": {"startedAt": stamp()}}
        more = {"containerID": f"containerd://{self.uid.replace('-', '')}", "imageID": _image_id(self.spec, name)}
        self._container(name, {"state": state, "ready": ready, "started": started, **more})

    def terminate(self, name: str, code: int, reason: str = "") -> None:
        """Record that a container has ended."""
        reason = reason or ("Completed" if code == 0 else "Error")
        old = self._status_of(name)
        started_at = old.get("state", {}).get("running", {}).get("startedAt", stamp())
        container = next(one for one in self.spec["containers"] if one["name"] == name)
        message = ""
        if code and container["terminationMessagePolicy"] == "FallbackToLogsOnError":
            message = _tail(self.log_of[name])
        details: Object = {"exitCode": code, "reason": reason, **({"message": message} if message else {})}
        details |= {
            "startedAt": started_at,
            "finishedAt": stamp(),
            "containerID": f"containerd://{self.uid.replace('-', '')}",
        }
        self._container(name, {"state": {"terminated": details}, "ready": False, "started": False})

    def rejected(self, reason: str, message: str) -> None:
        """Fail the whole pod, whatever its containers do."""

        def change(status: Object) -> None:
            status |= {"phase": "Failed", "reason": reason, "message": message}
            # One that was never let in has no containers; those of one that ran are killed.
            running = [one for one in status.pop("containerStatuses", ()) if "running" in one["state"]]
            for one in running:
                times = {"startedAt": one["state"]["running"]["startedAt"], "finishedAt": stamp()}
                one |= {"state": {"terminated": {"exitCode": 137, "reason": "Error", **times}}, "ready": False}
            status |= {"containerStatuses": running} if running else {}

        self._edit(change)

    def disrupted(self, reason: str, message: str) -> None:
        """Record that the pod is ended from outside."""
        self._edit(lambda status: _condition(status, "DisruptionTarget", "True", reason, message))

    def note(self, reason: str, message: str, *, warning: bool = False, part: str = "") -> None:
        """Record an event about the pod or one of its containers."""
        pod = self.pod
        if pod is not None and not self.silent:
            self._state.event(pod, reason, message, by=BY, warning=warning, part=part)

    def _status_of(self, name: str) -> Object:
        result: list[Object] = (self.pod or {}).get("status", {}).get("containerStatuses", [])
        return next((one for one in result if one["name"] == name), {})

    def _container(self, name: str, values: Object) -> None:
        def change(status: Object) -> None:
            for one in status.get("containerStatuses", ()):
                if one["name"] == name:
                    one |= values
            _settle(status)

        self._edit(change)

    def _edit(self, change: Any) -> None:
        if self.silent:
            self._kept.append(change)
        elif self.pod is not None:
            self._state.store.edit(POD, *self.key, lambda new: change(new["status"]))


def _settle(status: Object) -> None:
    """Phase and conditions that follow from the containers, for restartPolicy Never."""
    states = [one["state"] for one in status["containerStatuses"]]
    ready = all(one["ready"] for one in status["containerStatuses"])
    if all("terminated" in one for one in states):
        codes = [one["terminated"]["exitCode"] for one in states]
        status["phase"] = "Failed" if any(codes) else "Succeeded"
        why = "PodFailed" if any(codes) else "PodCompleted"
        for kind in ("Ready", "ContainersReady"):
            _condition(status, kind, "False", why)
        _condition(status, "PodReadyToStartContainers", "False")
        return
    if any("running" in one or "terminated" in one for one in states):
        status["phase"] = "Running"
        status |= {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
    names = " ".join(one["name"] for one in status["containerStatuses"] if not one["ready"])
    for kind in ("Ready", "ContainersReady"):
        if ready:
            _condition(status, kind, "True")
        else:
            _condition(status, kind, "False", "ContainersNotReady", f"containers with unready status: [{names}]")


def _condition(status: Object, kind: str, value: str, reason: str = "", message: str = "") -> None:
    old = next((one for one in status.get("conditions", ()) if one["type"] == kind), None)
    new = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": stamp()}
    new |= {**({"reason": reason} if reason else {}), **({"message": message} if message else {})}
    if old is not None and old["status"] == value:
        new["lastTransitionTime"] = old["lastTransitionTime"]
    status["conditions"] = [*(one for one in status.get("conditions", ()) if one is not old), new]


def _waiting(container: Object) -> Object:
    state = {"waiting": {"reason": "ContainerCreating"}}
    shared = {"ready": False, "restartCount": 0, "started": False, "lastState": {}}
    return {"name": container["name"], "state": state, **shared, "image": container["image"], "imageID": ""}


def _image_id(spec: Object, name: str) -> str:
    image = next(one["image"] for one in spec["containers"] if one["name"] == name)
    return image if "@" in image else f"{image}@sha256:{'0' * 64}"


def _tail(log: Path) -> str:
    text = log.read_bytes()[-_MESSAGE_BYTES:] if log.exists() else b""
    return "".join(text.decode(errors="replace").splitlines(keepends=True)[-_MESSAGE_LINES:])
