"""Colours and marks that all pictures share. They have a ground of their own, so they can be read on any page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pictures.svg import document

if TYPE_CHECKING:
    from collections.abc import Iterable

LIGHT = {
    "ground": ("#ffffff", "#d1d9e0"),
    "cell": ("#ffffff", "#c2cad2"),
    "driver": ("#ddf0ff", "#0860ca"),
    "device": ("#ffeddf", "#b34800"),
    "other": ("#eef1f4", "#59636e"),
    "changed": ("#fff3b0", "#7d5600"),
}
DARK = {
    "ground": ("#0d1117", "#3d444d"),
    "cell": ("#0d1117", "#4d555e"),
    "driver": ("#10304f", "#6cb6ff"),
    "device": ("#42240f", "#f5a15c"),
    "other": ("#21262d", "#9198a1"),
    "changed": ("#574400", "#f2cc60"),
}
WORDS = {"light": ("#1f2328", "#59636e"), "dark": ("#f0f6fc", "#9ea7b0")}


def _colours(kinds: dict[str, tuple[str, str]], words: tuple[str, str]) -> str:
    strong, faint = words
    rules = [f"text {{ fill: {strong} }}", f".faint {{ fill: {faint} }}"]
    for kind, (fill, stroke) in kinds.items():
        rules.append(f".{kind} {{ fill: {fill}; stroke: {stroke} }}")
        rules.append(f"text.{kind}, .{kind}.tip {{ fill: {stroke}; stroke: none }}")
    return "\n".join(rules)


STYLE = f"""
text {{ font: 14px system-ui, sans-serif }}
.title {{ font-weight: 600; font-size: 16px }}
.head, text.changed {{ font-weight: 600 }}
.mono {{ font-family: ui-monospace, monospace; font-size: 13px }}
.line {{ fill: none; stroke-width: 2 }}
{_colours(LIGHT, WORDS["light"])}
.line {{ fill: none }}
@media (prefers-color-scheme: dark) {{
{_colours(DARK, WORDS["dark"])}
.line {{ fill: none }}
}}
"""


def picture(size: tuple[int, int], title: str, desc: str, body: Iterable[str]) -> str:
    """Return a whole picture."""
    width, height = size
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>'
    return document(size, title, STYLE, [ground, *body], desc)


def box(x: float, y: float, width: float, height: float, kind: str, rounding: int = 0) -> str:
    """Return a rectangle."""
    corners = f' rx="{rounding}"' if rounding else ""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}"{corners}/>'


def arrow(start: tuple[float, float], end: tuple[float, float], kind: str, *, both: bool = False) -> list[str]:
    """Return a horizontal or vertical line with a tip at its end, or at both of its ends."""
    (x1, y1), (x2, y2) = start, end
    along = ((x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1))
    tips = [_tip(end, along, kind), *([_tip(start, (-along[0], -along[1]), kind)] if both else [])]
    return [f'<line class="{kind} line" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>', *tips]


def _tip(point: tuple[float, float], along: tuple[int, int], kind: str) -> str:
    (x, y), (dx, dy) = point, along
    across = (-dy, dx)
    base = (x - 9 * dx, y - 9 * dy)
    corners = [(x, y), *((base[0] + 5 * s * across[0], base[1] + 5 * s * across[1]) for s in (1, -1))]
    return f'<path class="{kind} tip" d="M{" L".join(f"{px:g} {py:g}" for px, py in corners)} Z"/>'
