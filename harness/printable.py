"""Text from nodes, logs and servers made fit for terminals, XML and reports."""

import re
from typing import Any

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
# Control characters but tab and newline, halves of surrogate pairs, and what XML does not allow.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(value: Any) -> Any:
    """The same text without terminal escapes, and with U+FFFD for other control characters.

    Tuples, lists and mappings are gone through, keys as well; other values stay as they are.
    """
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", _ESCAPES.sub("", value))
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(printable, value))
    return value
