"""Imports inside the package follow docs/architecture.md."""

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
    parts = [(re.findall(r"`(\w+)`", part), set(re.findall(r"`(\w+)`", imports))) for part, imports in rows]
    base, _ = parts[0]
    before = accumulate(({part} for part in base), set.union, initial=set[str]())
    return {**dict(zip(base, before, strict=False)), **{part: {*base, *imports} for [part], imports in parts[1:]}}


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


def test_the_table_has_every_part_and_only_refers_upwards() -> None:
    rows = table()
    assert set(rows) == PARTS
    above: set[str] = set()
    for part, imports in rows.items():
        assert imports <= above, part
        above.add(part)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_imports_only_what_the_table_allows(part: str) -> None:
    allowed = table()[part] | {part}
    files = [file for file, its_part in FILES.items() if its_part == part]
    assert [
        (file.name, imports) for file in files for imports in imported(file.read_text()) if imports not in allowed
    ] == []


def test_no_module_imports_what_its_own_package_defines_at_the_top() -> None:
    """A package's __init__ imports its modules, so importing back from there would be circular."""
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
def test_plugins_import_only_what_their_table_allows(folder: str) -> None:
    rows = re.findall(r"^\| `plugins/(\w+)` \| (.*?) ?\| .* \|$", DOCUMENT.read_text(), re.M)
    allowed = {name: set(re.findall(r"`(\w+)`", parts)) for name, parts in rows}[folder]
    own = [path for path in (PLUGINS / folder).glob("*.py") if not path.is_symlink()]
    assert own
    assert [
        (file.name, imports) for file in own for imports in imported(file.read_text()) if imports not in allowed
    ] == []
    links = [path for path in (PLUGINS / folder).iterdir() if path.is_symlink()]
    assert all(folder == "module_utils" and link.resolve().parent == PACKAGE for link in links)


def test_each_of_the_three_paths_names_at_most_six_files_that_refer_to_each_other() -> None:
    section = DOCUMENT.read_text().partition("## Three paths")[2].partition("\n## ")[0]
    paths = re.findall(r"^\| (?!what|--)[^|]+\| (.*) \|$", section, re.M)
    assert len(paths) == 3
    for path in paths:
        names = re.findall(r"`([\w/*]+\.(?:py|yml))`", path)
        assert 1 < len(names) <= 6, path
        matches = [[*REPOSITORY.glob(name), *PACKAGE.glob(name)] for name in names]
        assert all(matches), path
        files = [match[0] for match in matches]
        for position, file in enumerate(files[1:], 1):
            assert any(refers(before, file) or refers(file, before) for before in files[:position]), file


def refers(file: Path, other: Path) -> bool:
    """Whether a file names another one's module, group or task file."""
    return bool(re.search(rf"\b{other.stem}\b", file.read_text()))


@pytest.mark.parametrize("package", ["benchmark", "cluster", "report"])
def test_every_module_of_the_large_packages_is_described(package: str) -> None:
    section = DOCUMENT.read_text().partition(f"In `harness/{package}`")[2].partition("\n\nIn ")[0].partition("\n## ")[0]
    described = {name for row in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall(r"`(\w+)", row)}
    folder = PACKAGE / package
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert described - {"templates"} == modules - {"__init__"}


def test_the_document_names_every_file_that_nodes_get_with_their_modules() -> None:
    shipped = {link.resolve() for link in (PLUGINS / "module_utils").iterdir() if link.is_symlink()}
    assert shipped == {PACKAGE / name for name in re.findall(r"`harness/(\w+\.py)`", seam())}


def seam() -> str:
    """The paragraph about what stands between Ansible and Python on a node."""
    return DOCUMENT.read_text().partition("**The command line is the seam")[2].partition("\n\n")[0]
