"""A Job's podFailurePolicy: what the end of a pod means."""

from dataclasses import dataclass

from tests.cluster.kinds import Object


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a Job fails at once."""

    reason: str
    message: str


def verdict(job: Object, pod: Object) -> Verdict | None:
    """The first rule that a failed pod meets, when it is FailJob; other actions count as Count."""
    where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", ())):
        said = ""
        if "onExitCodes" in rule:
            code = _code(pod, rule["onExitCodes"])
            if code:
                said = f"Container {code[0]} for pod {where} failed with exit code {code[1]}"
        else:
            kind = _condition(pod, rule.get("onPodConditions", ()))
            if kind:
                said = f"Pod {where} has condition {kind}"
        if said:
            if rule["action"] != "FailJob":
                return None
            return Verdict("PodFailurePolicy", f"{said} matching FailJob rule at index {index}")
    return None


def _code(pod: Object, rule: Object) -> tuple[str, int] | None:
    status = pod["status"]
    for one in [*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())]:
        ended = one.get("state", {}).get("terminated")
        if not ended or ended["exitCode"] == 0 or rule.get("containerName", one["name"]) != one["name"]:
            continue
        if (ended["exitCode"] in rule["values"]) == (rule["operator"] == "In"):
            return one["name"], ended["exitCode"]
    return None


def _condition(pod: Object, patterns: list[Object]) -> str:
    for pattern in patterns:
        for one in pod["status"].get("conditions", ()):
            if (one["type"], one["status"]) == (pattern["type"], pattern.get("status", "True")):
                return str(one["type"])
    return ""
