"""harness score and harness report."""

from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.common import PATH, json_option, say, show
from harness.errors import FINISHED_BUT_INVALID, BadInput


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
    """Score an mlperf_log_accuracy.json by MLPerf's reference method.

    Logs of other implementations may have token ids of int64 instead of int32, which is recognised.
    """
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
@click.option(
    "--results", type=PATH, default=Path("results"), show_default=True, help="Folder that holds one for each run."
)
@click.option("--scenario", type=click.Choice(["server", "offline", "interactive"]), help="Only runs of this scenario.")
@click.option("--verdict", type=click.Choice(["VALID", "UNOFFICIAL", "INVALID"]), help="Only runs with this verdict.")
@click.option("--index", is_flag=True, help="Write index.html into the folder as well.")
@json_option
def history(results: Path, scenario: str | None, verdict: str | None, index: bool, as_json: bool) -> None:
    """List all runs of a folder, with what changed since the one before of the same work."""
    from harness.compare import history as histories
    from harness.compare.page import table

    history_ = histories.history(results, scenario, verdict)
    text = table(history_) + (f"\n\nPage: {histories.write_index(results)}" if index else "")
    runs = [entry.document() for entry in history_.entries]
    show({"schema": 1, "runs": runs, "problems": history_.problems}, as_json, text)


@click.command()
@click.argument("base")
@click.argument("new")
@click.option("--results", type=PATH, default=Path("results"), show_default=True, help="Folder in which runs have ids.")
@click.option(
    "--regression-percent", type=float, help="End with 6 where NEW is slower by more than this with certainty."
)
@click.option("--out", type=PATH, help="Folder for compare.html, compare.md and compare.json.")
@json_option
def compare(
    base: str, new: str, results: Path, regression_percent: float | None, out: Path | None, as_json: bool
) -> int:
    """Compare two sets of runs of the same work: BASE and NEW are run ids or folders, separated by commas."""
    from harness import compare as comparing
    from harness.compare.page import summary

    if regression_percent is not None and not 0 < regression_percent < 100:
        raise BadInput(f"--regression-percent = {regression_percent:g}: give a number above 0 and below 100")
    old, now = ([place.strip() for place in side.split(",") if place.strip()] for side in (base, new))
    comparison = comparing.compare(old, now, results, regression_percent=regression_percent, out=out)
    text = summary(comparison) + (f"\n\nPage: {out / 'compare.html'}" if out else "")
    show(comparison.document(), as_json, text)
    return comparing.SLOWER if comparison.gate and comparison.gate.failed else 0


@click.command()
@click.argument("run_id")
@click.option("--results", type=PATH, default=Path("results"), show_default=True, help="Folder in which runs have ids.")
@json_option
def pin(run_id: str, results: Path, as_json: bool) -> None:
    """Make a run the one that later runs of the same work are compared with (baseline=pinned)."""
    from harness import compare as comparing
    from harness.compare.sets import pins

    run = comparing.pin(run_id, results)
    show({"schema": 1, "pinned": pins(results)}, as_json, f"pinned: {run.run_id}")


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
