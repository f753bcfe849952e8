"""harness run, start, status, decide and stop."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness import state_file
from harness.cli.common import (
    PATH,
    env_option,
    json_option,
    read_values,
    resume_option,
    root_option,
    say,
    show,
    with_env,
)
from harness.errors import FINISHED_BUT_INVALID, BadInput, HarnessError, NotReady, RunFailed
from harness.linux import stoppable
from harness.spec import DEFAULT_RATE_ATTEMPTS, FULL_SAMPLES, Spec, parse_spec

if TYPE_CHECKING:
    from harness.engine import EngineConfig

_PROGRESS_INTERVAL_S = 5.0


@click.command()
@root_option
@click.option("--sandbox", type=PATH, help="Directory built by `harness sandbox`: model, data set, reference answers.")
@click.option("--model", type=PATH, help="Model directory (Hugging Face layout).")
@click.option("--dataset", type=PATH, help="cnn_eval.json as MLPerf ships it.")
@click.option("--samples", type=int, default=FULL_SAMPLES, show_default=True, help="Number of samples.")
@click.option("--scenario", default="server", show_default=True, help="server, offline or interactive.")
@click.option("--mode", default="both", show_default=True, help="performance, accuracy, compliance, both or all.")
@click.option("--target-qps", default="auto", show_default=True, help="Samples/s to offer, auto to calibrate, or peak.")
@click.option("--peak-budget-minutes", type=float, help="With --target-qps peak: minutes for the search and accuracy.")
@click.option(
    "--rate-attempts",
    type=int,
    help="With --target-qps auto: performance runs at most, each slower than the one before, until one holds the "
    f"latency limits.  [default: {DEFAULT_RATE_ATTEMPTS}]",
)
@click.option(
    "--on-engine-loss", default="continue", show_default=True, help="With several --endpoint: continue or fail."
)
@click.option("--allow-long", is_flag=True, help="Allow a run of more than a day.")
@click.option("--punkt", type=PATH, help="Directory of Punkt's English data (punkt_tab/english).")
@click.option("--run-id", help="Name of the run.  [default: date, time, scenario, samples]")
@click.option("--endpoint", multiple=True, metavar="URL", help="A running server, instead of an engine of the run.")
@click.option("--served-model", help="With --endpoint: name of its model, where it serves several.")
@click.option("--api-key-file", type=PATH, help="With --endpoint: file with its API key.")
@click.option("--api-key-env", metavar="NAME", help="With --endpoint: environment variable with its API key.")
@click.option("--ca-file", type=PATH, help="With --endpoint: certificate (PEM) that it is trusted by.")
@click.option("--engine-config", help="EngineConfig of the run's engine: a JSON file.")
@env_option("--engine-env")
@resume_option
@json_option
def run(
    root: Path,
    sandbox: Path | None,
    endpoint: tuple[str, ...],
    engine_config: str | None,
    engine_env: Path | None,
    resumed: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a benchmark on this node, from engine to report, and wait for it."""
    settings = with_env(read_values(engine_config, "engine config") if engine_config else {}, engine_env)
    own, spec = _spec(sandbox, endpoint, settings, options)
    return run_here(own, spec, root, as_json, resumed=resumed)


def run_here(own: "EngineConfig | None", spec: Spec, root: Path, as_json: bool, *, resumed: bool = False) -> int:
    """Run a benchmark in this process, with an engine of its `own` or with running ones; returns the exit code.

    With `resumed` it goes on with a run that ended without a result.
    """
    from harness import engine as engines
    from harness import report as reports
    from harness import run_store
    from harness.run_phases import execute

    samples = run_store.validate(spec, root)
    if own is None:
        engines.introduce_all(root, spec.engines, {})
    for reference in () if own else spec.engines:
        engines.observe(reference.name, reference.url, spec.model)
    for warning in run_store.warnings(spec, root):
        say(warning)
    if resumed:
        run_store.check_resumable(spec, root)
    elif not run_store.create(spec, root):
        raise BadInput(run_store.exists_already(root, spec.run_id))
    try:
        folder = execute(spec, root, samples, own_engine=own, resumed=resumed, on_status=_printer(), on_line=say)
    except HarnessError:
        say(reports.summary(reports.report(run_store.run_directory(root, spec.run_id))))
        raise
    result = reports.report(folder)
    show(result.model_dump(mode="json"), as_json, reports.summary(result))
    return FINISHED_BUT_INVALID if result.verdict.level == "INVALID" else 0


@click.command()
@root_option
@click.option(
    "--spec", "source", default="-", show_default=True, help='Spec as JSON: a file, or "-" for standard input.'
)
@click.option("--check", is_flag=True, help="Validate and report what would change; start nothing.")
@click.option(
    "--foreground", is_flag=True, help="Run in this process, as in a container: print the status every second."
)
@click.option("--await-engines", type=float, default=0, metavar="SECONDS", help="Time limit for engines to get ready.")
@resume_option
@json_option
def start(
    root: Path, source: str, check: bool, foreground: bool, await_engines: float, resumed: bool, as_json: bool
) -> None:
    """Start a run in the background; changes nothing if the same run exists, unless it is to be resumed."""
    from harness import engine as engines
    from harness import run_store

    if check and foreground:
        raise BadInput("--check and --foreground cannot be combined; use one")
    values = read_values(source, "spec")
    keys = _keys(values)
    spec = parse_spec(values)
    if foreground:
        _run_in_foreground(spec, root, as_json, await_engines, resumed)
        return
    if await_engines:
        engines.introduce_all(root, spec.engines, keys)
        _await_engines(spec, await_engines)
    if check:
        run_store.validate(spec, root)
        different = run_store.compare(spec, root)
        if resumed:
            run_store.check_resumable(spec, root)
        new = different is None or resumed
        show({"would_change": new, "diff": different or {}}, as_json, "would start" if new else "exists already")
        return
    changed, status = run_store.start(spec, root, resumed=resumed, keys=keys)
    folder = run_store.run_directory(root, spec.run_id)
    result = {
        "changed": changed,
        "run_id": spec.run_id,
        "run_dir": str(folder),
        "pid": status["pid"],
        "state": status["state"],
        "warnings": run_store.warnings(spec, root),
    }
    watch = f"watch it with: harness status --root {root} {spec.run_id}"
    ended = not changed and run_store.may_resume(status)
    show(result, as_json, f"{status_line(status)}\n{run_store.exists_already(root, spec.run_id) if ended else watch}")


@click.command()
@root_option
@click.argument("run_id", required=False)
@json_option
def status(root: Path, run_id: str | None, as_json: bool) -> None:
    """Show one run, or all of this root."""
    from harness import run_store
    from harness.status import look

    if run_id:
        one = look(run_store.run_directory(root, run_id))
        show(one, as_json, status_line(one))
        return
    statuses, unreadable = run_store.runs(root)
    rows = [{key: each.get(key) for key in ("run_id", "state", "phase")} for each in statuses]
    lines = [*map(status_line, statuses), *unreadable] or [f"no runs under {root}"]
    show({"runs": rows, "unreadable": unreadable}, as_json, "\n".join(lines))


@click.command()
@root_option
@click.argument("run_id")
@click.argument("attempt", type=int)
@click.option("--repeat/--accept", required=True, help="Whether every LoadGen of the benchmark makes another attempt.")
@json_option
def decide(root: Path, run_id: str, attempt: int, repeat: bool, as_json: bool) -> None:
    """Tell a run that waits for the other nodes after its ATTEMPT whether to repeat it."""
    from harness import run_store

    changed = run_store.decide(root, run_id, attempt, repeat)
    show({"changed": changed, "run_id": run_id}, as_json, "repeats the attempt" if repeat else "continues")


@click.command()
@root_option
@click.argument("run_id")
@json_option
def stop(root: Path, run_id: str, as_json: bool) -> None:
    """Stop a run and all its processes; its files are kept."""
    from harness import run_store

    changed, status = run_store.stop(root, run_id)
    show({"changed": changed, "state": status["state"]}, as_json, f"run {run_id}: {status['state']}")


def status_line(status: dict[str, Any]) -> str:
    """A run's status as one line, without what was not measured."""
    from harness.benchmark.progress import engines_lost

    running = status["state"] in state_file.RUNNING
    parts = [status["run_id"], status.get("phase") or status["state"] if running else status["state"]]
    if running and status.get("samples_total"):
        parts.append(f"{status.get('samples_done') or 0}/{status['samples_total']}")
    forms = {
        "samples_per_s": "{:.1f} samples/s",
        "ttft_ms_p99": "TTFT p99 {:.0f} ms",
        "tpot_ms_p99": "TPOT p99 {:.1f} ms",
        "eta_s": "ETA {:.0f} s",
    }
    parts += [form.format(status[key]) for key, form in forms.items() if running and status.get(key) is not None]
    return "  ".join([*parts, *filter(None, [engines_lost(status), status.get("reason")])])


def _await_engines(spec: Spec, seconds: float, on_wait: Callable[[str], None] = lambda reason: None) -> None:
    """Wait until every engine is healthy, for engines that start at the same time as the run.

    `on_wait` is called once a second with the reason for waiting.
    """
    from harness.node import probe

    deadline = time.monotonic() + seconds
    for engine in spec.engines if seconds else ():
        while True:
            try:
                reason = f"answered {probe.get(engine.url, '/health').status}"
                if reason == "answered 200":
                    break
            except (OSError, ValueError) as error:
                reason = str(error)
            if time.monotonic() > deadline:
                raise NotReady(f"engine {engine.name} at {engine.url} is not ready after {seconds:g} s: {reason}")
            on_wait(f"waiting for engine {engine.name}: {reason}")
            time.sleep(1)


def _run_in_foreground(spec: Spec, root: Path, as_json: bool, await_engines: float, resumed: bool) -> None:
    """Run in this process. A run that exists is not started again, unless it is to be resumed and has not finished:
    this call ends as that run did."""
    from harness import run_store
    from harness.run_phases import execute
    from harness.status import look

    samples = run_store.validate(spec, root)
    folder = run_store.run_directory(root, spec.run_id)
    new = run_store.reject_different_spec(spec, root)
    again = resumed and not new and look(folder)["state"] != "finished"
    if again:
        run_store.check_resumable(spec, root)
    if new or again:

        def on_wait(reason: str) -> None:
            waiting = {"run_id": spec.run_id, "state": "running", "phase": reason, "updated_unix": time.time()}
            show(waiting, as_json, f"{spec.run_id}  {reason}")
            sys.stdout.flush()

        with stoppable():
            _await_engines(spec, await_engines, on_wait)
    if again or run_store.create(spec, root):
        ended = threading.Event()
        printer = threading.Thread(target=_print_every_second, args=(folder, as_json, ended))
        printer.start()
        try:
            execute(spec, root, samples, resumed=again)
        finally:
            ended.set()
            printer.join()
    status = look(folder)
    show(status, as_json, status_line(status))
    if status["state"] != "finished":
        raise RunFailed(status["reason"] or f"run {spec.run_id} is {status['state']}")


def _print_every_second(folder: Path, as_json: bool, ended: threading.Event) -> None:
    from harness.status import look

    while not ended.wait(1.0):
        with contextlib.suppress(BadInput):
            status = look(folder)
            show(status, as_json, status_line(status))
            sys.stdout.flush()


def _printer() -> Callable[[dict[str, Any]], None]:
    phase, printed_at = "", 0.0

    def print_status(status: dict[str, Any]) -> None:
        nonlocal phase, printed_at
        now = time.monotonic()
        if status["phase"] != phase or now - printed_at >= _PROGRESS_INTERVAL_S:
            phase, printed_at = status["phase"], now
            say(status_line(status))

    return print_status


def _spec(
    sandbox: Path | None, endpoints: tuple[str, ...], engine_settings: Any, options: dict[str, Any]
) -> tuple[Any, Spec]:
    from harness import engine as engines
    from harness import sandbox as sandboxes

    if endpoints and engine_settings:
        raise BadInput("--endpoint and --engine-config cannot be combined; use one")
    if sandbox:
        options = {
            **options,
            **{key: value for key, value in sandboxes.paths(sandbox).items() if options.get(key) is None},
        }
    for key in ("model", "dataset"):
        if options[key] is None:
            raise BadInput(f"--{key} is missing; add it, or --sandbox DIR built by `harness sandbox`")
    options["run_id"] = (
        options["run_id"] or f"{time.strftime('%Y%m%d-%H%M%S')}-{options['scenario']}-{options['samples']}"
    )
    own = None
    asked = {name: options.pop(name) for name in ("served_model", "api_key_file", "api_key_env", "ca_file")}
    if endpoints:
        configs = [
            engines.parse_config(
                {"name": f"endpoint{number}", "kind": "endpoint", "url": url, "model": options["model"]} | asked
            )
            for number, url in enumerate(endpoints, 1)
        ]
        references = [{"name": config.name, "url": config.base_url} | _asked(config) for config in configs]
    elif given := [f"--{name.replace('_', '-')}" for name, value in asked.items() if value]:
        raise BadInput(f"{', '.join(given)}: of a server that runs already; give it with --endpoint, or leave this out")
    else:
        # The sandbox's reference answers are computed in float32; other precisions give other answers.
        defaults = {
            "name": "own",
            "port": 8100,
            "model": str(options["model"]),
            "dtype": "float32" if sandbox else "auto",
        }
        own = engines.parse_config({**defaults, **engine_settings})
        references = [own.reference(own.base_url, "localhost").model_dump()]
    return own, parse_spec({**_spec_values(options), "engines": references})


def _asked(config: "EngineConfig") -> dict[str, Any]:
    """How the server of an endpoint is asked, as far as a reference says it; its key is known from now on."""
    config.introduce()
    return {name: getattr(config, name) for name in ("served_model", "api_key_file", "ca_file")}


def _keys(values: Any) -> dict[str, str]:
    """Take the API keys of engines out of a spec on standard input: they are in no record."""
    keys = values.pop("keys", None) if isinstance(values, dict) else None
    if not isinstance(keys or {}, dict) or not all(isinstance(key, str) for key in (keys or {}).values()):
        raise BadInput("spec: keys must be an object with the API key of each engine by its name")
    return keys or {}


def _spec_values(options: dict[str, Any]) -> dict[str, Any]:
    from harness.benchmark import public_settings

    values = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    given = {key: value for key, value in values.items() if value is not None}
    asked = public_settings.check({key: value for key, value in given.items() if key in public_settings.PUBLIC})
    return {
        **{key: value for key, value in given.items() if key != "allow_long"},
        **asked.model_dump(include=set(Spec.model_fields) - {"rate_attempts"}),
        "rate_attempts": asked.attempts_most,
    }
