"""A Job's podFailurePolicy: the effect of a failed pod."""

from dataclasses import dataclass

from tests.cluster.kinds import Object


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a Job fails at once."""

    reason: str
    message: str


def verdict(job: Object, pod: Object) -> Verdict | None:
    """The first rule that a failed pod matches, if it is FailJob; other actions count as Count."""
    where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", ())):
        message = ""
        if "onExitCodes" in rule:
            code = _code(pod, rule["onExitCodes"])
            if code:
                message = f"Container {code[0]} for pod {where} failed with exit code {code[1]}"
        else:
            kind = _condition(pod, rule.get("onPodConditions", ()))
            if kind:
                message = f"Pod {where} has condition {kind}"
        if message:
            if rule["action"] != "FailJob":
                return None
            return Verdict("PodFailurePolicy", f"{message} matching FailJob rule at index {index}")
    return None


def _code(pod: Object, rule: Object) -> tuple[str, int] | None:
    status = pod["status"]
    for one in [*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())]:
        terminated = one.get("state", {}).get("terminated")
        if not terminated or terminated["exitCode"] == 0 or rule.get("containerName", one["name"]) != one["name"]:
            continue
        if (terminated["exitCode"] in rule["values"]) == (rule["operator"] == "In"):
            return one["name"], terminated["exitCode"]
    return None


def _condition(pod: Object, patterns: list[Object]) -> str:
    for pattern in patterns:
        for one in pod["status"].get("conditions", ()):
            if (one["type"], one["status"]) == (pattern["type"], pattern.get("status", "True")):
                return str(one["type"])
    return ""
