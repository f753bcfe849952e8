"""harness cluster: what `harness` does on a host, done on a cluster; and harness pack, which serves it in a pod."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import PATH, json_option, read_values, show
from harness.errors import BadInput, NotReady
from harness.spec import parse_spec

if TYPE_CHECKING:
    from harness.cluster.launch import Launcher

CALIBRATION = ".calibration"
_FAILED_CHECK = 3
root_ignored = click.option("--root", hidden=True, help="Given by callers that know hosts only; pods have their own.")


@dataclass(frozen=True, slots=True)
class _Place:
    """What the group's options say."""

    launcher_name: str
    kubeconfig: Path | None
    context: str | None
    settings: str
    run_id: str
    node: str
    named: str

    @property
    def host(self) -> str:
        """The node as the caller knows it."""
        return self.named or self.node

    def launcher(self, patience_s: float = 20.0) -> "Launcher":
        try:
            from harness.cluster.api import Api
            from harness.cluster.launch import Launcher
            from harness.cluster.settings import parse_cluster
        except ModuleNotFoundError as missing:
            advice = f"{sys.executable} -m pip install -r requirements/controller.txt"
            raise NotReady(
                f"{missing.name} is not installed here, without which no cluster is reached; {advice}"
            ) from None

        inline = self.settings.lstrip().startswith("{")
        try:
            values = json.loads(self.settings) if inline else read_values(self.settings, "cluster settings")
        except ValueError as error:
            raise BadInput(f"--settings is not JSON: {error}") from None
        cluster = parse_cluster(values)
        if self.launcher_name == "torchx":
            from harness.cluster.volcano import TorchxApi

            queued = TorchxApi(
                cluster.namespace, self.kubeconfig, self.context, patience_s=patience_s, queue=cluster.queue
            )
            return Launcher(queued, cluster)
        return Launcher(Api(cluster.namespace, self.kubeconfig, self.context, patience_s=patience_s), cluster)


@click.group()
@click.option(
    "--launcher",
    "launcher_name",
    type=click.Choice(["kubernetes", "torchx"]),
    default="kubernetes",
    show_default=True,
    help="Jobs of Kubernetes, or jobs of Volcano made through TorchX.",
)
@click.option("--kubeconfig", type=PATH, envvar="KUBECONFIG", help="Credentials.  [default: the usual places]")
@click.option("--context", help="One of its contexts.  [default: its current one]")
@click.option("--settings", required=True, help="Image, namespace, claims and the like, as JSON or a file of it.")
@click.option("--run-id", default="", help="The run that engines belong to.")
@click.option("--node", default="", help="The node, as the cluster names it.")
@click.option("--host", "named", default="", help="The node, as specs name it.  [default: as the cluster does]")
@click.pass_context
def cluster(caller: click.Context, /, **options: Any) -> None:
    """The same commands on a cluster: engines and runs as Jobs, watched and collected through its API."""
    caller.obj = _Place(**options)


@cluster.group()
def engine() -> None:
    """Start and stop the Jobs of engines."""


@engine.command()
@root_ignored
@click.option("--config", default="-", show_default=True, help="EngineConfig as JSON.")
@click.option("--no-wait", is_flag=True, hidden=True)
@click.option("--check", is_flag=True, help="Make nothing; have the API server judge it, and say whether it is new.")
@json_option
@click.pass_obj
def up(place: _Place, root: str | None, config: str, no_wait: bool, check: bool, as_json: bool) -> None:
    """Have an engine's Job on the node; nothing changes if it is there."""
    from harness.engine import parse_config

    asked = parse_config(read_values(config, "engine config"))
    state = place.launcher().engine_up(place.run_id, place.node, asked, dry_run=check)
    if check:
        show({"would_change": state.changed}, as_json, "would start" if state.changed else "is up already")
        return
    show({**state.document(), "changed": state.changed}, as_json, f"{state.name}  {state.state}  {state.url}")


@engine.command()
@root_ignored
@click.argument("name")
@click.option("--check", is_flag=True, help="Delete nothing; say whether there is one.")
@json_option
@click.pass_obj
def down(place: _Place, root: str | None, name: str, check: bool, as_json: bool) -> None:
    """Delete an engine's Job, and wait for the end of its pod; nothing changes if there is none."""
    changed = place.launcher().engine_down(place.run_id, name, dry_run=check)
    show({"name": name, "state": "stopped", "changed": changed}, as_json, f"{name}  stopped")


@cluster.command()
@root_ignored
@click.option("--spec", "source", default="-", show_default=True, help="Spec as JSON.")
@click.option("--check", is_flag=True, help="Make nothing; have the API server judge it, and say what would change.")
@json_option
@click.pass_obj
def start(place: _Place, root: str | None, source: str, check: bool, as_json: bool) -> None:
    """Have a run's Job on the node; nothing changes if it is there, or if its directory is."""
    spec = parse_spec(read_values(source, "spec"))
    launcher = place.launcher()
    if check:
        different = launcher.compare(spec)
        would = not different and launcher.start(spec, place.node, dry_run=True)
        shown = {"would_change": would, "diff": different or {}, "state": launcher.state(spec.run_id, spec.node)}
        show(shown, as_json, "would start" if would else "exists already")
        return
    changed = launcher.start(spec, place.node)
    state = "running" if changed else launcher.state(spec.run_id, spec.node)
    said = {"changed": changed, "run_id": spec.run_id, "state": state, "warnings": []}
    show(said, as_json, f"{spec.run_id}  {'started' if changed else 'is there already'}")


@cluster.command()
@root_ignored
@click.argument("run_id")
@click.option("--check", is_flag=True, help="Delete nothing; say whether there is one.")
@json_option
@click.pass_obj
def stop(place: _Place, root: str | None, run_id: str, check: bool, as_json: bool) -> None:
    """End a run by deleting its Job; its files stay on its claim."""
    launcher = place.launcher()
    changed = launcher.stop(run_id, place.host, dry_run=check)
    state = "stopped" if changed and not check else launcher.state(run_id, place.host)
    show({"changed": changed, "state": state}, as_json, f"run {run_id}: {state}")


@cluster.command()
@root_ignored
@json_option
@click.pass_obj
def status(place: _Place, root: str | None, as_json: bool) -> None:
    """Show the runs that have a Job (on the node, if one is given), and how many GPUs the node offers."""
    from harness.cluster.doctor import gpus

    launcher = place.launcher()
    found = launcher.runs(place.node or None)
    offers = gpus(launcher.api, launcher.cluster, place.node) if place.node else None
    lines = "\n".join(f"{one['run_id']}  {one['state']}" for one in found)
    show({"runs": found, "gpus": offers}, as_json, lines or f"no runs in namespace {launcher.api.namespace}")


@cluster.command()
@click.argument("kind", type=click.Choice(["engine", "run"]))
@click.argument("names", nargs=-1, required=True)
@click.option("--interval", type=float, default=10.0, show_default=True, help="Seconds between two looks.")
@click.pass_obj
def watch(place: _Place, kind: Any, names: tuple[str, ...], interval: float) -> None:
    """Print a look as a line of JSON every few seconds, and at once when a pod changes, until all have ended.

    NAMES are engines of the run, or hosts of its LoadGens.
    """
    from harness.cluster.watch import looks

    launcher = place.launcher(patience_s=2.0)
    for look in looks(launcher.api, kind, place.run_id, names, place.node, interval):
        click.echo(json.dumps(look))
        sys.stdout.flush()


@cluster.command()
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER=TARGET...")
@click.option("--into", type=PATH, required=True, help="Where it goes on this machine.")
@json_option
@click.pass_obj
def collect(place: _Place, sources: tuple[str, ...], into: Path, as_json: bool) -> None:
    """Bring the files below folders of the node's claim, as pods see them, through the API, checked by sha256."""
    from harness.cluster.collect import collect as collected

    launcher = place.launcher()
    owner = launcher.owner(place.run_id)
    pairs = {str(source): target for source, target in _pairs(sources).items()}
    names, fetched = collected(launcher.api, launcher.cluster, owner, place.run_id, place.node, pairs, into)
    show({"files": names, "fetched": fetched}, as_json, f"{len(names)} files, {len(fetched)} of them new")


@cluster.command()
@root_ignored
@click.option("--check", is_flag=True, help="Change nothing; say whether there is anything to release.")
@json_option
@click.pass_obj
def release(place: _Place, root: str | None, check: bool, as_json: bool) -> None:
    """Let the cluster remove a collected run's Jobs after a while; what is left of long collected ones goes now."""
    changed = place.launcher().release([place.run_id, f"{place.run_id}{CALIBRATION}"], dry_run=check)
    show({"changed": changed}, as_json, "released" if changed else "was released already")


@cluster.command()
@root_ignored
@click.option("--for", "source", default="-", show_default=True, help="What is to be started, as for `harness doctor`.")
@json_option
@click.pass_obj
def doctor(place: _Place, root: str | None, source: str, as_json: bool) -> int:
    """Check API, rights, node, claims and the objects that are to be made; changes nothing."""
    from harness.cluster import doctor as doctors
    from harness.engine import parse_config

    planned = read_values(source, "what is to be started")
    configs = [parse_config(config) for config in planned.get("engines") or ()]
    spec = parse_spec(planned["spec"]) if planned.get("spec") else None
    found = doctors.check(place.launcher(), place.run_id, place.node, configs, spec)
    show({"findings": found}, as_json, doctors.table(found))
    return _FAILED_CHECK if any(one["level"] == "fail" for one in found) else 0


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER=TARGET...")
def pack(sources: tuple[str, ...]) -> None:
    """Print the files below folders as one gzipped tar with their hashes, for collecting them from a container."""
    from harness.cluster.pack import pack as packed

    packed(_pairs(sources), sys.stdout.buffer)


def _pairs(sources: tuple[str, ...]) -> dict[Path, str]:
    wrong = [source for source in sources if not source.partition("=")[0]]
    if wrong:
        raise BadInput(f"{wrong[0]!r}: give FOLDER=TARGET, where TARGET may be empty")
    return {Path(folder): target for folder, _, target in (source.partition("=") for source in sources)}
