"""What a benchmark may need on a cluster is what the role grants and what the documents list, neither more nor less."""

import re
from pathlib import Path
from typing import Any

import yaml

from harness.cluster.rbac import RIGHTS, VOLCANO, VOLCANO_RIGHTS

REPOSITORY = Path(__file__).resolve().parents[2]
Rights = set[tuple[str, str, str]]


def wanted(*, cluster_wide: bool, collecting: bool = True) -> Rights:
    return {
        (right.group, right.resource, verb)
        for right in RIGHTS
        if right.cluster_wide is cluster_wide and (collecting or right.needed != "collecting")
        for verb in right.verbs
    }


def granted(rules: list[dict[str, Any]]) -> Rights:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_role_namespace_grants_exactly_the_required_rights() -> None:
    defaults = yaml.safe_load((REPOSITORY / "roles" / "namespace" / "defaults" / "main.yml").read_text())
    more = yaml.safe_load((REPOSITORY / "roles" / "namespace" / "vars" / "main.yml").read_text())
    assert defaults["namespace_collector"] is False
    assert granted(defaults["namespace_rules"]) == wanted(cluster_wide=False, collecting=False)
    collector = more["__namespace_collector_rules"]
    assert granted(defaults["namespace_rules"] + collector) == wanted(cluster_wide=False)
    assert granted(defaults["namespace_node_rules"]) == wanted(cluster_wide=True)


def test_the_documents_list_exactly_the_required_rights() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(\S*?)` \| `(\S+?)` \| (.+?) \| .*? \|$", text, re.M)
    listed = {
        ("" if group == "core" else group, resource, verb)
        for group, resource, verbs in rows
        for verb in re.findall(r"\w+", verbs)
    }
    assert listed == wanted(cluster_wide=False) | wanted(cluster_wide=True)


def test_role_volcano_grants_exactly_the_required_rights() -> None:
    rules = yaml.safe_load((REPOSITORY / "roles/volcano/defaults/main.yml").read_text())["volcano_rules"]
    assert granted(rules) == {(right.group, right.resource, verb) for right in VOLCANO for verb in right.verbs}
    assert {right.resource for right in VOLCANO_RIGHTS} >= {right.resource for right in RIGHTS}
