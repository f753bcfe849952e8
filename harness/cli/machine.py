"""harness sandbox, fetch and doctor: prepare and check a machine before a run; and receive, which runs in a pod."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from harness.cli.common import PATH, json_option, read_values, root_option, say, show
from harness.errors import BadInput
from harness.spec import FULL_SAMPLES, SAMPLING_SEED, parse_spec


@click.command()
@click.option("--dir", "folder", type=PATH, default=Path(".mlperf/sandbox"), show_default=True, help="Directory.")
@click.option(
    "--samples",
    type=click.IntRange(1, FULL_SAMPLES),
    default=600,
    show_default=True,
    help="Data set size.",
)
@click.option("--seed", type=int, default=SAMPLING_SEED, show_default=True, help="The same seed gives the same files.")
@json_option
def sandbox(folder: Path, samples: int, seed: int, as_json: bool) -> None:
    """Build a tiny Llama, its tokenizer and a data set in MLPerf's format, with reference answers."""
    from harness.sandbox import build

    info = build(folder.absolute(), samples, seed, say)
    show(asdict(info), as_json, f"sandbox with {info.samples} samples in {folder}")


@click.command()
@click.option("--config", default="-", show_default=True, help="What to bring, and what to look at: a JSON file.")
@click.option("--token", type=PATH, help="File with the token of the addresses.  [default: none is sent]")
@json_option
def fetch(config: str, token: Path | None, as_json: bool) -> int:
    """Bring a model and a data set into folders, verify each file, and look whether both are whole.

    Prints what it is doing line by line; with --json as states of a run, the last with the findings.
    """
    from harness import assets
    from harness import doctor as doctors

    order = assets.parse_order(read_values(config, "input"))

    def report(phase: str, missing: dict[str, int] | None = None, **more: Any) -> None:
        state = {"run_id": order.run_id, "state": "running", "phase": phase, "missing": missing or {}, **more}
        click.echo(json.dumps(state) if as_json else phase)
        sys.stdout.flush()

    secret = token.read_text().strip() if token else ""
    brought = sum(assets.fetch(asset, secret, report) for asset in order.assets)
    report("looking at model and data set")
    findings = list(doctors.check_files(order.model, order.dataset))
    failed = [f"{finding.seen}; {finding.advice}" for finding in findings if finding.level == "fail"]
    table = doctors.render_table(findings)
    if as_json:
        seen: dict[str, Any] = {
            "findings": [asdict(finding) for finding in findings],
            "reason": "; ".join(failed) or None,
            "brought": brought,
        }
        report("done", state="failed" if failed else "finished", **seen)
    else:
        click.echo(table)
    return 3 if failed else 0


@click.command(hidden=True)
@click.argument("path", type=PATH)
@click.argument("offset", type=int)
@click.argument("length", type=int)
@click.argument("whole", type=int)
def receive(path: Path, offset: int, length: int, whole: int) -> None:
    """Write LENGTH bytes of a file of WHOLE bytes from standard input at OFFSET."""
    from harness import assets

    assets.receive(path, offset, length, whole, sys.stdin.buffer)


@click.command()
@root_option
@click.option("--model", type=PATH, help="Model directory to check.")
@click.option("--dataset", type=PATH, help="Data set to check.")
@click.option("--punkt", type=PATH, help="Directory of Punkt's English data.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that engines will listen on.")
@click.option("--port", "ports", type=click.IntRange(1, 65535), multiple=True, help="A port that an engine will use.")
@click.option(
    "--for",
    "source",
    metavar="FILE",
    help='Engines and run to check for: {"engines": [EngineConfig], "spec": Spec} as JSON; "-" for standard input.',
)
@json_option
def doctor(
    root: Path,
    model: Path | None,
    dataset: Path | None,
    punkt: Path | None,
    host: str,
    ports: tuple[int, ...],
    source: str | None,
    as_json: bool,
) -> int:
    """Check this machine and give advice for every problem; changes nothing."""
    from harness import doctor as doctors
    from harness import engine as engines

    planned = read_values(source, "input of --for") if source else {}
    if not isinstance(planned, dict) or planned.keys() - {"engines", "spec"}:
        raise BadInput('input of --for must be {"engines": [EngineConfig, …], "spec": Spec}; correct its keys')
    findings = doctors.check(
        root,
        model=model,
        dataset_path=dataset,
        punkt_path=punkt,
        host=host,
        ports=ports,
        configs=[engines.parse_config(config) for config in planned.get("engines") or ()],
        spec=parse_spec(planned["spec"]) if planned.get("spec") else None,
    )
    show({"findings": [asdict(finding) for finding in findings]}, as_json, doctors.render_table(findings))
    return 3 if any(finding.level == "fail" for finding in findings) else 0
