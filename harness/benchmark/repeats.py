"""The same benchmark several times: a request and a plan for each repeat, at the rates that the first run has found."""

import time
from pathlib import Path

from harness.benchmark import plan as plans
from harness.benchmark.plan import Plan
from harness.benchmark.request import Request
from harness.errors import BadInput, RunFailed
from harness.files import read_json
from harness.spec import HIGHEST_TARGET_QPS


def begin(first: Request, plan: Plan, number: int) -> tuple[Request, Plan]:
    """Begin repeat `number`, from 2: write its request.json and plan.json, unless they are there.

    Args:
        first: the request of the first run, whose results have been collected.
        plan: its plan.

    Raises:
        RunFailed: the first run has not found a rate.
        BadInput: the name of the repeat is taken by something else.
    """
    run_id = f"{first.run_id}-r{number}"
    rates = {host: _rate(first.directory / "nodes" / host / "outcome.json") for host in plan.loadgens}
    asked = first.asked.model_copy(
        update={
            "target_qps": sum(rates.values()),
            "repeats": 1,
            "restart_engines": False,
            "baseline": None,
            "regression_percent": None,
        }
    )
    directory = first.directory.with_name(run_id)
    if directory.exists():
        raise BadInput(f"run_id {run_id}: {directory} is there already; choose another run_id for the benchmark")
    more = {"run_id": run_id, "asked": asked, "directory": directory, "plan": {}, "repeat_of": first.run_id}
    request = first.model_copy(update=more)
    nodes = {
        name: node.model_copy(update={"target_qps": rates[name]}) if name in rates else node
        for name, node in plan.nodes.items()
    }
    repeated = plan.model_copy(update={"run_id": run_id, "asked": asked, "nodes": nodes, "created_unix": time.time()})
    request.begin()
    plans.keep(repeated, directory / "plan.json")
    return request, repeated


def _rate(file: Path) -> float:
    outcome = read_json(file, "outcome")
    rate = outcome.get("target_qps") if isinstance(outcome, dict) else None
    if not isinstance(rate, int | float) or not 0 < rate <= HIGHEST_TARGET_QPS:
        raise RunFailed(f"{file} has no target_qps, so there is no rate to repeat at; see the first run's report")
    return float(rate)
