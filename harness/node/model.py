"""A model directory: its files, and whether they are complete."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import reject_lfs_pointer

_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A complete model directory.

    Attributes:
        weights: weight files in order.
        weights_bytes: their total size.
        tokenizer: tokenizer.json or tokenizer.model.
        config: the content of config.json.
        quantized: whether the weights are stored in a quantized format.
        quantization: its type, such as int8 or fp8, else the name of its method; None where they are not quantized.
    """

    weights: tuple[Path, ...]
    weights_bytes: int
    tokenizer: Path
    config: dict[str, Any]
    quantized: bool
    quantization: str | None

    @property
    def sizes(self) -> dict[str, Any]:
        """The model's shape, with the keys of REAL_MODEL."""
        names = {"hidden_size": "hidden_size", "layers": "num_hidden_layers", "vocab_size": "vocab_size"}
        return {size: self.config.get(name) for size, name in names.items()}


def model_files(model: Path) -> ModelFiles:
    """The files of a model directory, after checking each; truncated weights are recognised by their length.

    Raises:
        BadInput: a file is missing, unreadable, or its length differs from that in its header.
    """
    if not model.is_dir():
        raise BadInput(f"model directory {model} does not exist; check the path")
    config = _object(model / "config.json")
    tokenizer = next((model / name for name in ("tokenizer.json", "tokenizer.model") if (model / name).is_file()), None)
    if tokenizer is None:
        raise BadInput(f"model directory {model} has no tokenizer.json or tokenizer.model; copy it again")
    reject_lfs_pointer(tokenizer)
    _object(model / "tokenizer_config.json")
    weights = _weight_files(model)
    sizes = [_check_safetensors(path) for path in weights]
    # ModelOpt has a file of its own, older compressed-tensors another key.
    settings = config.get("quantization_config") or config.get("compression_config")
    quantized = bool(settings) or (model / "hf_quant_config.json").is_file()
    quantization = _quantization(settings if isinstance(settings, dict) else {}) if quantized else None
    return ModelFiles(weights, sum(sizes), tokenizer, config, quantized, quantization)


def _quantization(settings: dict[str, Any]) -> str:
    """The type of quantized weights, as far as the settings in config.json say it."""
    groups = settings.get("config_groups")
    weights = [group.get("weights") or {} for group in groups.values()] if isinstance(groups, dict) else []
    kinds = {(one.get("type"), one.get("num_bits")) for one in weights} or {("int", settings.get("bits"))}
    kind, bits = kinds.pop()
    if not kinds and bits:
        return f"{'fp' if kind == 'float' else 'int'}{bits}"
    return str(settings.get("quant_algo") or settings.get("quant_method") or "quantized").lower()


def _weight_files(model: Path) -> tuple[Path, ...]:
    index = model / "model.safetensors.index.json"
    if index.exists():
        weight_map = _object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadInput(f"{index} has no weight_map; copy it again")
        names = sorted({str(name) for name in weight_map.values()})
    else:
        names = sorted(path.name for path in model.glob("*.safetensors"))
    if not names:
        raise BadInput(f"model directory {model} has no *.safetensors weights; copy them there")
    missing = [name for name in names if not (model / name).is_file()]
    if missing:
        raise BadInput(
            f"model directory {model} lacks {', '.join(missing)}, listed in {index.name}; copy the missing files"
        )
    return tuple(model / name for name in names)


def _check_safetensors(path: Path) -> int:
    """The length of a safetensors file; BadInput when its header says otherwise."""
    try:
        reject_lfs_pointer(path)
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= min(size, _MAX_HEADER_BYTES) else None
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]  # type: ignore[union-attr]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        raise BadInput(f"weights {path} cannot be read: {error.strerror}; check its permissions") from None
    except (ValueError, struct.error, AttributeError, LookupError, TypeError):
        raise BadInput(f"weights {path} ({size} bytes) have no valid safetensors header; copy the file again") from None
    if size != expected:
        problem = "truncated" if size < expected else "too long"
        raise BadInput(f"weights {path} are {problem}: {size} bytes, expected {expected}; copy the file again")
    return size


def _object(path: Path) -> dict[str, Any]:
    try:
        reject_lfs_pointer(path)
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"model directory {path.parent} has no {path.name}; check the path or copy it again") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}; copy it again") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds no JSON object; copy it again")
    return value
