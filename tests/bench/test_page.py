"""The writer of tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvirtio.errors import LocalError
from pyvirtio_bench.page import Table, replace_tables, write_page

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
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
    ratios = [f"{name}{metric}" for name in ("requests", "rounds") for metric in ("", "-cpu", "-absolute")]
    sizes = ["queue-size", "ring-size", "regions"]
    names = ["settings", *ratios, "async", "workers", *sizes, "ring", "memory", "start", "exact", "guest", "boot"]
    tables = [Table(name, "t", ["a"], [["1"]]) for name in names]
    replace_tables(PAGE.read_text(), tables)
