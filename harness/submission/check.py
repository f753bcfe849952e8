"""Check a finished tree against the rules of a submission for this benchmark, one line for each rule.

It reads nothing but the tree. The rules are those that the official checker of round v6.1 applies to Llama-3.1-8B in
the datacenter, where they can be stated without its code; some are stricter, since that one takes Interactive for
Server and believes the text of TEST06.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput
from harness.files import read_json
from harness.submission import scenario_rules
from harness.submission.part import Part
from harness.submission.rules import (
    BENCHMARK,
    DIVISIONS,
    FILLED_SYSTEM_KEYS,
    MOST_FILE_BYTES,
    SCENARIOS,
    STATUSES,
    SYSTEM_KEYS,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One rule about one part of the tree; `problem` is None where it is met."""

    where: str
    rule: str
    problem: str | None = None

    def __str__(self) -> str:
        ending = "ok" if self.problem is None else f"NOT MET: {self.problem}"
        return f"{self.where}: {self.rule}: {ending}"


@dataclass(frozen=True, slots=True)
class Home:
    """The part of one submitter in one division, and one of its systems."""

    root: Path
    path: Path
    system: str

    @property
    def division(self) -> str:
        """closed, open or network."""
        return self.path.parent.name

    @property
    def benchmarks(self) -> Path:
        """The folder with a folder for each benchmark."""
        return self.path / "results" / self.system

    def description(self) -> dict[str, object]:
        """The content of systems/<system>.json; BadInput when it is missing or damaged."""
        path = self.path / "systems" / f"{self.system}.json"
        content = read_json(path, "system description")
        if not isinstance(content, dict):
            raise BadInput(f"{path} holds no object")
        return content


Rule = Callable[[Home], Iterator[str]]
"""The problems that a tree has with one rule."""


def check(root: Path) -> Iterator[Line]:
    """Check the tree in `root`, which holds `closed/` or `open/`.

    Raises:
        BadInput: it is no tree of a submission.
    """
    homes = [
        Home(root, submitter, system.name)
        for division in DIVISIONS
        for submitter in _folders(root / division)
        for system in _folders(submitter / "results")
    ]
    if not homes:
        raise BadInput(f"{root} holds no {' or '.join(DIVISIONS)}/SUBMITTER/results/SYSTEM; give the root of a tree")
    for home in homes:
        where = f"{home.division}/{home.path.name}/{home.system}"
        for rule, problems in RULES.items():
            yield _line(where, rule, lambda problems=problems, home=home: problems(home))  # type: ignore[misc]
        for name in SCENARIOS:
            folder = home.benchmarks / BENCHMARK / name
            if folder.is_dir():
                part = Part(folder, name, closed=home.division != "open")
                for rule, check_part in scenario_rules.rules(part).items():
                    yield _line(f"{where}/{name}", rule, lambda c=check_part, p=part: c(p))  # type: ignore[misc]


def _line(where: str, rule: str, problems: Callable[[], Iterator[str]]) -> Line:
    try:
        return Line(where, rule, "; ".join(problems()) or None)
    except (BadInput, OSError, ValueError) as error:
        return Line(where, rule, str(error))


def _root(home: Home) -> Iterator[str]:
    for entry in sorted(home.root.iterdir()):
        if entry.name not in DIVISIONS:
            yield f"{entry.name} is no division"


def _systems(home: Home) -> Iterator[str]:
    described = {path.stem for path in (home.path / "systems").glob("*.json")}
    measured = {path.name for path in _folders(home.path / "results")}
    for name in sorted(measured - described):
        yield f"systems/{name}.json is missing"
    for name in sorted(described - measured):
        yield f"systems/{name}.json has no results"


def _keys(home: Home) -> Iterator[str]:
    missing = [key for key in SYSTEM_KEYS if key not in home.description()]
    if missing:
        yield f"{', '.join(missing)} are missing"


def _filled(home: Home) -> Iterator[str]:
    description = home.description()
    empty = [key for key in FILLED_SYSTEM_KEYS if key in description and not description[key]]
    if empty:
        yield f"{', '.join(empty)} are empty"


def _status(home: Home) -> Iterator[str]:
    status = str(home.description().get("status")).lower()
    if status not in STATUSES:
        yield f"status is {status!r}; it must be {', '.join(STATUSES)}"


def _system_type(home: Home) -> Iterator[str]:
    kind = home.description().get("system_type")
    if kind not in ("datacenter", "edge", "datacenter,edge", "edge,datacenter"):
        yield f"system_type is {kind!r}; it must be datacenter, edge or both"


def _names(home: Home) -> Iterator[str]:
    description = home.description()
    for key, folder in (("submitter", home.path.name), ("division", home.division)):
        if str(description.get(key)).lower() != folder.lower():
            yield f"{key} is {description.get(key)!r}, the folder is {folder!r}"


def _network(home: Home) -> Iterator[str]:
    network = str(home.description().get("is_network", "false")).lower() == "true"
    if home.division != "open" and network is not (home.division == "network"):
        yield f"is_network is {network} in division {home.division}"


def _numbers(home: Home) -> Iterator[str]:
    description = home.description()
    for key in ("number_of_nodes", "accelerators_per_node", "host_processors_per_node", "host_processor_core_count"):
        if not str(description.get(key)).isdigit():
            yield f"{key} is {description.get(key)!r}, not a number"


def _documentation(home: Home) -> Iterator[str]:
    path = home.path / "documentation" / "calibration.md"
    if not path.is_file() or not path.stat().st_size:
        yield "documentation/calibration.md is missing or empty"


def _source(home: Home) -> Iterator[str]:
    if not any(path.is_file() for path in (home.path / "src").rglob("*")):
        yield "src/ is missing or empty"


def _files(home: Home) -> Iterator[str]:
    for path in sorted(home.root.rglob("*")):
        name = path.relative_to(home.root)
        if path.is_symlink():
            yield f"{name} is a link"
        elif path.name.startswith(".") or " " in path.name:
            yield f"{name} is hidden, or has a space in its name"
        elif path.is_dir() and not any(path.iterdir()):
            yield f"{name} is empty"
        elif path.is_file() and path.stat().st_size > MOST_FILE_BYTES:
            yield f"{name} has {path.stat().st_size} bytes, {MOST_FILE_BYTES} are allowed"


def _benchmarks(home: Home) -> Iterator[str]:
    for path in _folders(home.benchmarks):
        if path.name != BENCHMARK:
            yield f"{path.name} is not {BENCHMARK}"


def _scenarios(home: Home) -> Iterator[str]:
    scenarios = {path.name for path in _folders(home.benchmarks / BENCHMARK)}
    if unknown := sorted(scenarios - SCENARIOS.keys()):
        yield f"{', '.join(unknown)} is no scenario of this benchmark"
    if home.division != "open":
        if "Offline" not in scenarios:
            yield "Offline is missing"
        if not scenarios & {"Server", "Interactive"}:
            yield "Server or Interactive is missing"


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


RULES: dict[str, Rule] = {
    "only divisions lie in the root": _root,
    "each system has a description, and each description results": _systems,
    "the system's description has all keys": _keys,
    "the keys that need a value have one": _filled,
    "the status is known": _status,
    "the system's type is known": _system_type,
    "submitter and division are those of the folders": _names,
    "only the Network division is a network system": _network,
    "counts are numbers": _numbers,
    "calibration is documented": _documentation,
    "there is source code": _source,
    "no link, hidden file, space in a name, empty folder, or file over 50 MiB": _files,
    f"the benchmark is {BENCHMARK}": _benchmarks,
    "the required scenarios are there": _scenarios,
}
