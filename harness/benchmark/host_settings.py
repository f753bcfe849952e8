"""A host's settings: those of its engines, how runs refer to them, and what all its runs have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.benchmark import engines, failures
from harness.benchmark.failures import Failure
from harness.benchmark.gpu_settings import Gpu
from harness.benchmark.public_settings import Launcher, Topology
from harness.benchmark.request import Request
from harness.cluster.settings import ANY_ADDRESS, Cluster, parse_cluster
from harness.errors import BadInput
from harness.files import sha256_json
from harness.spec import EngineRef, OnEngineLoss

Values = Mapping[str, Any]
"""What the inventory says of a host and what is known of it: the options of the action plugin mlperf_settings."""


def of_host(request: Request, host: str, values: Values) -> dict[str, Any]:
    """Settings of the engines, references to them, the common spec of the host's runs, and the state of its run.

    `lost` says that the host is unreachable, and `failures` is then its first entry of failures.json. `key_files` names
    the file with the API key of each engine that has one; empty on a cluster.

    Raises:
        BadInput: a value is wrong.
    """
    runs = values["runs"]
    gpus, state = runs.get("gpus") or [], runs.get("state", "lost")
    on_cluster = request.asked.launcher is not Launcher.PROCESS
    cluster = parse_cluster(values["cluster"]) if on_cluster else None
    # In a cluster a single engine stands for as many as the node's GPUs are enough for.
    described = engines.describe(
        values["engines"], values["engine_settings"], host=host, gpus=[] if on_cluster else gpus
    )
    # Where a run has no other engine to go on with, a new server would come too late.
    others = request.topology is Topology.FLEET or len(described) > 1
    goes_on = others and request.asked.on_engine_loss is OnEngineLoss.CONTINUE
    common = {"restarts": values["engine_restarts"] if goes_on else 0, **values["engine_settings"]}
    if cluster:
        configs, references = _on_cluster(request, host, values, cluster, described, common, gpus)
    else:
        configs, references = _on_host(request, host, values, described, common, gpus)
    unreachable = _unreachable(host, values["reply"])
    return {
        "host": host,
        "engines": configs,
        "key_files": {} if cluster else engines.key_files(configs, values["root"]),
        "references": [reference.model_dump(mode="json") for reference in references],
        "state": state,
        "lost": unreachable is not None,
        "failures": [unreachable.model_dump(exclude={"lost"})] if unreachable else [],
        "runs_folder": values["runs_folder"],
        "engines_folder": values["engines_folder"],
        "running": runs.get("running", []),
        "overruled": failures.overruled(request.failures, host, state),
        "price_per_hour": _price(values["price_per_hour"]),
        "speed_depends_on": sha256_json([configs, values["dataset"]]),
        "spec": request.spec(
            node=host,
            model=values["model"],
            dataset=values["dataset"],
            reference_ids=values["reference_ids"] or None,
            # The node image brings its own.
            punkt=None if cluster else values["punkt"] or None,
            limits=values["limits"],
            seed=values["seed"],
            metrics_address=ANY_ADDRESS if cluster else values["metrics_bind"],
            metrics_port=values["metrics_port"] or (cluster.metrics_port if cluster else None),
        ),
    }


_Engines = tuple[list[dict[str, Any]], list[EngineRef]]
"""The settings of each engine, and how runs refer to it."""


def _on_host(
    request: Request,
    host: str,
    values: Values,
    described: Sequence[Values],
    common: Values,
    gpus: Sequence[Gpu],
) -> _Engines:
    bind, address = engines.addresses(request.topology, values["bind"], values["address"])
    by_kind = gpus if values["engine_settings_by_gpu"] else []
    configs = engines.on_host(described, common, model=values["model"], bind=bind, gpus=by_kind)
    references = [
        # One that is told where to listen is reached there.
        engines.reference(config, node=host, address=address if config["host"] == bind else values["address"])
        for config in configs
    ]
    return configs, references


def _on_cluster(
    request: Request,
    host: str,
    values: Values,
    cluster: Cluster,
    described: Sequence[Values],
    common: Values,
    gpus: Sequence[Gpu],
) -> _Engines:
    configs = engines.on_cluster(described, common, model=values["model"], gpus=gpus)
    references = [
        engines.reference_on_cluster(config, node=host, cluster=cluster, run_id=request.run_id) for config in configs
    ]
    return configs, references


def _unreachable(host: str, reply: Values) -> Failure | None:
    """The failure that it is when the host did not answer a task; None when it did."""
    if not reply.get("unreachable"):
        return None
    return Failure(host=host, phase="reach", reason=f"{host} is unreachable: {reply.get('msg') or 'no answer'}")


def _price(value: Any) -> float | None:
    """What an hour of the node costs; None where that is not given."""
    if value in (None, ""):
        return None
    try:
        price = float(value)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise BadInput(f"node_price_per_hour = {value!r}: give what an hour of the node costs, as a number from 0")
    return price
