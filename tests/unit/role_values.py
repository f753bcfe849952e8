"""Values of a role's variables and templates, computed by Ansible itself, and the Kubernetes objects among them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[2] / "roles"
KUBERNETES = "1.36"
init_plugin_loader()

FACTS = {
    "distribution": "Debian",
    "distribution_release": "bookworm",
    "distribution_version": "12.9",
    "distribution_major_version": "12",
    "user_dir": "/home/admin",
    "user_id": "admin",
    "env": {},
}
GROUPS = {"controller": ["jw1"], "gpu_nodes": ["jw2", "jw3"], "cluster": ["jw1", "jw2", "jw3"]}


def templar(role: str, host: str = "jw2", **overrides: Any) -> Templar:
    """All variables of the role on a host of a cluster like inventory/jw; `overrides` are a user's settings."""
    loader = DataLoader()
    variables: dict[str, Any] = {
        "inventory_hostname": host,
        "ansible_host": f"192.0.2.1{host[-1]}",
        "group_names": [name for name, hosts in GROUPS.items() if host in hosts],
        "groups": GROUPS,
        "ansible_facts": FACTS,
        "ansible_check_mode": False,
        "role_path": str(ROLES / role),
        "ansible_play_hosts": GROUPS["cluster"],
    }
    for name in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLES / role / name / "main.yml"), trusted_as_template=True) or {}
    return Templar(loader=loader, variables=variables | overrides)


def value(role: str, name: str, host: str = "jw2", **overrides: Any) -> Any:
    """A variable of the role."""
    return templar(role, host, **overrides).template(trust_as_template("{{ " + name + " }}"))


def rendered(role: str, name: str, host: str = "jw2", **overrides: Any) -> str:
    """A template of the role, as the module `template` renders it."""
    text = (ROLES / role / "templates" / name).read_text()
    return str(
        templar(role, host, **overrides)
        .copy_with_new_env()
        .template(
            trust_as_template(text),
            overrides={"trim_blocks": True, "lstrip_blocks": False, "keep_trailing_newline": True},
        )
    )


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
