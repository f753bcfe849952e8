"""Jobs as podman runs them on this machine: the container command is derived from the Job, field by field.

An unknown field is an error, so that exactly what the Jobs say is tested. In place of a kubelet, claims are folders,
a ConfigMap and parts of Secrets are folders of files, an emptyDir is a tmpfs. All containers share this machine's
network.
"""

import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.image import call

Object = dict[str, Any]

# Few, so that it works where a container may not raise them.
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
# What belongs to the scheduler and the control plane has no counterpart.
_SCHEDULING = {
    *{"affinity", "automountServiceAccountToken", "enableServiceLinks"},
    *{"imagePullSecrets", "serviceAccountName", "tolerations"},
}
_OF_POD = {"containers", "restartPolicy", "securityContext", "terminationGracePeriodSeconds", "volumes", *_SCHEDULING}
_OF_CONTAINER = {
    *{"args", "command", "env", "image", "imagePullPolicy", "name", "ports", "readinessProbe"},
    *{"resources", "securityContext", "startupProbe", "terminationMessagePolicy", "volumeMounts"},
}
_OF_POD_SECURITY = {"fsGroup", "fsGroupChangePolicy", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile"}


def run_words(job: Object, others: list[Object], claims: Mapping[str, Path], folder: Path) -> list[str]:
    """Arguments of `podman run` that start the pod of `job`.

    Args:
        others: objects with its ConfigMap and the Services that it may use.
        claims: a directory for each claim, by the claim's name.
        folder: where ConfigMaps become directories.
    """
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    _known("pod", pod, _OF_POD)
    _known("container", container, _OF_CONTAINER)
    assert pod["restartPolicy"] == "Never"
    words = [
        "podman",
        "run",
        "--detach",
        "--name",
        job["metadata"]["name"],
        "--runtime=runc",
        "--network=host",
        *LIMITS,
    ]
    words += [
        f"--stop-timeout={pod['terminationGracePeriodSeconds']}",
        f"--entrypoint={json.dumps(container['command'])}",
    ]
    words += _memory(container["resources"])
    words += _security(pod["securityContext"], container["securityContext"])
    words += [f"--env={one['name']}={one['value']}" for one in container["env"]]
    volumes = {one["name"]: one for one in pod["volumes"]}
    for mount in container["volumeMounts"]:
        words += _mount(mount, volumes[mount["name"]], others, claims, folder)
    for service in (one for one in others if one["kind"] == "Service"):
        name, space = service["metadata"]["name"], service["metadata"]["namespace"]
        words.append(f"--add-host={name}.{space}.svc:127.0.0.1")
    return [*words, container["image"], *container["args"]]


def _known(field: str, value: Object, supported: set[str]) -> None:
    assert value.keys() <= supported, (
        f"{field}: {value.keys() - supported} are not known to tests/podman.py; play their part there"
    )


def _memory(resources: Object) -> list[str]:
    limits = resources["limits"]
    assert limits.keys() == {"memory"}, f"no GPU here: {limits}"
    return [f"--memory={limits['memory'].removesuffix('i').lower()}"]


def _security(pod: Object, container: Object) -> list[str]:
    _known("the pod's securityContext", pod, _OF_POD_SECURITY)
    # The profile of containerd and of podman: both apply their own where none is named.
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["runAsNonRoot"] and pod["runAsUser"] > 0
    # No --read-only-tmpfs: a kubelet gives no writable folder beside the volumes.
    words = {
        "readOnlyRootFilesystem": {True: ["--read-only", "--read-only-tmpfs=false"], False: []},
        "allowPrivilegeEscalation": {False: ["--security-opt=no-new-privileges"], True: []},
    }
    result = [f"--user={pod['runAsUser']}:{pod['runAsGroup']}", f"--group-add={pod['fsGroup']}"]
    for key, value in container.items():
        if key == "capabilities":
            assert value.keys() == {"drop"}
            result += [f"--cap-drop={name}" for name in value["drop"]]
        else:
            result += words[key][value]
    return result


def _mount(mount: Object, volume: Object, others: list[Object], claims: Mapping[str, Path], folder: Path) -> list[str]:
    _known("volumeMount", mount, {"name", "mountPath", "readOnly"})
    path, read_only = mount["mountPath"], mount.get("readOnly", False)
    match volume:
        case {"persistentVolumeClaim": {"claimName": claim}}:
            source = claims[claim]
        case {"configMap": {"name": name}}:
            (data,) = [one["data"] for one in others if _is(one, "ConfigMap", name)]
            source = folder / name
            source.mkdir(exist_ok=True)
            for file, content in data.items():
                (source / file).write_text(content)
        case {"projected": {"sources": sources}}:
            source = Path(tempfile.mkdtemp(dir=folder))
            source.chmod(0o755)
            for part in (one["secret"] for one in sources):
                (data,) = [one["data"] for one in others if _is(one, "Secret", part["name"])]
                for item in part["items"]:
                    file = source / item["path"]
                    file.write_bytes(base64.b64decode(data[item["key"]]))
                    file.chmod(0o444)  # a kubelet gives it to the pod's group
        case {"emptyDir": options}:
            size = f",tmpfs-size={options['sizeLimit'].removesuffix('i').lower()}" if "sizeLimit" in options else ""
            return ["--mount", f"type=tmpfs,destination={path},tmpfs-mode=1777{size}"]
        case _:
            raise AssertionError(f"volume {volume} is not known to tests/podman.py; play its part there")
    return ["--volume", f"{source}:{path}:{'ro' if read_only else 'rw'}"]


def _is(body: Object, kind: str, name: str) -> bool:
    return bool(body["kind"] == kind and body["metadata"]["name"] == name)


def wait(name: str, timeout_s: float) -> int:
    """The exit code of a container that ends by itself."""
    return int(call("podman", "wait", name, timeout_s=timeout_s))


def remove(name: str) -> None:
    """End it, if it still runs, and remove it."""
    call("podman", "rm", "--force", "--ignore", "--time=5", name, timeout_s=60)
