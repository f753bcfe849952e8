"""Variables of a role as Ansible would template them, without a play."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES = "1.36"
init_plugin_loader()


def render(role: str, name: str, **given: Any) -> Any:
    """The value of a role's variable, with `given` over the role's defaults."""
    loader = DataLoader()
    folder = REPOSITORY / "roles" / role
    variables: dict[str, Any] = {"role_path": str(folder), "ansible_check_mode": False}
    for part in ("defaults", "vars"):
        variables |= loader.load_from_file(str(folder / part / "main.yml"), trusted_as_template=True) or {}
    return Templar(loader, variables=variables | given).template(variables[name])


def validate(objects: list[dict[str, Any]]) -> None:
    """Every object fits the schema of its kind, strictly: no field that the API does not know."""
    assert objects
    for item in objects:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


def pod_specs(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The pod specs of objects that make pods."""
    for item in objects:
        template = item["spec"]["jobTemplate"]["spec"] if item["kind"] == "CronJob" else item.get("spec", {})
        if item["kind"] == "Pod":
            yield item["spec"]
        elif "template" in template:
            yield template["template"]["spec"]
