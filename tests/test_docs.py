"""The pages: what they link to exists, and they stay short."""

import re

import pytest
from conftest import ROOT

ROOMS = sorted(page for place in ("mer_jax", "data_prep") for page in (ROOT / place).glob("*/README.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "mer_jax/models/adding.md")),
    *sorted(page for place in ("configs", "launch", "tests") for page in (ROOT / place).rglob("README.md")),
    *(ROOT / place / "README.md" for place in ("mer_jax", "data_prep")),
    *ROOMS,
]


def prose(page):
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page):
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page):
    """The names under which GitHub lets a heading be linked to."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_point_at_what_exists(page):
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page}: {link}"
        assert not heading or heading in anchors(target), f"{page}: {link}"


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 110


def test_every_room_has_a_page_of_at_most_40_lines():
    assert len(ROOMS) >= 15
    for place in ("mer_jax", "data_prep"):
        rooms = {path.parent for path in (ROOT / place).glob("*/__init__.py")}
        assert rooms <= {page.parent for page in ROOMS}
    assert {page for page in ROOMS if len(page.read_text().splitlines()) > 40} == set()
