"""What a role's variables and templates come to, worked out by Ansible itself."""

from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[2] / "roles"

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


def templar(role: str, host: str = "jw2", **given: Any) -> Templar:
    """Everything that the role knows on a host of a cluster like inventory/jw; `given` is what a user has set."""
    loader = DataLoader()
    variables: dict[str, Any] = {
        "inventory_hostname": host,
        "ansible_host": f"192.0.2.1{host[-1]}",
        "group_names": [name for name, hosts in GROUPS.items() if host in hosts],
        "groups": GROUPS,
        "ansible_facts": FACTS,
        "ansible_check_mode": False,
        "ansible_play_hosts": GROUPS["cluster"],
    }
    for name in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLES / role / name / "main.yml"), trusted_as_template=True)
    return Templar(loader=loader, variables=variables | given)


def value(role: str, name: str, host: str = "jw2", **given: Any) -> Any:
    """A variable of the role."""
    return templar(role, host, **given).template(trust_as_template("{{ " + name + " }}"))


def rendered(role: str, name: str, host: str = "jw2", **given: Any) -> str:
    """A template of the role, as the module `template` renders it."""
    text = (ROLES / role / "templates" / name).read_text()
    return str(
        templar(role, host, **given)
        .copy_with_new_env()
        .template(
            trust_as_template(text),
            overrides={"trim_blocks": True, "lstrip_blocks": False, "keep_trailing_newline": True},
        )
    )
