"""harness cluster: the same commands as on a host, for a cluster; and harness pack, which runs in a pod."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import PATH, json_option, read_values, resume_option, say, show
from harness.errors import BadInput, HarnessError, NotReady
from harness.spec import parse_spec
from harness.state_file import CALIBRATION_SUFFIX

if TYPE_CHECKING:
    from harness.cluster.launch import Launcher

_FAILED_CHECK = 3
root_ignored = click.option("--root", hidden=True, help="Ignored: pods have a root folder of their own.")


@dataclass(frozen=True, slots=True)
class _ClusterOptions:
    """The options of `harness cluster`."""

    launcher_name: str
    kubeconfig: Path | None
    context: str | None
    settings: str
    run_id: str
    node: str
    host_option: str

    @property
    def host(self) -> str:
        """The node's name in specs."""
        return self.host_option or self.node

    def launcher(self, retry_s: float = 20.0) -> "Launcher":
        try:
            from harness.cluster.api import Api
            from harness.cluster.launch import Launcher
            from harness.cluster.settings import parse_cluster
        except ModuleNotFoundError as missing:
            advice = f"{sys.executable} -m pip install -r requirements/controller.txt"
            raise NotReady(f"{missing.name}, which access to a cluster needs, is not installed; {advice}") from None

        inline = self.settings.lstrip().startswith("{")
        try:
            values = json.loads(self.settings) if inline else read_values(self.settings, "cluster settings")
        except ValueError as error:
            raise BadInput(f"--settings is not JSON: {error}") from None
        cluster = parse_cluster(values)
        if self.launcher_name == "torchx":
            from harness.cluster.torchx_api import TorchxApi

            api: Api = TorchxApi(cluster.namespace, self.kubeconfig, self.context, retry_s=retry_s, queue=cluster.queue)
        else:
            api = Api(cluster.namespace, self.kubeconfig, self.context, retry_s=retry_s)
        return Launcher(api, cluster)


@click.group()
@click.option(
    "--launcher",
    "launcher_name",
    type=click.Choice(["kubernetes", "torchx"]),
    default="kubernetes",
    show_default=True,
    help="Jobs of Kubernetes, or jobs of Volcano created by TorchX.",
)
@click.option("--kubeconfig", type=PATH, envvar="KUBECONFIG", help="Credentials.  [default: as kubectl]")
@click.option("--context", help="A context of the kubeconfig.  [default: its current one]")
@click.option("--settings", required=True, help="Image, namespace, claims and so on: JSON, or a file with it.")
@click.option("--run-id", default="", help="The run that engines belong to.")
@click.option("--node", default="", help="The node's name in the cluster.")
@click.option("--host", "host_option", default="", help="The node's name in specs.  [default: that in the cluster]")
@click.pass_context
def cluster(context: click.Context, /, **values: Any) -> None:
    """The same commands on a cluster: engines and runs as Jobs, watched and collected through its API."""
    context.obj = _ClusterOptions(**values)


@cluster.group()
def engine() -> None:
    """Create and delete the Jobs of engines."""


@engine.command()
@root_ignored
@click.option("--config", default="-", show_default=True, help="EngineConfig as JSON.")
@click.option("--no-wait", is_flag=True, hidden=True)
@click.option("--check", is_flag=True, help="Create nothing: a dry run that says whether the Job would be new.")
@json_option
@click.pass_obj
def up(options: _ClusterOptions, root: str | None, config: str, no_wait: bool, check: bool, as_json: bool) -> None:
    """Create an engine's Job on the node, unless it exists."""
    from harness.engine import parse_config

    engine_config = parse_config(read_values(config, "engine config"))
    state = options.launcher().engine_up(options.run_id, options.node, engine_config, dry_run=check)
    if check:
        show({"would_change": state.changed}, as_json, "would start" if state.changed else "is up already")
        return
    show({**state.document(), "changed": state.changed}, as_json, f"{state.name}  {state.state}  {state.url}")


@engine.command("up-all")
@root_ignored
@click.option(
    "--engines", "source", default="-", show_default=True, help="JSON: {HOST: {node: NAME, engines: [EngineConfig]}}."
)
@json_option
@click.pass_obj
def up_all(options: _ClusterOptions, root: str | None, source: str, as_json: bool) -> None:
    """Create the Jobs of many hosts' engines, those that do not exist; says of each host why it failed, if it did."""
    from harness.engine import parse_config

    launcher = options.launcher()
    hosts: dict[str, dict[str, Any]] = {}
    for host, wanted in read_values(source, "engines of hosts").items():
        try:
            states = [
                launcher.engine_up(options.run_id, wanted["node"], parse_config(one)) for one in wanted["engines"]
            ]
            hosts[host] = {"changed": any(state.changed for state in states), "error": None}
        except HarnessError as error:
            hosts[host] = {"changed": False, "error": str(error)}
    show({"hosts": hosts}, as_json, "\n".join(f"{host}  {one['error'] or 'up'}" for host, one in hosts.items()))


@engine.command()
@root_ignored
@click.argument("name")
@click.option("--check", is_flag=True, help="Delete nothing; say whether there is one.")
@json_option
@click.pass_obj
def down(options: _ClusterOptions, root: str | None, name: str, check: bool, as_json: bool) -> None:
    """Delete an engine's Job if there is one, and wait for the end of its pod."""
    changed = options.launcher().engine_down(options.run_id, name, dry_run=check)
    show({"name": name, "state": "stopped", "changed": changed}, as_json, f"{name}  stopped")


@cluster.command()
@root_ignored
@click.option("--spec", "source", default="-", show_default=True, help="Spec as JSON.")
@click.option("--check", is_flag=True, help="Create nothing: a dry run that says what would change.")
@resume_option
@json_option
@click.pass_obj
def start(options: _ClusterOptions, root: str | None, source: str, check: bool, resumed: bool, as_json: bool) -> None:
    """Create a run's Job on the node, unless it or the run's directory exists and is not to be resumed."""
    spec = parse_spec(read_values(source, "spec"))
    launcher = options.launcher()
    if check:
        diff = launcher.compare(spec)
        would_change = not diff and launcher.start(spec, options.node, resumed=resumed, dry_run=True)
        result = {"would_change": would_change, "diff": diff or {}, "state": launcher.state(spec.run_id, spec.node)}
        show(result, as_json, "would start" if would_change else "exists already")
        return
    changed = launcher.start(spec, options.node, resumed=resumed)
    state = "running" if changed else launcher.state(spec.run_id, spec.node)
    result = {"changed": changed, "run_id": spec.run_id, "state": state, "warnings": []}
    show(result, as_json, f"{spec.run_id}  {'started' if changed else 'exists already'}")


@cluster.command()
@root_ignored
@click.argument("run_id")
@click.option("--check", is_flag=True, help="Delete nothing; say whether there is one.")
@json_option
@click.pass_obj
def stop(options: _ClusterOptions, root: str | None, run_id: str, check: bool, as_json: bool) -> None:
    """Stop a run by deleting its Job; its files stay on its claim."""
    launcher = options.launcher()
    changed = launcher.stop(run_id, options.host, dry_run=check)
    state = "stopped" if changed and not check else launcher.state(run_id, options.host)
    show({"changed": changed, "state": state}, as_json, f"run {run_id}: {state}")


@cluster.command()
@root_ignored
@click.argument("run_id")
@click.argument("attempt", type=int)
@click.option("--repeat/--accept", required=True, help="Whether every LoadGen of the benchmark makes another attempt.")
@json_option
@click.pass_obj
def decide(options: _ClusterOptions, root: str | None, run_id: str, attempt: int, repeat: bool, as_json: bool) -> None:
    """Tell the host's run, which waits for the others after its ATTEMPT, whether to repeat it."""
    options.launcher().decide(run_id, options.host, attempt, repeat=repeat)
    show({"run_id": run_id}, as_json, "repeats the attempt" if repeat else "continues")


@cluster.command()
@root_ignored
@json_option
@click.pass_obj
def status(options: _ClusterOptions, root: str | None, as_json: bool) -> None:
    """Show the runs with a Job (on all nodes, or the given one) and the allocatable GPUs of the node."""
    from harness.cluster.doctor import gpus

    launcher = options.launcher()
    runs = launcher.runs(options.node or None)
    offered = gpus(launcher.api, launcher.cluster, options.node) if options.node else []
    lines = "\n".join(f"{run['run_id']}  {run['state']}" for run in runs)
    show({"runs": runs, "gpus": offered}, as_json, lines or f"no runs in namespace {launcher.api.namespace}")


@cluster.command()
@click.argument("kind", type=click.Choice(["engine", "run"]))
@click.argument("names", nargs=-1, required=True)
@click.option("--interval", type=float, default=10.0, show_default=True, help="Seconds between two lines.")
@click.pass_obj
def watch(options: _ClusterOptions, kind: Any, names: tuple[str, ...], interval: float) -> None:
    """Print the status as a line of JSON every few seconds, and at once when a pod changes, until all have ended.

    NAMES are engines of the run, or hosts of its LoadGens; one on another node than --node is given as NAME@NODE.
    """
    from harness.cluster.watch import snapshots

    launcher = options.launcher(retry_s=2.0)
    for snapshot in snapshots(launcher.api, kind, options.run_id, names, options.node, interval):
        click.echo(json.dumps(snapshot))
        sys.stdout.flush()


@cluster.command()
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER=TARGET...")
@click.option("--into", type=PATH, required=True, help="Folder on this machine.")
@json_option
@click.pass_obj
def collect(options: _ClusterOptions, sources: tuple[str, ...], into: Path, as_json: bool) -> None:
    """Copy the files below folders inside the node's pods through the API, verified by SHA-256."""
    from harness.cluster.collect import collect as collect_files

    launcher = options.launcher()
    owner = launcher.owner(options.run_id)
    targets = {str(source): target for source, target in _parse_sources(sources).items()}
    names, fetched = collect_files(launcher.api, launcher.cluster, owner, options.run_id, options.node, targets, into)
    show({"files": names, "fetched": fetched}, as_json, f"{len(names)} files, {len(fetched)} of them new")


@cluster.command()
@root_ignored
@click.option("--check", is_flag=True, help="Change nothing; say whether there is anything to release.")
@json_option
@click.pass_obj
def release(options: _ClusterOptions, root: str | None, check: bool, as_json: bool) -> None:
    """Set a TTL on a collected run's finished Jobs, and delete objects of runs collected longer ago."""
    run_ids = [options.run_id, f"{options.run_id}{CALIBRATION_SUFFIX}"]
    changed = options.launcher().release(run_ids, dry_run=check)
    show({"changed": changed}, as_json, "released" if changed else "was released already")


@cluster.command()
@root_ignored
@click.option(
    "--for", "source", default="-", show_default=True, help="The planned engines and run, as for `harness doctor`."
)
@json_option
@click.pass_obj
def doctor(options: _ClusterOptions, root: str | None, source: str, as_json: bool) -> int:
    """Check API, rights, node, claims and the objects to be created; changes nothing."""
    from harness.cluster import doctor as cluster_doctor
    from harness.engine import parse_config

    planned = read_values(source, "the planned engines and run")
    configs = [parse_config(config) for config in planned.get("engines") or ()]
    spec = parse_spec(planned["spec"]) if planned.get("spec") else None
    findings = cluster_doctor.check(options.launcher(), options.run_id, options.node, configs, spec)
    show({"findings": findings}, as_json, cluster_doctor.table(findings))
    return _FAILED_CHECK if any(finding["level"] == "fail" for finding in findings) else 0


@cluster.command()
@root_ignored
@click.option("--for", "source", default="-", show_default=True, help="Nodes, paths, storage and token: JSON.")
@click.option("--check", is_flag=True, help="Make nothing; say which objects there would be.")
@json_option
@click.pass_obj
def storage(options: _ClusterOptions, root: str | None, source: str, check: bool, as_json: bool) -> None:
    """Create namespace, RBAC and claims, and fill the claims with model and data set."""
    from harness.cluster import objects
    from harness.cluster import storage as storages

    given = read_values(source, "storage")
    if missing := [key for key in ("nodes", "model", "dataset") if not (isinstance(given, dict) and given.get(key))]:
        raise BadInput(f"storage has no {missing[0]}; give nodes, model, dataset, storage and token")
    token = given.get("token")
    values = given.get("storage", {}) | ({"token_secret": storages.TOKEN_SECRET} if token else {})
    wanted = storages.parse_storage(values)
    launcher = options.launcher()
    cluster, nodes = launcher.cluster, given["nodes"]
    jobs = storages.loaders(cluster, nodes, wanted, given["model"], given["dataset"])
    names = [f"{body['kind']} {body['metadata']['name']}" for body in storages.setup_objects(cluster, nodes, wanted)]
    if check:
        loading = [f"Job {job.bodies[-1]['metadata']['name']}" for job in jobs]
        text = "\n".join(f"would apply {name}" for name in names + loading)
        show({"changed": True, "objects": names + loading, "msg": text}, as_json, text)
        return
    is_new = storages.set_up(launcher, nodes, wanted, say)
    try:
        if token:
            launcher.api.delete("Secret", storages.TOKEN_SECRET)
            launcher.api.create(objects.token_secret(cluster, storages.TOKEN_SECRET, token))
        brought = storages.fill(options.launcher, jobs, say)
    finally:
        if token:
            launcher.api.delete("Secret", storages.TOKEN_SECRET)
    text = f"{brought} files brought into claims" if jobs else "no source is given, so nothing was put into the claims"
    show({"changed": is_new or brought > 0, "objects": names, "brought": brought, "msg": text}, as_json, text)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER=TARGET...")
def pack(sources: tuple[str, ...]) -> None:
    """Print the files below folders as one gzipped tar with their hashes, for collecting them from a container."""
    from harness.cluster.archive import pack as pack_files

    pack_files(_parse_sources(sources), sys.stdout.buffer)


def _parse_sources(sources: tuple[str, ...]) -> dict[Path, str]:
    targets = {}
    for source in sources:
        folder, _, target = source.partition("=")
        if not folder:
            raise BadInput(f"{source!r}: give FOLDER=TARGET, where TARGET may be empty")
        targets[Path(folder)] = target
    return targets
