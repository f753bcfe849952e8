"""Documentation: relative links and their anchors exist, and docs/settings.md lists every setting."""

import re
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from harness.assets import published_files, published_sizes
from harness.benchmark.public_settings import PUBLIC
from harness.report.evidence.models import PUBLISHED_BYTES, PUBLISHED_WEIGHTS
from harness.spec import Limits
from tests.conftest import REPOSITORY

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "container/*.md", "tests/**/*.md")
    for path in REPOSITORY.glob(pattern)
)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_exist(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](page.md#one-heading) [b](#another) [c](gone.md) [d](https://example.org/x#y)\n")
    assert broken_links(page) == ["#another", "gone.md"]


def make_targets(text: str) -> set[str]:
    """The targets that a page calls make with, before settings, in a line of a code block or between backquotes."""
    blocks = "\n".join(re.findall(r"^```.*?^```", text, re.M | re.S))
    calls = re.findall(r"`make ([^`]+)`", text) + re.findall(r"^make ([^#\n]+)", blocks, re.M)
    return {word for call in calls for word in takewhile(lambda word: "=" not in word, call.split())}


def test_what_pages_call_make_with_is_a_target() -> None:
    targets = set(re.findall(r"^([\w-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.M))
    assert {page.name: unknown for page in PAGES if (unknown := make_targets(page.read_text()) - targets)} == {}


def test_calls_of_make_are_found() -> None:
    page = 'to make sense, run `make lint unit`\n```\nmake live x="a b" # make ready\nmake it\n```\nmake way\n'
    assert make_targets(page) == {"lint", "unit", "live", "it"}


def test_the_settings_page_lists_every_setting_and_no_other() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (REPOSITORY / "docs" / "settings.md").read_text(), re.M)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    role = yaml.safe_load((REPOSITORY / "roles" / "harness" / "meta" / "argument_specs.yml").read_text())
    site_roles = {path.name for path in (REPOSITORY / "roles").iterdir()} - {"harness", "results"}
    assert listed == {*PUBLIC, *role["argument_specs"]["main"]["options"], *Limits.model_fields, *site_roles}


def test_the_published_models_hashes_are_those_that_are_checked() -> None:
    text = (REPOSITORY / "docs/results.md").read_text()
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|$", text, re.M)
    files, sizes = published_files(), published_sizes()
    assert {name: sha256 for name, _, sha256 in rows}.items() <= files.items()
    listed = {sha256: int(size.replace(",", "")) for name, size, sha256 in rows if name != "tokenizer.json"}
    assert listed == sizes
    assert f"`{PUBLISHED_WEIGHTS}`" in text and f"{PUBLISHED_BYTES:,} bytes" in text
