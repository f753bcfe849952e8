"""The rights of a benchmark on a cluster are exactly those that the role grants and the documents list."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness.cli import cli
from harness.cluster.rbac import RIGHTS, VOLCANO, VOLCANO_RIGHTS, Right
from tests.unit.ansible_modules import call
from tests.unit.role_values import GROUPS, validate, value

REPOSITORY = Path(__file__).resolve().parents[2]
Rights = set[tuple[str, str, str]]


def required_rights(*, cluster_wide: bool, collecting: bool = True) -> Rights:
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


@pytest.mark.parametrize("collecting", [False, True])
def test_role_namespace_grants_exactly_the_required_rights(collecting: bool) -> None:
    arguments = {"namespace": "mlperf", "runner": "mlperf-runner", "operator": "mlperf-operator"}
    objects = call("mlperf_access", {**arguments, "collecting": collecting})["objects"]
    rules = {one["kind"]: one["rules"] for one in objects if "rules" in one}
    assert granted(rules["Role"]) == required_rights(cluster_wide=False, collecting=collecting)
    assert granted(rules["ClusterRole"]) == required_rights(cluster_wide=True)
    validate(value("namespace", "__namespace_objects", __namespace_access={"objects": objects}, groups=GROUPS))


def test_the_documents_list_exactly_the_required_rights() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(\S*?)` \| `(\S+?)` \| (.+?) \| .*? \|$", text, re.M)
    listed = {
        ("" if group == "core" else group, resource, verb)
        for group, resource, verbs in rows
        for verb in re.findall(r"\w+", verbs)
    }
    assert listed == required_rights(cluster_wide=False) | required_rights(cluster_wide=True)


def test_the_documented_account_may_clean_up_as_documented() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    (kinds,) = set(re.findall(r"kubectl -n mlperf delete (\S+,\S+) -l mlperf/run=", text))
    granted_there = {(resource, verb) for _group, resource, verb in required_rights(cluster_wide=False)}
    # kubectl lists what has the label, then deletes each by its name.
    assert {(f"{kind}s", verb) for kind in kinds.split(",") for verb in ("list", "delete")} <= granted_there
    in_volcano = {(right.group, verb) for right in VOLCANO for verb in right.verbs if right.resource == "jobs"}
    assert {("batch.volcano.sh", "list"), ("batch.volcano.sh", "delete")} <= in_volcano


@pytest.mark.parametrize(("launcher", "rights"), [("kubernetes", RIGHTS), ("torchx", VOLCANO_RIGHTS)])
@pytest.mark.parametrize("nodes", [["jw2"], ["jw2", "jw3"]])
def test_the_documented_clean_up_finds_every_secret(launcher: str, rights: tuple[Right, ...], nodes: list[str]) -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    (kind,) = re.findall(r"delete secret --wait=false .*\$\(kubectl -n mlperf get (\S+) -l mlperf/run=", text)
    granted_there = {(right.resource, verb) for right in rights for verb in right.verbs}
    assert {(f"{kind}s", "list"), ("secrets", "delete")} <= granted_there
    image = "registry.example.org/node@sha256:" + "a" * 64
    words = ["manifests", "--launcher", launcher, "--image", image, "--run-id", "first"]
    printed = CliRunner().invoke(cli, [*words, *(word for node in nodes for word in ("--node", node))])
    objects = [one for one in yaml.safe_load_all(printed.stdout) if one["metadata"]["labels"]["mlperf/run"] == "first"]
    listed = {one["metadata"]["name"] for one in objects if one["kind"].lower() == kind}
    secrets = {one["metadata"]["name"] for one in objects if one["kind"] == "Secret"}
    assert len(secrets) == len(nodes) and secrets <= listed


def test_role_volcano_grants_exactly_the_required_rights() -> None:
    rules = yaml.safe_load((REPOSITORY / "roles/volcano/defaults/main.yml").read_text())["volcano_rules"]
    assert granted(rules) == {(right.group, right.resource, verb) for right in VOLCANO for verb in right.verbs}
    assert {right.resource for right in VOLCANO_RIGHTS} >= {right.resource for right in RIGHTS}
