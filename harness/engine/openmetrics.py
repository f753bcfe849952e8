"""The few lines of a Prometheus text page that matter here, read without parsing the other six hundred."""

import re
from collections.abc import Iterable, Iterator

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def values(page: str, names: Iterable[str]) -> dict[str, list[float]]:
    """The values of each named metric over all its label sets; a metric that is not there is left out."""
    found: dict[str, list[float]] = {}
    for name in names:
        for line in _lines(page, name):
            try:
                found.setdefault(name, []).append(float(line.rsplit(" ", 1)[1]))
            except (IndexError, ValueError):
                continue
    return found


def labels(page: str, name: str) -> dict[str, str]:
    """The labels of a metric's first line; empty when it is not there."""
    for line in _lines(page, name):
        return dict(_LABEL.findall(line))
    return {}


def has_prefix(page: str, prefix: str) -> bool:
    """Whether any metric's name begins with `prefix`."""
    return f"\n{prefix}" in f"\n{page}"


def _lines(page: str, name: str) -> Iterator[str]:
    page = f"\n{page}\n"
    start = page.find(f"\n{name}")
    while start >= 0:
        line = page[start + 1 : page.find("\n", start + 1)]
        if line[len(name) : len(name) + 1] in ("{", " "):
            yield line
        start = page.find(f"\n{name}", start + 1)
