"""The `harness` command, for people and, with --json, for the Ansible modules."""

import click

from harness import __version__
from harness.cli import cluster, engines, machine, manifests, replays, results, runs, submissions


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 2 bad input, 3 machine not ready, 4 run failed, 5 finished but INVALID, 6 slower "
    "than allowed.",
)
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """MLPerf Inference (Llama-3.1-8B) on this node: engines, LoadGen runs, accuracy and verdicts."""


for command in (
    machine.sandbox,
    engines.engine,
    runs.run,
    replays.replay,
    runs.start,
    runs.status,
    runs.decide,
    runs.stop,
    results.score,
    results.report,
    submissions.submission,
    submissions.check_submission,
    results.compare,
    results.history,
    results.pin,
    machine.doctor,
    machine.fetch,
    machine.receive,
    replays.facts,
    cluster.cluster,
    cluster.pack,
    manifests.manifests,
):
    cli.add_command(command)
