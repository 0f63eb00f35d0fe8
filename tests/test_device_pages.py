"""The pages of docs/devices/: each device has one; its commands are understood, its code is real or runs."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from pyvirtio.device import options
from pyvirtio.devices import SHIPPED
from tests.support.pages import blocks, moved, printed_by, run_python

PAGES = Path(__file__).parents[1] / "docs" / "devices"


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


BLOCKS = [(name, block.text) for name in SHIPPED for block in blocks(page(name), "python")]
EXCERPTS = [(name, text) for name, text in BLOCKS if "import " not in text]
PROGRAMS = [(name, text) for name, text in BLOCKS if "import " in text]


@pytest.mark.parametrize("name", SHIPPED)
def test_each_option_has_its_place_on_the_page_and_each_command_is_understood(name: str):
    module, _, attribute = SHIPPED[name].partition(":")
    known = options.parameters_of(getattr(import_module(module), attribute))
    text = page(name)
    assert [key for key in known if f"`{key}`" not in text and f"{key}=" not in text] == []
    commands = re.findall(rf"pyvirtio serve ({name}\S*)", text)
    assert commands
    for command in commands:
        assert options.split(command)[1].keys() <= known.keys(), command


@pytest.mark.parametrize(("name", "excerpt"), EXCERPTS)
def test_what_a_page_shows_of_a_device_is_in_its_source(name: str, excerpt: str):
    linked = re.findall(r"\]\(../../(\S+\.py)\)", page(name))
    source = "".join((PAGES.parents[1] / path).read_text() for path in linked)
    lines = {line.strip() for line in source.splitlines()}
    assert [line for line in map(str.strip, excerpt.splitlines()) if line and line not in lines] == []


@pytest.mark.parametrize(("name", "program"), PROGRAMS)
def test_what_a_page_shows_as_a_program_runs_and_prints_what_it_says(name: str, program: str, tmp_path: Path):
    assert run_python(moved(program, tmp_path), tmp_path) == printed_by(program)


def test_the_readme_lists_each_device():
    listed = re.findall(r"\[([a-z0-9]+)\]\(docs/devices/\1\.md\)", (PAGES.parents[1] / "README.md").read_text())
    assert sorted(listed) == sorted(SHIPPED)
