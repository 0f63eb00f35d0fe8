"""The writer of tables."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from pyvirtio.errors import LocalError
from pyvirtio_bench.page import Table, read_tables, replace_tables, write_page
from pyvirtio_bench.picture import LEFT, RIGHT, WIDTH, Figure, draw, figures

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
COMPARED = Table(
    "one",
    "Compared",
    ["back-ends", "time", "one", "32 kept", "128 kept"],
    [
        ["a & b ÷ c", "clock", "1.00 (0.9-1.1)", "1.50 (1.4-1.6)", "9.00 (8.0-10.0)"],
        ["", "goal", "", "≤ 2", "≤ 2"],
        ["d ÷ c", "clock", "1.00 (0.9-1.1)", "-", "-"],
    ],
)
NEW = Table("one", "New", ["name", "µs"], [["x", "1.5"], ["longer", "20"]])


def test_only_what_is_between_the_comments_changes():
    page = "# Title\n<!-- bench: one -->\nold\n<!-- end -->\nkept\n<!-- bench: two -->\nkept too\n<!-- end -->\n"
    written = replace_tables(page, [NEW])
    assert written == page.replace("old\n", f"{NEW.markdown()}\n")
    assert replace_tables(written, [NEW]) == written


def test_backslashes_in_cells_are_not_patterns():
    table = Table("one", "New", ["a"], [["\\1 \\g<0>"]])
    assert "\\1 \\g<0>" in replace_tables("<!-- bench: one -->\n<!-- end -->", [table])


def test_a_page_without_a_place_is_refused_before_it_is_written(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(LocalError, match="no place for the table; add <!-- bench: one -->"):
        write_page(page, [NEW])
    assert page.read_text() == "nothing\n"
    with pytest.raises(LocalError, match="cannot be read"):
        write_page(tmp_path / "none.md", [NEW])


def test_columns_line_up():
    lines = NEW.markdown().splitlines()[2:]
    assert len({len(line) for line in lines}) == 1


def test_the_project_has_a_place_for_every_table():
    written = read_tables(PAGE.read_text())
    pairs = [f"{name}{kind}" for name in ("factorial", "echo", "block", "direct") for kind in ("", "-times")]
    assert written.keys() >= {
        "settings",
        *pairs,
        "queue-size",
        "regions",
        "memory",
        "start",
        "guest",
        "fio",
        "net",
        "boot",
        "waiting",
        "kick",
    }


def test_the_projects_picture_shows_what_its_page_says():
    assert PAGE.with_suffix(".svg").read_text() == draw(figures(read_tables(PAGE.read_text())))


def test_the_picture_is_written_beside_the_page(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench: one -->\n<!-- end -->\n")
    write_page(page, [COMPARED])
    picture = ElementTree.parse(tmp_path / "page.svg").getroot()
    marks = [element.get("class") for element in picture.iter("{http://www.w3.org/2000/svg}circle")]
    assert marks == ["met", "missed"]
    texts = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"one: a & b ÷ c", "32 kept", "1.50, 2", "9.00, 2"} <= texts


def test_figures_come_from_rows_that_a_row_of_goals_follows():
    found = figures({"one": [COMPARED.header, *COMPARED.rows], "two": [["a"], ["1"]]})
    assert [(figure.title, figure.median, figure.goal, figure.met) for figure in found] == [
        ("32 kept", 1.5, 2.0, True),
        ("128 kept", 9.0, 2.0, False),
    ]


def test_what_lies_outside_the_axis_is_at_its_end():
    low, high = (draw([Figure("g", "t", value, value, value, 1)]) for value in (1e-9, 1e9))
    assert f'cx="{LEFT}.0"' in low
    assert f'cx="{WIDTH - RIGHT}.0"' in high
