"""What the pages for readers show is done as they would do it, and comes out as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.guests import need_guests
from tests.support.pages import LANGUAGES, NAMED, Block, Reader, blocks, boots_a_guest

DOCS = Path(__file__).parents[2] / "docs"
FOLDERS = ("tutorial", "how-to", "explanation")
PAGES = [
    DOCS.parent / "README.md",
    *(DOCS / f"{name}.md" for name in ("index", "the-article", "comparison") if (DOCS / f"{name}.md").exists()),
    *(page for folder in FOLDERS for page in sorted((DOCS / folder).rglob("*.md"))),
]


def name(page: Path) -> str:
    return str(page.relative_to(DOCS.parent))


def shown(page: Path) -> list[Block]:
    """Return a page's blocks, without the directives of an index."""
    return [block for block in blocks(page.read_text()) if not block.language.startswith("{")]


def cases(pages: list[Path]) -> list[object]:
    """Return a parameter for each page that shows something; one that boots a guest is marked so."""
    marks = {page: [pytest.mark.guest] if boots_a_guest(page.read_text()) else [] for page in pages if shown(page)}
    return [pytest.param(page, id=name(page), marks=marks[page]) for page in marks]


@pytest.mark.parametrize("page", cases(PAGES))
@pytest.mark.timeout(900)
def test_what_a_page_shows_comes_out_as_it_says(page: Path, tmp_path: Path):
    if boots_a_guest(page.read_text()):
        need_guests()
    with Reader(tmp_path) as reader:
        for block in shown(page):
            try:
                reader.do(block)
            except BaseException as error:
                error.add_note(f"in the block at {name(page)}:{block.line}")
                raise


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_uses_only_what_is_checked_and_a_forge_shows(page: Path):
    text = page.read_text()
    assert [(block.line, block.language) for block in shown(page) if block.language not in LANGUAGES] == []
    assert not re.search(r"^ {0,3}~~~", text, re.MULTILINE), "blocks are fenced by backticks"
    if page.name != "index.md":
        assert not re.search(r"^(```\{|:::)", text, re.MULTILINE), "only an index has directives"


def test_links_of_the_pages_lead_somewhere():
    root = DOCS.parent
    pages = [*root.glob("*.md"), *DOCS.rglob("*.md"), root / "src/pyvirtio/README.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert len(links) > 20
    assert not [(page.name, link) for page, link in links if not (page.parent / link).exists()]


def test_a_page_is_read_as_it_is_written():
    text = "a\n```python\n# one.py\nx = 1\n```\n- b\n  ```console\n  $ one \\\n      two\n  out\n  $ three &\n  ```\n"
    saved, console = blocks(text)
    assert (saved.name, saved.line, console.line) == ("one.py", 3, 8)
    one, three = console.commands()
    assert (one.line, one.printed, one.in_background) == ("one \\\n    two", ["out"], False)
    assert (three.line, three.printed, three.in_background) == ("three &", [], True)
    assert [match[1] for match in map(NAMED.match, ["// a/b.c\n", "/* c.h */\n", "# Kbuild\n"]) if match] == [
        "a/b.c",
        "c.h",
        "Kbuild",
    ]
