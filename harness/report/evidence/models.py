"""Every engine served the benchmark's model."""

from collections.abc import Iterator

from harness.assets import published_files, published_sizes
from harness.files import sha256_json
from harness.report.accuracy_rules import is_real
from harness.report.input_models import ModelFacts
from harness.report.load_inputs import Inputs
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.spec import REAL_MODEL

KINDS = ("vllm", "deepspeed", "endpoint")
_WEIGHT_FILES = {name: sha256 for name, sha256 in published_files().items() if name.endswith(".safetensors")}
PUBLISHED_WEIGHTS = sha256_json(_WEIGHT_FILES)
"""The hash over the weight files of meta-llama/Llama-3.1-8B-Instruct."""
PUBLISHED_BYTES = sum(published_sizes()[sha256] for sha256 in _WEIGHT_FILES.values())
PARAMETERS = 8_030_261_248
"""Of Llama-3.1-8B."""
_BYTES_PER_PARAMETER = (0.5, 4.1)
"""Four bits at least, 32 bits and the files' headers at most."""


def reasons(inputs: Inputs) -> Iterator[Reason]:
    """Engines of an unknown kind, or whose weights are not those of the run's specification, or cannot be."""
    facts = {
        f"{run.host}, manifest.json": run.manifest.model
        for run in inputs.loadgens
        if not run.unreadable("manifest.json")
    }
    expected = next((model.sha256 for model in facts.values() if model.sha256), None)
    for engine in inputs.engines:
        name = f"{engine.node}/{engine.file.name}, engine.json"
        if engine.file.kind not in KINDS:
            yield Rule.MODEL_IDENTITY.reason(engine=name, what="kind", value=engine.file.kind, rule=" or ".join(KINDS))
        if engine.file.machine is not None:
            facts[name] = engine.file.served
    for name, model in facts.items():
        expected = expected or model.sha256
        if model.sha256 is None or model.sha256 != expected:
            yield Rule.MODEL_IDENTITY.reason(
                engine=name, what="SHA-256 of the weights", value=model.sha256, rule=expected or "a hash"
            )
        yield from _plausible(name, model)
    sizes = {
        name: (model.weights_bytes, *(getattr(model, size) for size in REAL_MODEL)) for name, model in facts.items()
    }
    for name, size in sizes.items():
        if size != (first := next(iter(sizes.values()))):
            yield Rule.MODEL_IDENTITY.reason(engine=name, what="sizes of the model", value=size, rule=first)


def _plausible(name: str, model: ModelFacts) -> Iterator[Reason]:
    if is_real(model):
        least, most = (round(size * PARAMETERS) for size in _BYTES_PER_PARAMETER)
        if model.sha256 == PUBLISHED_WEIGHTS:
            least = most = PUBLISHED_BYTES
        if model.weights_bytes is None or not least <= model.weights_bytes <= most:
            yield Rule.MODEL_IDENTITY.reason(
                engine=name,
                what="size of the weights in bytes",
                value=model.weights_bytes,
                rule=f"{least:,} to {most:,} for {PARAMETERS:,} parameters",
            )
