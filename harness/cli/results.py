"""harness score and harness report."""

from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.common import PATH, json_option, say, show
from harness.errors import FINISHED_BUT_INVALID


@click.command()
@click.argument("log", type=PATH)
@click.option("--dataset", "dataset_path", type=PATH, required=True, help="The data set the log answers.")
@click.option("--model", type=PATH, required=True, help="Model directory, for its tokenizer.")
@click.option("--reference-ids", type=PATH, help="A sandbox's reference_ids.jsonl, to compare token ids.")
@click.option("--punkt", "punkt_path", type=PATH, help="Folder of Punkt's English data (punkt_tab/english).")
@click.option("--first", type=int, default=0, show_default=True, help="Data set position of the log's sample 0.")
@click.option("--samples", type=int, help="How many samples the log should hold.  [default: to the end]")
@click.option("--out", type=PATH, help="Where score.json and scores.csv go.  [default: beside the log]")
@json_option
def score(
    log: Path,
    dataset_path: Path,
    model: Path,
    reference_ids: Path | None,
    punkt_path: Path | None,
    first: int,
    samples: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score an mlperf_log_accuracy.json by MLPerf's reference method."""
    from harness import dataset
    from harness.scoring import accuracy, punkt

    data = dataset.load(dataset_path)
    data = data.share(first, first + samples if samples is not None else len(data))
    result = accuracy.score(
        log,
        data,
        model,
        reference_ids=reference_ids,
        punkt_dir=punkt.find(punkt_path),
        out_dir=out or log.parent,
        on_progress=say,
    )
    show(asdict(result), as_json, accuracy.describe(result))


@click.command()
@click.argument("folder", type=PATH)
@click.option("--format", "form", type=click.Choice(["md", "html", "json"]), help="Write and print only this page.")
@json_option
def report(folder: Path, form: str | None, as_json: bool) -> int:
    """Judge a result directory or a single run directory, and write its report from its files."""
    from harness import report as reports

    result = reports.report(folder, form)
    if form:
        name = "result.json" if form == "json" else f"report.{form}"
        click.echo((reports.output_directory(folder) / name).read_text())
    else:
        show(result.model_dump(mode="json"), as_json, reports.summary(result))
    return FINISHED_BUT_INVALID if result.verdict.level == "INVALID" else 0
