"""Claims of a cluster: made with namespace and rights, filled from each kind of source, and looked into."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness import assets
from harness.cli import cli
from harness.cluster import doctor, storage
from harness.cluster.api import Api
from harness.cluster.launch import Launcher
from harness.cluster.rbac import RIGHTS
from harness.cluster.settings import parse_cluster
from harness.cluster.storage import fill, loaders, parse_storage, set_up
from harness.downloads import LFS_POINTER
from harness.errors import BadInput, RunFailed
from tests.cluster import Cluster, Image
from tests.cluster.kinds import CLAIM, CLUSTER_ROLE, CONFIG_MAP, JOB, NAMESPACE, POD, ROLE, SECRET, SERVICE_ACCOUNT
from tests.cluster.security import breaches
from tests.conftest import REPOSITORY
from tests.engines import write_model
from tests.unit.cluster_clients import soon
from tests.unit.cluster_fixtures import IMAGE, Object, engine, launcher, spec
from tests.unit.role_values import pod_specs, validate
from tests.unit.test_assets import Store, store  # noqa: F401

MODEL, DATASET = "/var/lib/mlperf/model/Llama-3.1-8B-Instruct", "/var/lib/mlperf/dataset/cnn_eval.json"
NODES = ("n1", "n2")
TOKEN = "hf_secret"
RECORD = {"tok_input": [1, 2], "input": "a", "output": "b"}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="a pod needs a mount namespace of its own: run as root")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes, storage class `fast`, and an image that holds the harness."""
    monkeypatch.setattr(storage, "INTERVAL_S", 0.2)
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as commands,
        Cluster(images={IMAGE: Image((Path(commands),))}, as_user=False) as double,
    ):
        harness = Path(commands, "harness")
        harness.write_text(f'#!/bin/sh\nexec env PYTHONPATH={REPOSITORY} {sys.executable} -m harness "$@"\n')
        harness.chmod(0o755)
        for node in NODES:
            double.node(node, gpus=1)
        double.runtime_class()
        double.storage_class("fast", tmp_path / "claims")
        yield double


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a model and a data set of one sample."""
    write_model(tmp_path / "source" / "model", shards=2)
    (tmp_path / "source" / "dataset").mkdir()
    (tmp_path / "source" / "dataset" / "cnn_eval.json").write_text(json.dumps([RECORD]))
    return tmp_path / "source"


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def load(cluster: Cluster, values: Object, **settings: Any) -> list[str]:
    """Set up the cluster and fill its claims; the lines of progress."""
    lines: list[str] = []
    wanted = parse_storage({"storage_class": "fast", **values})
    starter = launcher(cluster, **settings)
    set_up(starter, NODES, wanted, lines.append)
    jobs = loaders(starter.cluster, NODES, wanted, MODEL, DATASET)
    # Written once: the loaders are followed at the same time.
    kubeconfig = cluster.kubeconfig()
    fill(lambda: Launcher(Api(cluster.namespace, kubeconfig), starter.cluster), jobs, lines.append)
    return lines


def look(cluster: Cluster, **settings: Any) -> list[Object]:
    """What the check before a benchmark says of a node that is not fine."""
    planned = {"model": MODEL, "dataset": DATASET, "samples": 1}
    findings = doctor.check(launcher(cluster, **settings), "r1", "n1", [engine(model=MODEL)], spec(**planned))
    return [finding for finding in findings if finding["level"] != "ok"]


@root_only
def test_a_folder_here_fills_the_claims_of_each_node(
    cluster: Cluster, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_PIECE_BYTES", 100)
    contents = {"model": {"source": f"{source}/model", "files": {}}, "dataset": {"source": f"{source}/dataset"}}
    lines = load(cluster, contents)
    for node in NODES:
        for name, folder in (
            ("model", tmp_path / f"claims/model-{node}/Llama-3.1-8B-Instruct"),
            ("dataset", tmp_path / f"claims/dataset-{node}"),
        ):
            assert sums(source / name).items() <= sums(folder).items()
            assert not list(folder.glob("*.part"))
        assert f"{node}  config.json: sent 0.00 of 0.00 MiB" in lines
    # Nothing is left of the loaders; a second time sends nothing.
    soon(lambda: not cluster.all(POD))
    assert cluster.all(JOB) == []
    assert [one for one in cluster.all(CONFIG_MAP) if one["metadata"]["name"].startswith("loader-")] == []
    again = load(cluster, contents)
    assert not [line for line in again if ": sent" in line]

    # The check before a benchmark: the tiny model is called that; a file that changed or was cut is found.
    (finding,) = look(cluster)
    assert (finding["level"], finding["check"]) == ("warn", "model") and "not Llama-3.1-8B" in finding["seen"]
    weights = tmp_path / "claims/model-n1/Llama-3.1-8B-Instruct/model-00002-of-00002.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    (finding,) = look(cluster)
    assert finding["level"] == "fail" and "model-00002-of-00002.safetensors" in finding["seen"], finding
    assert cluster.all(JOB) == []


@root_only
def test_an_address_with_a_token_fills_claims_that_nodes_share(
    cluster: Cluster,
    store: Store,  # noqa: F811
    tmp_path: Path,
) -> None:
    """What is not a model is reported as such, after its file was verified."""
    store.cuts = [1000]
    starter = launcher(cluster)
    starter.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mlperf"}})
    digest = hashlib.sha256(store.content).hexdigest()
    values = {
        "storage": {
            "storage_class": "fast",
            "sizes": {"runs": "2Gi"},
            "model": {"source": store.url, "files": {"a.bin": digest}},
        },
        "token": TOKEN,
        "nodes": NODES,
        "model": MODEL,
        "dataset": DATASET,
    }
    settings = json.dumps({"image": IMAGE, "model_claim": "model", "dataset_claim": "model"})
    words = ["cluster", "--kubeconfig", str(cluster.kubeconfig()), "--settings", settings, "storage"]
    checked = CliRunner().invoke(cli, [*words, "--check"], input=json.dumps(values))
    assert "would apply PersistentVolumeClaim model" in checked.output and cluster.all(CLAIM) == [], checked.output
    result = CliRunner().invoke(cli, words, input=json.dumps(values))
    assert isinstance(result.exception, RunFailed)
    assert "has no config.json" in str(result.exception)
    assert (tmp_path / "claims/model/Llama-3.1-8B-Instruct/a.bin").read_bytes() == store.content
    assert [request.get("Authorization") for request in store.requests] == [f"Bearer {TOKEN}"] * 2
    # The token was in a Secret, which is gone, and in nothing that was printed or stored.
    assert cluster.all(SECRET) == []
    assert TOKEN not in result.output + result.stderr + str(cluster.all(JOB)) + str(result.exception)
    claims = {one["metadata"]["name"]: one["spec"] for one in cluster.all(CLAIM)}
    assert claims.keys() == {"runs-n1", "runs-n2", "model"}
    assert claims["model"]["accessModes"] == ["ReadWriteMany"]
    assert claims["model"]["resources"]["requests"]["storage"] == str(31 << 30)
    assert claims["runs-n1"]["accessModes"] == ["ReadWriteOnce"]


@root_only
def test_another_claim_fills_claims_and_a_pointer_in_it_is_named(
    cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    cluster.claim("library", source)
    contents = {
        "model": {"source": "claim:library/model", "files": {}},
        "dataset": {"source": "claim:library/dataset"},
    }
    load(cluster, contents, model_claim="model", dataset_claim="dataset")
    assert sums(source / "model").items() <= sums(tmp_path / "claims/model/Llama-3.1-8B-Instruct").items()
    (source / "model" / "tokenizer.json").write_bytes(LFS_POINTER + b"v1\n")
    with pytest.raises(RunFailed, match=r"n1: /var/lib/mlperf/source/model/tokenizer.json is a Git LFS pointer"):
        load(cluster, contents, model_claim="model", dataset_claim="dataset")


def test_a_piece_that_is_sent_twice_changes_nothing(tmp_path: Path) -> None:
    path, content = tmp_path / "f", b"0123456789"
    for offset in (0, 6, 6):
        assets.receive(path, offset, min(6, 10 - offset), 10, io.BytesIO(content[offset:]))
    assert path.read_bytes() == content
    with pytest.raises(RunFailed, match=r"g.part is gone; send the file from its beginning"):
        assets.receive(tmp_path / "g", 6, 4, 10, io.BytesIO(content[6:]))
    with pytest.raises(RunFailed, match="the sender stopped 1 bytes early"):
        assets.receive(tmp_path / "g", 0, 10, 10, io.BytesIO(content[1:]))
    assert not (tmp_path / "g").exists()


def test_what_may_not_be_made_is_left_to_an_administrator(cluster: Cluster) -> None:
    claims = {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["create", "get"]}
    cluster.user("tenant", [claims])
    lines: list[str] = []
    wanted = parse_storage({"storage_class": "fast"})
    set_up(launcher(cluster, "tenant"), NODES, wanted, lines.append)
    assert "not permitted to apply Namespace mlperf, ServiceAccount mlperf-runner" in lines[-1]
    assert len(cluster.all(CLAIM)) == 6
    set_up(launcher(cluster), NODES, wanted, lines.append)
    assert "PersistentVolumeClaim model-n2: exists already, and stays as it is" in lines
    assert cluster.find(NAMESPACE, "mlperf", "")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]  # type: ignore[index]
    assert {one["metadata"]["name"] for one in cluster.all(SERVICE_ACCOUNT, "mlperf")} >= {"mlperf-runner"}
    rules = [*cluster.all(ROLE)[0]["rules"], *cluster.all(CLUSTER_ROLE)[0]["rules"]]
    needed = [right for right in RIGHTS if right.needed != "collecting"]
    assert [tuple(rule["verbs"]) for rule in rules] == [right.verbs for right in needed]


def setup(*words: str) -> tuple[list[Object], str]:
    """What `harness manifests setup` prints: the objects, and the commands that follow."""
    nodes = [word for node in NODES for word in ("--node", node)]
    result = CliRunner().invoke(cli, ["manifests", "setup", *nodes, "--image", IMAGE, *words])
    if result.exception:
        raise result.exception
    return list(yaml.safe_load_all(result.stdout)), result.stderr


def test_the_same_as_yaml_for_kubectl(source: Path) -> None:
    address = "https://models.example.org/llama"
    objects, _ = setup("--model", address, "--token-secret", "mine", "--storage-class", "fast")
    validate(objects)
    kinds = [one["kind"] for one in objects]
    assert kinds[0] == "Namespace" and kinds.count("PersistentVolumeClaim") == 6 and kinds.count("Job") == 2
    for pod in pod_specs(objects):
        assert breaches(pod, "restricted") == ""
        (container,) = pod["containers"]
        assert container["args"][1:] == ["--config", "/etc/mlperf/fetch.json", "--token", "/etc/mlperf-secrets/token"]
        assert {"name": "model", "mountPath": "/var/lib/mlperf/model"} in container["volumeMounts"]
    (order, *_) = [json.loads(one["data"]["fetch.json"]) for one in objects if one["kind"] == "ConfigMap"]
    assert order["assets"][0]["source"] == address and len(order["assets"][0]["files"]) == 10
    assert order["dataset"] is None

    objects, commands = setup("--dataset", str(source / "dataset"))
    jobs = [one["metadata"]["name"] for one in objects if one["kind"] == "Job"]
    assert commands.splitlines() == [
        f"tar -C {source}/dataset -chf - cnn_eval.json | kubectl -n mlperf exec -i job/{job} -- "
        "tar -C /var/lib/mlperf/dataset -xf -"
        for job in jobs
    ]
    (file,) = json.loads(objects[-2]["data"]["fetch.json"])["assets"][0]["files"].values()
    assert file["sha256"] == sums(source / "dataset")["cnn_eval.json"]


def test_sources_that_cannot_work_are_refused(source: Path) -> None:
    def refusal(**values: Object) -> str:
        with pytest.raises(BadInput) as caught:
            loaders(parse_cluster({"image": IMAGE}), NODES, parse_storage(values), MODEL, DATASET)
        return str(caught.value)

    assert "no sha256 is given for cnn_eval.json of the dataset" in refusal(dataset={"source": "https://a.example"})
    assert "no files are given for the model" in refusal(model={"source": "https://a.example", "files": {}})
    assert "has no file config.json" in refusal(model={"source": str(source / "dataset")})
    assert "does not exist" in refusal(model={"source": "/nowhere", "files": {}})
    assert "would be filled from itself" in refusal(dataset={"source": "claim:model-n2/x"})
    assert "different claims (a, b)" in refusal(model={"source": "claim:a"}, dataset={"source": "claim:b"})
    assert "source" in refusal(model={"source": "folder"})
    (source / "model" / "config.json").write_bytes(LFS_POINTER)
    assert "config.json is a Git LFS pointer" in refusal(model={"source": str(source / "model"), "files": {}})


@pytest.mark.parametrize("image", ["registry.example.org/mlperf-node@sha256:…", "node@sha256:abc", "node@"])
def test_the_placeholder_of_an_image_is_refused_with_what_to_do(image: str) -> None:
    with pytest.raises(BadInput, match="is a placeholder: build and push the node image"):
        parse_cluster({"image": image})


def play(playbook: str, inventory: str, **variables: Any) -> str:
    """The output of a playbook on one of the inventories, with the widest verbosity, on one line."""
    command = [Path(sys.executable).with_name("ansible-playbook"), "-vvvv", "-i", f"inventory/{inventory}"]
    result = subprocess.run(
        [*command, f"playbooks/{playbook}", "-e", json.dumps(variables)],
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize(
    ("inventory", "reason"),
    [("hosts", "assets_punkt_source are empty"), ("cluster", "playbooks/cluster_storage.yml fills their claims")],
)
def test_playbook_assets_says_why_it_does_nothing(inventory: str, reason: str) -> None:
    output = play("assets.yml", inventory)
    assert re.search(f"nothing is installed: [^']*{reason}", output), output


def test_playbook_assets_fills_a_host_without_kubernetes_as_the_login_user(source: Path, tmp_path: Path) -> None:
    places = {
        "harness_model": f"{tmp_path}/m",
        "harness_dataset": f"{tmp_path}/d/cnn_eval.json",
        "harness_root": str(tmp_path),
    }
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    wanted = {"assets_model_source": f"{source}/model", "assets_model_files": sums(source / "model")}
    output = play("assets.yml", "hosts", **places, **here, **wanted)
    assert "failed=0" in output and sums(source / "model").items() <= sums(tmp_path / "m").items(), output
    assert (tmp_path / "m").stat().st_uid == os.getuid()


@root_only
def test_playbook_cluster_storage(cluster: Cluster, store: Store, source: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "token").write_text(TOKEN)
    variables: Object = {
        "harness_kubeconfig": str(cluster.kubeconfig()),
        "harness_storage": {"storage_class": "fast"},
        "assets_dataset_source": str(source / "dataset"),
        "assets_token_file": str(tmp_path / "token"),
    }
    assert "is a placeholder: build and push the node image" in play("cluster_storage.yml", "cluster", **variables)
    variables |= {"harness_image": IMAGE, "harness_cluster": {"dataset_claim": "dataset"}}
    for node in ("gpu-1", "gpu-2"):
        cluster.node(node)
    output = play("cluster_storage.yml", "cluster", **variables)
    assert "1 files brought into claims" in output, output
    assert "gpu-1 waiting for 1 more of 1 files" in output
    assert (tmp_path / "claims/dataset/cnn_eval.json").read_bytes() == (source / "dataset/cnn_eval.json").read_bytes()
    wanted = {"assets_model_source": store.url, "assets_model_files": {"a.bin": "0" * 64}, "assets_dataset_source": ""}
    output = play("cluster_storage.yml", "cluster", **(variables | wanted))
    assert "weights/a.bin: has the sha256" in output, output
    assert {request.get("Authorization") for request in store.requests} == {f"Bearer {TOKEN}"}
    assert TOKEN not in output
