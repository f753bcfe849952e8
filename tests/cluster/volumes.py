"""A container's volumes as folders of this machine, its variables, user and groups."""

import base64
import os
import re
import sys
from pathlib import Path
from typing import Any

from tests.cluster.kinds import CONFIG_MAP, SECRET, Object
from tests.cluster.quantities import amount
from tests.cluster.state import Image, State
from tests.cluster.store import key_of
from tests.conftest import NODE_ENVIRONMENT, REPOSITORY

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NotYet(Exception):
    """A volume cannot be mounted now: the kubelet says so in an event, and tries again."""


class BadConfig(Exception):
    """A container cannot be made from what its spec refers to."""


def sources(state: State, pod: Object, folder: Path) -> dict[str, Object]:
    """The mounts of a pod by volume: source (empty for memory), size, read_only.

    Raises:
        NotYet: one is not there.
    """
    return {
        volume["name"]: _source(state, pod, volume, folder / volume["name"])
        for volume in pod["spec"].get("volumes", ())
    }


def _source(state: State, pod: Object, volume: Object, folder: Path) -> Object:
    namespace, _ = key_of(pod)
    group = pod["spec"]["securityContext"].get("fsGroup")
    if "emptyDir" in volume:
        memory = (volume["emptyDir"] or {}).get("medium") == "Memory"
        size = (volume["emptyDir"] or {}).get("sizeLimit")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return {"source": "" if memory else str(folder), "size": int(amount(size)) if size else 0}
    if "configMap" in volume:
        result = state.store.find(CONFIG_MAP, namespace, volume["configMap"]["name"])
        if result is None and not volume["configMap"].get("optional"):
            raise NotYet(
                f'MountVolume.SetUp failed for volume "{volume["name"]}" : configmap '
                f'"{volume["configMap"]["name"]}" not found'
            )
        _write(folder, (result or {}).get("data") or {}, volume["configMap"])
        return {"source": str(folder), "read_only": True}
    if "projected" in volume:
        for source in volume["projected"]["sources"]:
            _project(state, namespace, volume, source["secret"], folder, group)
        return {"source": str(folder), "read_only": True}
    if "persistentVolumeClaim" in volume:
        claim = volume["persistentVolumeClaim"]
        place = state.claims.get((namespace, claim["claimName"]))
        if place is None or not place.is_dir():
            path = place or f"/claims/{claim['claimName']}"
            raise NotYet(
                f'MountVolume.NewMounter initialization failed for volume "{claim["claimName"]}" : path "{path}" '
                "does not exist"
            )
        if group is not None and not _only_read(pod, volume["name"]):
            _own(place, group)
        return {"source": str(place), "read_only": bool(claim.get("readOnly"))}
    (kind,) = volume.keys() - {"name"}
    raise NotYet(f'MountVolume.SetUp failed for volume "{volume["name"]}" : volumes of type {kind} are not simulated')


def _project(state: State, namespace: str, volume: Object, source: Object, folder: Path, group: int | None) -> None:
    """Write the items of a Secret, readable by the pod's group."""
    secret = state.store.find(SECRET, namespace, source["name"])
    if secret is None:
        raise NotYet(f'MountVolume.SetUp failed for volume "{volume["name"]}" : secret "{source["name"]}" not found')
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    _write(folder, data, {**source, "defaultMode": volume["projected"]["defaultMode"]})
    for item in source["items"]:
        os.chown(folder / item["path"], -1, -1 if group is None else group)


def _write(folder: Path, data: dict[str, str], source: Object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {item["key"]: item["path"] for item in source.get("items", ())} or {key: key for key in data}
    for key, path in paths.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(data[key])
        file.chmod(source["defaultMode"])
    folder.chmod(0o755)


def _only_read(pod: Object, volume: str) -> bool:
    mounts = [one for container in pod["spec"]["containers"] for one in container.get("volumeMounts", ())]
    return all(one.get("readOnly") for one in mounts if one["name"] == volume)


def _own(place: Path, group: int) -> None:
    """Give a volume to the pod's group, as the kubelet does where its root is not the group's yet."""
    if place.stat().st_gid == group and place.stat().st_mode & 0o070 == 0o070:
        return
    for path in (place, *place.rglob("*")):
        if not path.is_symlink():
            os.chown(path, -1, group)
            path.chmod(path.stat().st_mode | (0o2070 if path.is_dir() else 0o060))


def mounts(container: Object, volumes: dict[str, Object]) -> list[Object]:
    """Where a container's volumes are mounted."""
    result = []
    for mount in container.get("volumeMounts", ()):
        volume = volumes[mount["name"]]
        source = volume["source"]
        if mount.get("subPath"):
            source = f"{source}/{mount['subPath']}"
        read_only = bool(mount.get("readOnly") or volume.get("read_only"))
        result.append(
            {"source": source, "size": volume.get("size", 0), "target": mount["mountPath"], "read_only": read_only}
        )
    return result


def environment(state: State, pod: Object, container: Object, image: Image) -> dict[str, str]:
    """The variables of a container.

    Raises:
        BadConfig: one is taken from what is not there.
    """
    first = ":".join(map(str, image.path))
    result = {"PATH": f"{first}:{PATH}" if first else PATH, "HOSTNAME": pod["metadata"]["name"], **image.env}
    result |= {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    for variable in container.get("env", ()):
        value = variable.get("value", "")
        if "valueFrom" in variable:
            value = _taken(state, pod, variable["valueFrom"])
        result[variable["name"]] = expanded(value, result)
    return result


def expanded(text: str, variables: dict[str, str]) -> str:
    """A text with $(NAME) replaced by known variables; $$ is a dollar."""

    def value(result: re.Match[str]) -> str:
        return "$" if result[0] == "$$" else variables.get(result[1], result[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", value, text)


def _taken(state: State, pod: Object, source: Object) -> str:
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"])
    for reference, kind, word in (("configMapKeyRef", CONFIG_MAP, "configmap"), ("secretKeyRef", SECRET, "secret")):
        if reference in source:
            key = source[reference]
            result = state.store.find(kind, key_of(pod)[0], key["name"])
            if result is None:
                raise BadConfig(f'{word} "{key["name"]}" not found')
            if key["key"] not in (result.get("data") or {}):
                raise BadConfig(f"couldn't find key {key['key']} in {kind.kind} {'/'.join(key_of(result))}")
            return str(result["data"][key["key"]])
    raise BadConfig(f"variables from {', '.join(source)} are not simulated")


def _field(pod: Object, path: str) -> str:
    if result := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(result[1], {}).get(result[2], ""))
    special = {"status.podIP": "127.0.0.1", "status.hostIP": "127.0.0.1", "status.podIPs": "127.0.0.1"}
    if path in special:
        return special[path]
    value: Any = pod
    for word in path.split("."):
        value = value.get(word, "") if isinstance(value, dict) else ""
    return str(value)


def image_folders() -> list[str]:
    """Folders of this machine that an image needs, which no mount may hide: this checkout may lie below /tmp."""
    return [str(folder) for folder in (REPOSITORY, NODE_ENVIRONMENT, Path(sys.prefix))]


def ways(image: Image) -> list[str]:
    """Folders that every user must reach: the commands of an image, and what they need."""
    links = [one for folder in image.path for one in folder.glob("python*") if one.is_symlink()]
    return [str(one) for folder in image.path for one in (folder, folder / "any")] + [
        str(one.resolve()) for one in links
    ]


def identity(pod: Object, container: Object) -> tuple[int | None, int, list[int]]:
    """User, group and other groups of a container; user None for root as it is.

    Raises:
        BadConfig: it may not be root, and nothing says who else it is.
    """
    both = {**pod["spec"]["securityContext"], **(container.get("securityContext") or {})}
    user, group = both.get("runAsUser"), both.get("runAsGroup", 0)
    if both.get("runAsNonRoot") and user is None:
        raise BadConfig(
            f'container has runAsNonRoot and image will run as root (pod: "{"_".join(reversed(key_of(pod)))}'
            f'({pod["metadata"]["uid"]})", container: {container["name"]})'
        )
    groups = [*both.get("supplementalGroups", ()), *([both["fsGroup"]] if "fsGroup" in both else [])]
    return user, group, groups
