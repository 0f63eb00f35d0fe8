"""The manual pages, as those programs read them that show them."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvirtio.cli.main import parser_for
from pyvirtio.cli.usage import every
from pyvirtio.vm.guest_packages import GUEST
from tests.support.peers import Packages, Peers

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools/generate-man"))
MANDOC = Packages(GUEST, ("mandoc",), ())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(map(Path, TOOL["write"](tmp_path_factory.mktemp("man"))))


def shown(page: Path) -> str:
    """Return a page as somebody reads it."""
    text = Peers.of(MANDOC).run("usr/bin/mandoc", "-T", "utf8", "-O", "width=200", str(page))
    return re.sub(r".\x08", "", text)  # bold is a sign that is printed twice


def test_each_command_has_a_page_with_all_of_its_options_and_examples(pages: list[Path]):
    by_name = {page.name: page for page in pages}
    parsers = list(every(parser_for()))
    assert len(by_name) == len(parsers) > 15
    for parser in parsers:
        text = shown(by_name[f"{TOOL['name_of'](parser)}.1"])
        assert [name for one in parser._actions for name in one.option_strings if f"{name}" not in text] == []
        assert [typed for typed, _ in parser.examples if typed not in text] == []


def test_mandoc_finds_nothing_to_warn_of(pages: list[Path]):
    found = Peers.of(MANDOC).run("usr/bin/mandoc", "-T", "lint", "-W", "warning", *map(str, pages))
    assert found == ""


def test_groff_finds_nothing_to_warn_of(pages: list[Path]):
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("there is no groff")
    for page in pages:
        done = subprocess.run([groff, "-ww", "-z", "-man", "-Tutf8", page], capture_output=True, text=True, check=True)
        assert done.stderr == ""


def test_text_is_not_taken_for_a_command_of_the_formatter(tmp_path: Path):
    page = tmp_path / "odd.1"
    text = r".TH isn't `a --command`, C:\new is a path, and ä is a letter"
    page.write_text(f".TH ODD 1 2026-01-01\n.SH NAME\nodd \\- odd\n.SH TEXT\n{TOOL['roff'](text)}\n")
    assert text.replace("`", "") in shown(page)


def test_the_date_is_that_of_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    for page in map(Path, TOOL["write"](tmp_path)):
        assert " 1 1970-01-02 " in page.read_text().splitlines()[0]
