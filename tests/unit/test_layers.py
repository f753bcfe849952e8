"""Imports inside the package go the way that docs/architecture.md says."""

import ast
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "harness"
DOCUMENT = REPOSITORY / "docs" / "architecture.md"
FILES = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
PARTS = set(FILES.values()) - {"__init__"}


def table() -> dict[str, set[str]]:
    """Part of the package -> the parts it may import, in the order of the document's table."""
    rows = re.findall(r"^\| (`(?!plugins/).*?) \| (.*?) ?\| .* \|$", DOCUMENT.read_text(), re.M)
    named = [(re.findall(r"`(\w+)`", part), set(re.findall(r"`(\w+)`", imports))) for part, imports in rows]
    ground, _ = named[0]
    before = accumulate(({part} for part in ground), set.union, initial=set[str]())
    return {**dict(zip(ground, before, strict=False)), **{part: {*ground, *seen} for [part], seen in named[1:]}}


def imported(source: str) -> Iterator[str]:
    """The parts of the package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = f"{name}.".partition(".")
            part = rest.partition(".")[0]
            if top == "harness" and part in PARTS:
                yield part


def test_the_table_has_every_part_and_only_looks_upwards() -> None:
    rows = table()
    assert set(rows) == PARTS
    above: set[str] = set()
    for part, seen in rows.items():
        assert seen <= above, part
        above.add(part)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_imports_what_the_table_allows(part: str) -> None:
    allowed = table()[part] | {part}
    files = [file for file, its_part in FILES.items() if its_part == part]
    assert [(file.name, seen) for file in files for seen in imported(file.read_text()) if seen not in allowed] == []


def test_no_module_imports_what_its_own_package_defines_at_the_top() -> None:
    """A package's __init__ imports its modules, so a module that imports back from there is a circle."""
    circles = []
    for path in (path for path in FILES if path.name != "__init__.py"):
        package = path.parent
        modules = {entry.stem for entry in package.iterdir()}
        own = ".".join(package.relative_to(REPOSITORY).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == own:
                circles += [(path.name, alias.name) for alias in node.names if alias.name not in modules]
    assert circles == []


def test_imports_are_found_in_every_form() -> None:
    source = "import harness.node.gpu\ndef f():\n from harness import engine, __version__\n from harness.cli.x import y"
    assert sorted(imported(source)) == ["cli", "engine", "node"]


PLUGINS = REPOSITORY / "plugins"


@pytest.mark.parametrize("folder", sorted(path.name for path in PLUGINS.iterdir() if path.is_dir()))
def test_plugins_import_what_their_table_allows(folder: str) -> None:
    rows = re.findall(r"^\| `plugins/(\w+)` \| (.*?) ?\| .* \|$", DOCUMENT.read_text(), re.M)
    allowed = {name: set(re.findall(r"`(\w+)`", parts)) for name, parts in rows}[folder]
    own = [path for path in (PLUGINS / folder).glob("*.py") if not path.is_symlink()]
    assert own
    assert [(file.name, seen) for file in own for seen in imported(file.read_text()) if seen not in allowed] == []
    links = [path for path in (PLUGINS / folder).iterdir() if path.is_symlink()]
    assert all(folder == "module_utils" and link.resolve().parent == PACKAGE for link in links)
