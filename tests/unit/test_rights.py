"""What a benchmark may need on a cluster is what the role grants and what the documents list, neither more nor less."""

import re
from pathlib import Path
from typing import Any

import yaml

from harness.cluster.rights import RIGHTS

REPOSITORY = Path(__file__).resolve().parents[2]
Rights = set[tuple[str, str, str]]


def wanted(*, everywhere: bool, collecting: bool = True) -> Rights:
    return {
        (right.group, right.resource, verb)
        for right in RIGHTS
        if right.everywhere is everywhere and (collecting or right.needed != "collecting")
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


def test_role_namespace_grants_just_what_is_needed() -> None:
    defaults = yaml.safe_load((REPOSITORY / "roles" / "namespace" / "defaults" / "main.yml").read_text())
    more = yaml.safe_load((REPOSITORY / "roles" / "namespace" / "vars" / "main.yml").read_text())
    assert defaults["namespace_collector"] is False
    assert granted(defaults["namespace_rules"]) == wanted(everywhere=False, collecting=False)
    collector = more["__namespace_collector_rules"]
    assert granted(defaults["namespace_rules"] + collector) == wanted(everywhere=False)
    assert granted(defaults["namespace_node_rules"]) == wanted(everywhere=True)


def test_the_documents_list_just_what_is_needed() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(\S*?)` \| `(\S+?)` \| (.+?) \| .*? \|$", text, re.M)
    listed = {
        ("" if group == "core" else group, resource, verb)
        for group, resource, verbs in rows
        for verb in re.findall(r"\w+", verbs)
    }
    assert listed == wanted(everywhere=False) | wanted(everywhere=True)
