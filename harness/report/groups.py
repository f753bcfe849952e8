"""Many nodes on one page: equal ones together, outliers by name."""

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

from harness.report.formats import number
from harness.report.record import Node, Result

T = TypeVar("T")
MANY = 9
"""So many nodes are grouped; fewer are shown one by one."""
_NAMED = 3
_ODD = 0.1  # part of the median speed by which an odd node is slower or faster
_MOST_ODD = 6
_NUMBER = re.compile(r"\d[\d,.]*")


def names(listed: Sequence[str]) -> str:
    """Names as a list, of which the last are counted where they are many."""
    if len(listed) < MANY:
        return ", ".join(listed)
    return f"{', '.join(listed[:_NAMED])} and {len(listed) - _NAMED} more"


def shown(nodes: Sequence[Node]) -> list[tuple[str, Node]]:
    """The nodes that have a row of their own, each with what it is called there.

    Of many these are the slowest, the median and the fastest, and a few of those that are more than a tenth off the
    median or have no speed.
    """
    if len(nodes) < MANY:
        return [(node.name, node) for node in nodes]
    speeds = {node.name: node.figures.samples_per_s for node in nodes}
    ranked = sorted((node for node in nodes if speeds[node.name]), key=lambda node: speeds[node.name] or 0.0)
    unmeasured = [(f"{node.name}, not measured", node) for node in nodes if not speeds[node.name]]
    if not ranked:
        return unmeasured[:_MOST_ODD]
    middle = median(speeds[node.name] or 0.0 for node in ranked)
    off = {node.name: (speeds[node.name] or 0.0) / middle - 1 for node in ranked}
    inner = sorted(ranked[1:-1], key=lambda node: -abs(off[node.name]))
    odd = [node for node in inner if abs(off[node.name]) > _ODD]
    named = [(f"{node.name}, {100 * off[node.name]:+.0f} % of the median", node) for node in odd[:_MOST_ODD]]
    typical = ranked[(len(ranked) - 1) // 2]
    rows = [(f"{ranked[0].name}, slowest of {len(ranked)}", ranked[0]), *named]
    if typical not in (ranked[0], ranked[-1], *odd[:_MOST_ODD]):
        rows.append((f"{typical.name}, median", typical))
    return [*unmeasured[:_MOST_ODD], *rows, (f"{ranked[-1].name}, fastest", ranked[-1])]


def merged(
    items: Sequence[T],
    text: Callable[[T], str],
    result: Result,
    node: Callable[[T], str | None] = lambda item: None,
) -> list[tuple[T, str]]:
    """Each item with its sentence; where nodes are many, those that say the same of many nodes are one of them."""
    if len(result.nodes) < MANY:
        return [(item, text(item)) for item in items]
    known = {engine.name: one.name for one in result.nodes for engine in one.engines}
    known |= {one.name: one.name for one in result.nodes}
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(known, key=len, reverse=True)))})\b")
    groups: dict[str, list[tuple[T, str]]] = {}
    for item in items:
        sentence = text(item)
        key = _NUMBER.sub("#", pattern.sub("@", sentence))
        if not (node(item) or pattern.search(sentence)):
            key = sentence  # about no node
        groups.setdefault(key, []).append((item, sentence))
    lines: list[tuple[T, str]] = []
    for group in groups.values():
        if len(group) <= _NAMED:
            lines += group
            continue
        first, sentence = group[0]
        others = [node(item) or known[pattern.findall(line)[0]] for item, line in group[1:]]
        own = "" if len({pattern.sub("@", line) for _, line in group}) == 1 else ", with figures of their own"
        lines.append((first, f"{sentence.rstrip('.')}. Likewise{own}: {names(others)}"))
    return lines


def columns(rows: Sequence[Sequence[str]], result: Result, is_reading: Callable[[str], bool]) -> list[list[str]]:
    """A table with a column for each node, where nodes are many with one for all that are equal.

    Nodes are equal where all of their rows are, but for their own names and those of which `is_reading`; of a reading
    the lowest and the highest is shown.
    """
    if len(result.nodes) < MANY:
        return [list(row) for row in rows]
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, node in enumerate(result.nodes, 1):
        own = sorted({node.name, *(engine.name for engine in node.engines)}, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, own)))
        key = tuple(pattern.sub("@", row[place]) for row in rows[1:] if not is_reading(row[0]))
        groups.setdefault(key, []).append(place)
    grouped = sorted(groups.values(), key=len)
    table = []
    for row in rows:
        cells = [[row[place] for place in places] for places in grouped]
        if row is rows[0]:
            table.append([row[0], *(one[0] if len(one) == 1 else f"{len(one)} nodes: {names(one)}" for one in cells)])
        else:
            table.append([row[0], *(_span(one) if is_reading(row[0]) else one[0] for one in cells)])
    return table


def speeds(by_engine: Mapping[str, float]) -> str:
    """The calibrated speed of each engine; of many the slowest and the fastest."""
    if len(by_engine) < MANY:
        return ", ".join(f"{name} {number(speed)}" for name, speed in by_engine.items())
    ranked = sorted(by_engine.items(), key=lambda pair: pair[1])
    (slowest, low), (fastest, high) = ranked[0], ranked[-1]
    middle = number(median(by_engine.values()))
    return f"{len(ranked)} engines: slowest {slowest} {number(low)}, median {middle}, fastest {fastest} {number(high)}"


def parts(result: Result) -> list[str]:
    """What each node issued and why, a sentence each; where nodes are many, one for all that it is true of."""
    groups: dict[str, list[str]] = {}
    for node in result.nodes:
        issued = f" issued samples {node.share.start} to {node.share.stop - 1}" if node.share else ""
        why = f"{', because ' if node.share else ': '}{node.why}" if node.why else ""
        if issued or why:
            # A number that is all that differs, such as a part in percent, belongs to the first of them.
            key = _NUMBER.sub("#", why) if not issued else issued + why
            groups.setdefault(key if len(result.nodes) >= MANY else node.name, []).append(f"{node.name}{issued}{why}.")
    return [sentences[0] if len(sentences) == 1 else _likewise(sentences) for sentences in groups.values()]


def _likewise(sentences: Sequence[str]) -> str:
    others = [sentence.partition(":")[0] for sentence in sentences[1:]]
    return f"{sentences[0]} Likewise {names(others)}."


def _span(cells: Sequence[str]) -> str:
    """The lowest and the highest reading."""
    ordered = sorted(set(cells), key=_first_number)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _first_number(text: str) -> float:
    match = _NUMBER.match(text)
    return float(match[0].replace(",", "")) if match else -1.0
