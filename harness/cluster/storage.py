"""Claims for runs, weights and data, and Jobs that fill them: from an address, a folder here, or another claim.

A Job calls `harness fetch` in its pod, which brings what is missing, verifies each file and shows how far it is. Files
of a folder here are sent into the waiting pod. The same command looks into the claims before engines start.
"""

import io
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from harness import assets
from harness.cluster import objects
from harness.cluster.api import Object
from harness.cluster.api_errors import Forbidden
from harness.cluster.diagnosis import Kind
from harness.cluster.launch import Launcher
from harness.cluster.pod_exec import execute
from harness.cluster.rbac import access_objects
from harness.cluster.settings import DATASET, MODEL, SOURCE, Cluster, Name, Quantity, job_name
from harness.cluster.watch import snapshots
from harness.errors import BadInput, NotReady, RunFailed
from harness.spec import validated

RUN_ID = "storage"
TOKEN_SECRET = "mlperf-token"  # noqa: S105 (its name)
INTERVAL_S = 2.0
AWAY_S = 300.0
# Hashing the weights may take this long on a slow volume.
SILENT_S = 1800.0
CONTENTS = ("model", "dataset")
"""What claims are filled with."""
_CLAIM = "claim:"
_PARALLEL = 16
_ATTEMPTS = 5
_ANSWER_BYTES = 1 << 20
_PIECE_BYTES, _FRAME_BYTES = 256 << 20, 1 << 20
Say = Callable[[str], None]


class Contents(BaseModel):
    """What a claim is filled with.

    Attributes:
        source: the address of a folder, an absolute path of a folder on this machine, claim:NAME/FOLDER, or empty.
        files: SHA-256 by name. A file without one, and with none given every file of the folder, keeps what the source
            has; files of an address need theirs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Field(pattern=r"^(|/.*|https?://.+|claim:[^/]+(/.*)?)$")] = ""
    files: dict[str, Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]] = {}


class Storage(BaseModel):
    """The claims of a benchmark and their contents.

    Attributes:
        storage_class: of the claims; empty for the cluster's default.
        sizes: of the claims by content; one claim for several contents gets the sum.
        operator: service account that starts benchmarks.
        token_secret: a Secret with the token of addresses as its key `token`; empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage_class: str = ""
    sizes: dict[str, Quantity] = {"runs": "50Gi", "model": "30Gi", "dataset": "1Gi"}
    operator: Name = "mlperf-operator"
    token_secret: str = ""
    model: Contents = Contents(files=assets.published_files())
    dataset: Contents = Contents(files={"cnn_eval.json": ""})


def parse_storage(values: Any) -> Storage:
    """Validate plain values; contents without `files` have the benchmark's.

    Raises:
        BadInput: every wrong key in one message.
    """
    defaults = Storage()
    merged = {name: {**getattr(defaults, name).model_dump(), **values.get(name, {})} for name in CONTENTS}
    sizes = {**defaults.sizes, **values.get("sizes", {})}
    return validated(Storage, {**values, **merged, "sizes": sizes}, "storage")


@dataclass(frozen=True, slots=True)
class Loader:
    """A Job on a node that fills its claims; `sent` are files of this machine by their paths in the pod."""

    node: str
    bodies: list[Object]
    sent: dict[str, Path]


def claim_objects(cluster: Cluster, nodes: Sequence[str], storage: Storage) -> list[Object]:
    """The claims of all nodes; one that several nodes use can be mounted by all of them at once."""
    used: dict[str, tuple[set[str], set[str]]] = {}
    for node in nodes:
        for content, name in cluster.claims(node).items():
            contents, its_nodes = used.setdefault(name, (set(), set()))
            contents.add(content)
            its_nodes.add(node)
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": cluster.namespace, "labels": objects.PART_OF},
            "spec": {
                "accessModes": ["ReadWriteMany" if len(its_nodes) > 1 else "ReadWriteOnce"],
                "resources": {"requests": {"storage": _sum([storage.sizes[content] for content in sorted(contents)])}},
                **({"storageClassName": storage.storage_class} if storage.storage_class else {}),
            },
        }
        for name, (contents, its_nodes) in used.items()
    ]


def _sum(sizes: Sequence[str]) -> str:
    from kubernetes.utils.quantity import parse_quantity

    return sizes[0] if len(sizes) == 1 else str(int(sum(map(parse_quantity, sizes))))


def loaders(cluster: Cluster, nodes: Sequence[str], storage: Storage, model: str, dataset: str) -> list[Loader]:
    """Loaders that fill each claim once; none where no source is given.

    Args:
        cluster: namespace, claims and so on.
        nodes: names in the cluster.
        storage: where the contents come from.
        model, dataset: their paths as pods see them, a folder and a file.

    Raises:
        BadInput: a source lacks a file, or a checksum that it needs.
    """
    targets = {"model": Path(model), "dataset": Path(dataset).parent}
    wanted: dict[str, Contents] = {name: getattr(storage, name) for name in CONTENTS if getattr(storage, name).source}
    if not wanted:
        return []
    for name, root in (("model", MODEL), ("dataset", DATASET)):
        if not targets[name].is_relative_to(root):
            raise BadInput(f"harness_{name}: {targets[name]} is not below {root}, where pods see its claim; correct it")
    claims = {
        content.source.removeprefix(_CLAIM).partition("/")[0] for content in wanted.values() if _is_claim(content)
    }
    if len(claims) > 1:
        raise BadInput(f"model and data set come from different claims ({', '.join(sorted(claims))}); fill one first")
    brought = {name: _asset(name, targets[name], content) for name, content in wanted.items()}
    result, filled = [], set[str]()
    for node in nodes:
        names = cluster.claims(node)
        if source := claims & set(names.values()):
            raise BadInput(f"claim {source.pop()} would be filled from itself; name another source")
        here = {name: asset for name, asset in brought.items() if names[name] not in filled}
        filled |= {names[name] for name in here}
        if here:
            looked_at = {
                name: path for name, path in (("model", Path(model)), ("dataset", Path(dataset))) if name in here
            }
            order = assets.Order(run_id=RUN_ID, assets=tuple(here.values()), **looked_at)
            options = {"token": storage.token_secret, "source_claim": next(iter(claims), "")}
            bodies = objects.fetch_objects(cluster, node, order, "loader", **options)
            sent = {
                str(targets[name] / file): Path(wanted[name].source, file)
                for name, asset in here.items()
                if asset.source == assets.SENT
                for file in asset.files
            }
            result.append(Loader(node, bodies, sent))
    return result


def _is_claim(content: Contents) -> bool:
    return content.source.startswith(_CLAIM)


def _asset(name: str, target: Path, content: Contents) -> assets.Asset:
    if content.source.startswith("/"):
        return assets.Asset(
            path=target, source=assets.SENT, files=assets.described(Path(content.source), content.files)
        )
    source = content.source
    if _is_claim(content):
        source = str(Path(SOURCE, source.removeprefix(_CLAIM).partition("/")[2]))
    elif without := [file for file, sha256 in content.files.items() if not sha256]:
        raise BadInput(
            f"no sha256 is given for {', '.join(without)} of the {name} from {source}; give it, as `sha256sum FILE` "
            "prints it on a copy that you trust"
        )
    elif not content.files:
        raise BadInput(f"no files are given for the {name} from {source}; list them with their sha256")
    files = {file: assets.File(sha256=sha256) for file, sha256 in content.files.items()}
    return assets.Asset(path=target, source=source, files=files)


def setup_objects(cluster: Cluster, nodes: Sequence[str], storage: Storage) -> list[Object]:
    """Namespace, rights and claims."""
    access = access_objects(
        cluster.namespace, cluster.service_account, storage.operator, collecting=cluster.collect_over_api
    )
    return [*access, *claim_objects(cluster, nodes, storage)]


def set_up(launcher: Launcher, nodes: Sequence[str], storage: Storage, say: Say) -> bool:
    """Make namespace, rights and claims; whether a claim is new.

    What may not be made is said, since an administrator may have made it.

    Raises:
        HarnessError: a claim cannot be made.
    """
    api, refused, changed = launcher.api, [], False
    for body in setup_objects(launcher.cluster, nodes, storage):
        title = f"{body['kind']} {body['metadata']['name']}"
        if body["kind"] == "PersistentVolumeClaim":
            is_new, _ = api.create(body)
            changed |= is_new
            say(f"{title}: {'created' if is_new else 'exists already, and stays as it is'}")
            continue
        try:
            api.apply(body)
            say(f"{title}: applied")
        except Forbidden:
            refused.append(title)
    if refused:
        say(
            f"not permitted to apply {', '.join(refused)}: where they do not exist yet, an administrator applies what "
            "`harness manifests setup` prints"
        )
    return changed


def fill(connect: Callable[[], Launcher], jobs: Sequence[Loader], say: Say) -> int:
    """Run loaders to their end, some at once, with their progress as lines; how many files they brought.

    Each has a launcher of its own, from `connect`.

    Raises:
        RunFailed: one has failed; each reason in one message.
    """

    def load(job: Loader) -> tuple[int, str]:
        launcher = connect()
        last = ""

        def show(record: Object) -> None:
            nonlocal last
            if record.get("phase") not in ("", last):
                last = str(record["phase"])
                say(f"{job.node}  {last}")

        sender = _Sender(launcher, job, say)
        try:
            record = run_job(launcher, "loader", RUN_ID, job.node, job.bodies, [show, sender])
        except (NotReady, RunFailed, BadInput) as error:
            return 0, f"{job.node}: {error}"
        for finding in record.get("findings") or ():
            say(f"{job.node}  {finding['level']}: {'; '.join(filter(None, [finding['seen'], finding['advice']]))}")
        problem = "" if record["state"] == "finished" else f"{job.node}: {said(record)}"
        return record.get("brought", 0), problem

    with ThreadPoolExecutor(_PARALLEL) as pool:
        results = list(pool.map(load, jobs))
    if problems := [problem for _, problem in results if problem]:
        raise RunFailed("; ".join(problems))
    return sum(brought for brought, _ in results)


def copy_commands(cluster: Cluster, job: Loader) -> list[str]:
    """Commands of a shell that copy the files of this machine that a loader waits for, one for each folder."""
    files: dict[tuple[Path, Path], list[str]] = {}
    for target, source in job.sent.items():
        files.setdefault((source.parent, Path(target).parent), []).append(source.name)
    pod = f"kubectl -n {cluster.namespace} exec -i job/{job.bodies[-1]['metadata']['name']} --"
    return [
        f"tar -C {shlex.quote(str(source))} -chf - {shlex.join(names)} | {pod} tar -C {shlex.quote(str(target))} -xf -"
        for (source, target), names in files.items()
    ]


def look(launcher: Launcher, run_id: str, node: str, model: Path, dataset: Path | None) -> Object:
    """The last record of a Job that looks into a node's claims, with `findings` as `harness doctor` has them."""
    folders = [model, dataset.parent] if dataset else [model]
    verified = tuple(assets.Asset(path=folder) for folder in folders)
    order = assets.Order(run_id=run_id, model=model, dataset=dataset, assets=verified)
    return run_job(launcher, "look", run_id, node, objects.fetch_objects(launcher.cluster, node, order, "look"))


def said(record: Object) -> str:
    """The reason of a record that has failed, as the command in the pod said it."""
    return str(record["reason"]).removeprefix("harness: ")


def run_job(
    launcher: Launcher,
    kind: Kind,
    run_id: str,
    node: str,
    bodies: Sequence[Object],
    observers: Sequence[Callable[[Object], None]] = (),
) -> Object:
    """Create a fetching Job in place of an earlier one, follow it to its end, delete it; its last record.

    Raises:
        NotReady: the API server has not answered for AWAY_S, or the Job has said nothing new for SILENT_S.
    """
    api, name = launcher.api, job_name(kind, run_id, node)
    launcher.remove(name)
    try:
        for body in bodies:
            api.create(body)
        answered, record = time.monotonic(), {}
        for snapshot in snapshots(api, kind, run_id, [node], node, INTERVAL_S):
            if snapshot["records"]:
                answered, record = time.monotonic(), snapshot["records"][0]
                if record.get("silent_s", 0.0) > SILENT_S:
                    raise NotReady(record["reason"])
                for observe in observers:
                    observe(record)
            elif time.monotonic() - answered > AWAY_S:
                raise NotReady(snapshot["away"])
        return record
    finally:
        launcher.remove(name)


class _Sender:
    """Sends the files of this machine that a loader's pod waits for."""

    def __init__(self, launcher: Launcher, job: Loader, say: Say) -> None:
        self._api, self._job, self._say = launcher.api, job, say
        self._done: set[str] = set()
        self._failures = 0

    def __call__(self, record: Object) -> None:
        for path, have in (record.get("missing") or {}).items():
            if path in self._done or path not in self._job.sent:
                continue
            try:
                self._send(self._job.sent[path], path, have)
            except (NotReady, RunFailed):
                # The pod ends as soon as it has its last file, and what runs in it with it: the next record tells.
                self._failures += 1
                if self._failures == _ATTEMPTS:
                    raise
                return
            self._done.add(path)
            self._failures = 0

    def _send(self, source: Path, target: str, offset: int) -> None:
        """Send a file from `offset` on, in pieces."""
        whole = source.stat().st_size
        offset = offset if offset < whole else 0
        while True:
            length = min(_PIECE_BYTES, whole - offset)
            words = ["harness", "receive", target, str(offset), str(length), str(whole)]
            data = _frames(source, offset, length)
            execute(self._api, self._pod(), words, io.BytesIO(), most_bytes=_ANSWER_BYTES, data=data)
            offset += length
            self._say(f"{self._job.node}  {source.name}: sent {assets.extent(offset, whole)}")
            if offset >= whole:
                return

    def _pod(self) -> str:
        pods = self._api.list_objects("Pod", f"{objects.NAME}={job_name('loader', RUN_ID, self._job.node)}")
        running = [pod["metadata"]["name"] for pod in pods if pod.get("status", {}).get("phase") == "Running"]
        if not running:
            raise NotReady(f"the loader's pod on {self._job.node} is no longer running; start again")
        return str(running[0])


def _frames(source: Path, offset: int, length: int) -> Iterator[bytes]:
    with source.open("rb") as stream:
        stream.seek(offset)
        while length and (data := stream.read(min(_FRAME_BYTES, length))):
            length -= len(data)
            yield data
