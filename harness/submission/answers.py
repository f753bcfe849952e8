"""What no measurement can tell about a system: asked for in one YAML file, and never guessed."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.errors import BadInput
from harness.files import write_atomic
from harness.submission.rules import FILLED_SYSTEM_KEYS, STATUSES

QUESTIONS = {
    "system_name": "The system's name as it is to be published, for example: 2x ExampleServer 100 (1x NVIDIA A30 each)",
    "status": "Availability of all its parts: available, preview, or rdi (research, development or internal)",
    "host_memory_configuration": "Memory modules of each host, for example: 8x 32GB DDR4-3200",
    "host_networking": "What connects the hosts, for example: Ethernet 10GbE",
    "host_networking_topology": "How they are connected, for example: one switch",
    "accelerator_memory_configuration": "Memory of each accelerator, for example: HBM2e",
    "accelerator_interconnect": "What connects a host's accelerators, for example: NVLink",
    "cooling": "For example: air, passive, liquid",
    "retraining": 'Whether the weights were trained further: "no", or how',
    "weight_transformations": 'How the weights were changed after their publication: "none", or for example '
    "quantization with its tool and settings",
}
"""What must be answered, with the comment that asks."""
OPTIONAL = {
    "host_processor_interconnect": "What connects a host's processors",
    "accelerator_interconnect_topology": "How a host's accelerators are connected",
    "accelerator_on-chip_memories": "Caches and other memory on an accelerator",
    "system_type_detail": "More about the kind of system",
    "hw_notes": "Notes about the hardware",
    "sw_notes": "Notes about the software, beside those that the command writes",
}
"""What may stay empty."""
CALIBRATION = {
    "calibration": "How the quantized weights and the KV cache's scales were calibrated: method, data and where to "
    "find the weights. Goes into documentation/calibration.md",
}
"""Asked where the engines served quantized weights."""
MEASURED = {
    "host_storage_capacity": "Storage of each host, for example: 1 TB. ",
    "host_storage_type": "Its kind, for example: NVMe SSD. ",
    "host_network_card_count": "Network cards of each host, for example: 1x 10GbE. ",
}
"""How is asked what the runs measure as a rule, where that is not plain from the key."""
UNMEASURED = "The runs did not record it"
_HEAD = """\
# What the runs of this submission could not measure. Fill in every value of the first part, then call the command
# again; it guesses nothing. An answer is text or a number.
"""


def answers(
    path: Path, measured: Collection[str], unmeasured: Mapping[str, str], quantized: bool, *, write: bool = True
) -> dict[str, str]:
    """The answers in the file; a missing file, and one with questions left open, is written with all of them.

    Args:
        path: the YAML file.
        measured: keys whose values the runs recorded; they are not asked for.
        unmeasured: keys that the runs should have recorded and did not, with what was seen.
        quantized: whether the weights were quantized; how they were calibrated is then asked for.
        write: whether the file may be written.

    Raises:
        BadInput: answers are missing, of a wrong kind, or to questions that were not asked.
    """
    unrecorded = {key: f"{MEASURED.get(key, '')}{UNMEASURED}: {seen}" for key, seen in unmeasured.items()}
    asked = {key: text for key, text in QUESTIONS.items() if key not in measured}
    asked |= {key: text for key, text in unrecorded.items() if key in FILLED_SYSTEM_KEYS}
    asked |= CALIBRATION if quantized else {}
    optional = {key: text for key, text in (OPTIONAL | unrecorded).items() if key not in {*asked, *measured}}
    given = _read(path)
    if unknown := sorted(given.keys() - asked.keys() - optional.keys()):
        raise BadInput(f"{path}: {', '.join(unknown)} is unknown, or is measured; remove it")
    if missing := [key for key in asked if not given.get(key)]:
        if write:
            write_atomic(path, _text(asked, optional, given))
        raise BadInput(f"{path} has no answer to {', '.join(missing)}; fill them in, then call the command again")
    if given["status"].lower() not in STATUSES:
        raise BadInput(f"{path}: status = {given['status']!r}: give {', '.join(STATUSES)}")
    return {**dict.fromkeys(optional, ""), **given}


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}; correct it, or delete it") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no keys with answers; correct it, or delete it and call the command again")
    return {str(key): _answer(path, key, value) for key, value in content.items()}


def _answer(path: Path, key: Any, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):  # a bare yes or no
        return "yes" if value else "no"
    if not isinstance(value, str | int | float):
        raise BadInput(f"{path}: {key} = {value!r}: give text or a number")
    return str(value).strip()


def _text(asked: Mapping[str, str], optional: Mapping[str, str], given: Mapping[str, str]) -> str:
    parts = [_HEAD, *_lines(asked, given), "\n# These may stay empty.\n", *_lines(optional, given)]
    return "".join(parts)


def _lines(questions: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    return [
        f"\n# {question}\n{key}: {json.dumps(given.get(key, ''), ensure_ascii=False)}\n"
        for key, question in questions.items()
    ]
