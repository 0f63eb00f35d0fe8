"""SVG by hand: what every picture of this repository begins with, and its words."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable


def document(size: tuple[int, int], title: str, style: str, body: Iterable[str], desc: str = "") -> str:
    """Return a picture of that width and height. ``title`` and ``desc`` are what a screen reader says.

    >>> print(document((8, 4), "A dot", "", ['<circle r="1"/>'], "It is small."), end="")
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 4" role="img">
    <title>A dot</title>
    <desc>It is small.</desc>
    <style></style>
    <circle r="1"/>
    </svg>
    """
    width, height = size
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        *([f"<desc>{escape(desc)}</desc>"] if desc else []),
        f"<style>{style}</style>",
        *body,
        "</svg>",
        "",
    ]
    return "\n".join(lines)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    """Return words at a place; ``kind`` is the class of their style, ``anchor`` "middle" or "end".

    >>> text(8, 20, "1 < 2", "number", "end")
    '<text class="number" x="8" y="20" text-anchor="end">1 &lt; 2</text>'
    """
    first = f' class="{kind}"' if kind else ""
    last = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text{first} x="{x}" y="{y}"{last}>{escape(words)}</text>'
