"""Pod Security: what breaks level `restricted` or `baseline`, in the words of the admission plugin."""

from collections.abc import Callable, Iterable

from tests.cluster.kinds import Object

_ALLOWED = frozenset(
    (
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    )
)


def breaches(spec: Object, level: str) -> str:
    """Everything that breaks a level, as one text; empty for nothing."""
    if level == "privileged":
        return ""
    checks: tuple[Callable[[Object], str], ...] = (_host_names, _host_ports, _host_paths, _privileged)
    if level == "restricted":
        checks = (
            _escalation,
            _capabilities,
            _host_names,
            _host_ports,
            _privileged,
            _volumes,
            _non_root,
            _user,
            _seccomp,
        )
    return ", ".join(filter(None, (check(spec) for check in checks)))


def _containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def _names(result: Iterable[Object], one: str = "container", many: str = "containers") -> str:
    names = [f'"{obj["name"]}"' for obj in result]
    return f"{one if len(names) == 1 else many} {', '.join(names)}" if names else ""


def _bad(spec: Object, good: Callable[[Object], bool]) -> list[Object]:
    return [one for one in _containers(spec) if not good(one.get("securityContext") or {})]


def _escalation(spec: Object) -> str:
    bad = _names(_bad(spec, lambda own: own.get("allowPrivilegeEscalation") is False))
    text = "must set securityContext.allowPrivilegeEscalation=false"
    return f"allowPrivilegeEscalation != false ({bad} {text})" if bad else ""


def _capabilities(spec: Object) -> str:
    dropped = _names(_bad(spec, lambda own: "ALL" in (own.get("capabilities") or {}).get("drop", ())))
    added = _names(_bad(spec, lambda own: set((own.get("capabilities") or {}).get("add", ())) <= {"NET_BIND_SERVICE"}))
    texts = [f'{dropped} must set securityContext.capabilities.drop=["ALL"]'] if dropped else []
    texts += [f"{added} must not include capabilities in securityContext.capabilities.add"] if added else []
    return f"unrestricted capabilities ({'; '.join(texts)})" if texts else ""


def _host_names(spec: Object) -> str:
    result = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    return f"host namespaces ({', '.join(result)})" if result else ""


def _host_ports(spec: Object) -> str:
    result = [
        (one, port["hostPort"]) for one in _containers(spec) for port in one.get("ports", ()) if port.get("hostPort")
    ]
    if not result:
        return ""
    ports = ", ".join(str(port) for _, port in result)
    return f"hostPort ({_names(one for one, _ in result)} uses hostPort{'s' if len(result) > 1 else ''} {ports})"


def _host_paths(spec: Object) -> str:
    bad = _names((one for one in spec.get("volumes", ()) if "hostPath" in one), "volume", "volumes")
    return f"hostPath volumes ({bad})" if bad else ""


def _privileged(spec: Object) -> str:
    bad = _names(_bad(spec, lambda own: not own.get("privileged")))
    return f"privileged ({bad} must not set securityContext.privileged=true)" if bad else ""


def _volumes(spec: Object) -> str:
    bad = [(one, kind) for one in spec.get("volumes", ()) for kind in one.keys() - {"name"} if kind not in _ALLOWED]
    if not bad:
        return ""
    types = ", ".join(sorted({f'"{kind}"' for _, kind in bad}))
    verb, word = ("uses", "type") if len(bad) == 1 else ("use", "types" if "," in types else "type")
    names = _names((one for one, _ in bad), "volume", "volumes")
    return f"restricted volume types ({names} {verb} restricted volume {word} {types})"


def _non_root(spec: Object) -> str:
    pod = spec.get("securityContext") or {}
    bad = _names(_bad(spec, lambda own: own.get("runAsNonRoot", pod.get("runAsNonRoot")) is True))
    return f"runAsNonRoot != true (pod or {bad} must set securityContext.runAsNonRoot=true)" if bad else ""


def _user(spec: Object) -> str:
    bad = ["pod"] if (spec.get("securityContext") or {}).get("runAsUser") == 0 else []
    bad += filter(None, [_names(_bad(spec, lambda own: own.get("runAsUser") != 0))])
    return f"runAsUser=0 ({' and '.join(bad)} must not set runAsUser=0)" if bad else ""


def _seccomp(spec: Object) -> str:
    pod = (spec.get("securityContext") or {}).get("seccompProfile") or {}
    good = ("RuntimeDefault", "Localhost")
    bad = _names(_bad(spec, lambda own: (own.get("seccompProfile") or pod).get("type") in good))
    text = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return f"seccompProfile (pod or {bad} {text})" if bad else ""
