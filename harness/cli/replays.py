"""harness facts and harness replay."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import PATH, json_option, read_values, root_option, say, show
from harness.cli.runs import run_here
from harness.errors import BadInput
from harness.spec import FULL_SAMPLES, Spec, parse_spec

if TYPE_CHECKING:
    from harness.engine import EngineConfig
    from harness.replay import Original


@click.command()
@root_option
@click.option("--model", type=PATH, required=True, help="Model directory.")
@click.option("--dataset", "dataset_path", type=PATH, required=True, help="cnn_eval.json as MLPerf ships it.")
@click.option("--samples", type=int, default=FULL_SAMPLES, show_default=True, help="Number of samples.")
@click.option("--punkt", type=PATH, help="Folder of Punkt's English data.  [default: searched for]")
@click.option("--engines", help='Engines as a JSON list of EngineConfig: a file, or "-" for standard input.')
@json_option
def facts(
    root: Path, model: Path, dataset_path: Path, samples: int, punkt: Path | None, engines: str | None, as_json: bool
) -> None:
    """Show what a run here would run on, in the form of manifest.json; changes nothing."""
    import json

    from harness import dataset, manifest
    from harness.engine import parse_config

    given = read_values(engines, "engines") if engines else []
    if not isinstance(given, list):
        raise BadInput("engines must be a list of EngineConfig; correct them")
    configs = [parse_config(config) for config in given]
    data = dataset.load(dataset_path, vocab_size=dataset.vocab_size(model), limit=samples)
    facts_here = manifest.facts(root, model.absolute(), data, configs, punkt)
    show(facts_here, as_json, json.dumps(facts_here, indent=2, ensure_ascii=False))


@click.command()
@root_option
@click.argument("results", type=PATH)
@click.option("--allow", default="", help="Differences to accept, by their names, separated by commas.")
@click.option("--model", type=PATH, help="Model directory.  [default: the original's]")
@click.option("--dataset", type=PATH, help="The data set.  [default: the original's]")
@click.option("--punkt", type=PATH, help="Folder of Punkt's English data.  [default: the original's]")
@click.option("--endpoint", multiple=True, metavar="URL", help="A running server for each of the original's engines.")
@click.option(
    "--engine-config", help="EngineConfig of the run's engine, a JSON file, where the original's had secrets."
)
@click.option("--run-id", help="Name of the run.  [default: the original's name, date and time]")
@json_option
def replay(
    root: Path,
    results: Path,
    allow: str,
    model: Path | None,
    dataset: Path | None,
    punkt: Path | None,
    endpoint: tuple[str, ...],
    engine_config: str | None,
    run_id: str | None,
    as_json: bool,
) -> int:
    """Repeat the run in RESULTS on this node: same settings, seeds and rate, after comparing what it ran on."""
    from harness import manifest, run_store
    from harness import replay as replays
    from harness.benchmark.earlier import how_to_repeat

    allowed = replays.names([allow])
    original = replays.original(results)
    if len(original.nodes) > 1:
        raise BadInput(
            f"run {original.run_id} had {len(original.nodes)} nodes; repeat it with "
            f"`{how_to_repeat(results, original.run_id)}`"
        )
    model, dataset = (model or original.spec.model).absolute(), (dataset or original.spec.dataset).absolute()
    configs = _configs(original, model, endpoint, engine_config)
    spec = _spec(original, configs, run_id, {"model": model, "dataset": dataset, "punkt": punkt or original.spec.punkt})
    samples = run_store.validate(spec, root)
    here = replays.facts(manifest.facts(root, model, samples, configs, spec.punkt))
    differences = replays.differences(original.facts[original.nodes[0]], here)
    replays.check(differences, allowed, "this node")
    for difference in differences.values():
        say(f"allowed difference: {difference}")
    own = next((config for config in configs if config.kind != "endpoint"), None)
    return run_here(own, spec, root, as_json)


def _configs(
    original: "Original", model: Path, endpoints: tuple[str, ...], engine_config: str | None
) -> "list[EngineConfig]":
    """The engines of the new run, from the original's settings."""
    from harness.engine import parse_config

    recorded = [engine.config for engine in original.engines[original.nodes[0]]]
    if not endpoints and any(config["kind"] == "endpoint" for config in recorded):
        endpoints = tuple(str(config["url"]) for config in recorded)
    if endpoints and len(endpoints) != len(recorded):
        raise BadInput(f"{len(endpoints)} endpoints are given, the original had {len(recorded)} engines; give as many")
    if endpoints:
        return [
            parse_config(
                {"name": config["name"], "kind": "endpoint", "url": url.rstrip("/"), "model": str(model)} | kept
            )
            for config, url, kept in zip(recorded, endpoints, map(_kept, recorded), strict=True)
        ]
    if len(recorded) > 1:
        raise BadInput(f"run {original.run_id} had {len(recorded)} engines; start them, and give each with --endpoint")
    given = {**recorded[0], "model": str(model)}
    if engine_config:
        given |= {"env": {}, **read_values(engine_config, "engine config")}
    elif given.get("env"):
        raise BadInput(
            f"the values of the environment variables of engine {given['name']} are not recorded, as they may be "
            "secrets; give its settings with --engine-config"
        )
    return [parse_config(given)]


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that an endpoint has as well, a server that somebody else started."""
    from harness.engine.config import ACCESS

    return {key: config[key] for key in ("max_num_seqs", "max_model_len", "dtype", *ACCESS) if key in config}


def _spec(
    original: "Original", configs: "list[EngineConfig]", run_id: str | None, paths: Mapping[str, Path | None]
) -> Spec:
    """The original's specification at its rate, with the engines and the `paths` of this node."""
    most = {engine.name: engine.max_in_flight for engine in original.spec.engines}
    engines: list[dict[str, Any]] = [
        {
            "name": config.name,
            "url": config.base_url,
            **{key: getattr(config, key) for key in ("served_model", "api_key_file", "ca_file")},
            "max_in_flight": most.get(config.name, config.max_in_flight),
        }
        for config in configs
    ]
    values = original.spec.model_dump(mode="json", exclude={"engines", "peak_budget_minutes", "peak_from_qps"})
    return parse_spec(
        {
            **values,
            "run_id": run_id or f"{original.run_id}-{time.strftime('%Y%m%d-%H%M%S')}",
            "replay_of": original.run_id,
            **{name: path and str(path) for name, path in paths.items()},
            "target_qps": original.target_qps or "auto",
            "rate_attempts": 1,
            "attempts_together": False,
            "engines": engines,
        }
    )
