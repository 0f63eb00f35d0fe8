"""Tables, and the page of the documentation that holds them.

In the page, a table stands between two comments, and only what is between them is replaced::

    <!-- bench: start -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyvirtio.errors import LocalError
from pyvirtio_bench.picture import GOAL, draw, figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["GOAL", "Table", "read_tables", "replace_tables", "write_page"]


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        name: which one it is, as on the command line and in the page.
        title: what it shows, in a line.
        header: the titles of the columns.
        rows: the cells.
        data: the measurements behind it, for JSON.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    data: list[dict[str, Any]] = field(default_factory=list)

    def markdown(self) -> str:
        """Return it in Markdown, aligned so that it reads well on a terminal too.

        >>> print(Table("t", "What it is", ["a", "b"], [["long cell", "1"]]).markdown())
        What it is:
        <BLANKLINE>
        | a         | b |
        |-----------|---|
        | long cell | 1 |
        """
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]

        def line(cells: Iterable[str]) -> str:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            return f"| {' | '.join(padded)} |"

        rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
        return "\n".join([f"{self.title}:", "", line(self.header), rule, *map(line, self.rows)])

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"title": self.title, "header": list(self.header), "rows": [*map(list, self.rows)], "data": self.data}


def replace_tables(text: str, tables: Iterable[Table]) -> str:
    r"""Return the text of a page with these tables, each in its place.

    >>> page = "Before\n<!-- bench: t -->\nold\n<!-- end -->\nafter"
    >>> print(replace_tables(page, [Table("t", "New", ["a"], [["1"]])]))
    Before
    <!-- bench: t -->
    New:
    <BLANKLINE>
    | a |
    |---|
    | 1 |
    <!-- end -->
    after

    Raises:
        LocalError: the page has no place for one of them.
    """
    for table in tables:
        place = re.compile(rf"(<!-- bench: {re.escape(table.name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        new = f"{table.markdown()}\n"
        text, number = place.subn(lambda found, new=new: f"{found[1]}{new}{found[2]}", text)  # type: ignore[misc]
        if not number:
            raise LocalError(f"the page has no place for the table; add <!-- bench: {table.name} --> and <!-- end -->")
    return text


def read_tables(text: str) -> dict[str, list[list[str]]]:
    r"""Return the tables of a page by name: the cells of each, the header first.

    >>> read_tables("<!-- bench: t -->\nNew:\n\n| a |\n|---|\n| 1 |\n<!-- end -->")
    {'t': [['a'], ['1']]}
    """
    found = {}
    for name, content in re.findall(r"<!-- bench: (\S+) -->\n(.*?)<!-- end -->", text, re.DOTALL):
        lines = [line for line in content.splitlines() if line.startswith("|") and not line.startswith("|--")]
        found[name] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return found


def write_page(path: Path, tables: Iterable[Table]) -> None:
    """Replace the tables of a page, and draw the picture beside it from all that the page then has.

    Raises:
        LocalError: the page cannot be read, or has no place for a table.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise LocalError(f"the page {path} cannot be read: {error.strerror}; name another with --write PATH") from error
    text = replace_tables(text, tables)
    path.write_text(text)
    path.with_suffix(".svg").write_text(draw(figures(read_tables(text))))
