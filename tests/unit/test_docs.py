"""Documentation: relative links and their anchors exist, and docs/settings.md lists every setting."""

import re
from pathlib import Path

import pytest
import yaml

from harness.benchmark.public_settings import PUBLIC
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
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](page.md#one-heading) [b](#another) [c](gone.md) [d](https://example.org/x#y)\n")
    assert broken_links(page) == ["#another", "gone.md"]


def test_the_settings_page_lists_every_setting_and_no_other() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (REPOSITORY / "docs" / "settings.md").read_text(), re.M)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    role = yaml.safe_load((REPOSITORY / "roles" / "harness" / "meta" / "argument_specs.yml").read_text())
    site_roles = {path.name for path in (REPOSITORY / "roles").iterdir()} - {"harness", "results"}
    assert listed == {*PUBLIC, *role["argument_specs"]["main"]["options"], *Limits.model_fields, *site_roles}
