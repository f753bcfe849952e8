"""A model directory: whether its files are whole, and what they are."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput

_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A complete model directory: weight files in order, their bytes together, the tokenizer, config.json's content.

    `quantized` is whether the weights are stored in a quantized format.
    """

    weights: tuple[Path, ...]
    weights_bytes: int
    tokenizer: Path
    config: dict[str, Any]
    quantized: bool


def model_files(model: Path) -> ModelFiles:
    """The files of a model directory, each looked at: weights that were cut short are noticed by their length.

    Raises:
        BadInput: something is missing, unreadable, or has not the length its header says.
    """
    if not model.is_dir():
        raise BadInput(f"model directory {model} does not exist; check the path")
    config = _object(model / "config.json")
    tokenizer = next((model / name for name in ("tokenizer.json", "tokenizer.model") if (model / name).is_file()), None)
    if tokenizer is None:
        raise BadInput(f"model directory {model} has no tokenizer.json or tokenizer.model; copy it again")
    _object(model / "tokenizer_config.json")
    weights = _weight_files(model)
    sizes = [_check_safetensors(path) for path in weights]
    # ModelOpt says it in a file of its own; older compressed-tensors under another key.
    said = [config.get(key) for key in ("quantization_config", "compression_config")]
    quantized = any(said) or (model / "hf_quant_config.json").is_file()
    return ModelFiles(weights, sum(sizes), tokenizer, config, quantized)


def _weight_files(model: Path) -> tuple[Path, ...]:
    index = model / "model.safetensors.index.json"
    if index.exists():
        places = _object(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise BadInput(f"{index} has no weight_map; copy it again")
        names = sorted({str(name) for name in places.values()})
    else:
        names = sorted(path.name for path in model.glob("*.safetensors"))
    if not names:
        raise BadInput(f"model directory {model} has no *.safetensors weights; copy them there")
    missing = [name for name in names if not (model / name).is_file()]
    if missing:
        raise BadInput(f"model directory {model} lacks {', '.join(missing)} named by {index.name}; copy them again")
    return tuple(model / name for name in names)


def _check_safetensors(path: Path) -> int:
    """The length of a safetensors file, which must be what its header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= min(size, _MAX_HEADER_BYTES) else None
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]  # type: ignore[union-attr]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        raise BadInput(f"weights {path} cannot be read: {error.strerror}; check its permissions") from None
    except (ValueError, struct.error, AttributeError, LookupError, TypeError):
        raise BadInput(f"weights {path} ({size} bytes) have no whole safetensors header; copy the file again") from None
    if size != expected:
        short = "cut short" if size < expected else "too long"
        raise BadInput(f"weights {path} are {short}: {size} bytes, their header says {expected}; copy the file again")
    return size


def _object(path: Path) -> dict[str, Any]:
    try:
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
