"""harness sandbox and harness doctor: prepare and check a machine before a run."""

from dataclasses import asdict
from pathlib import Path

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
