"""The picture of the rooms in src/pyvirtio/README.md is what the imports are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.support.pages import blocks

PACKAGE = Path(__file__).parents[1] / "src" / "pyvirtio"
[PICTURE] = [block.text for block in blocks((PACKAGE / "README.md").read_text(), "mermaid")]


def rooms() -> set[str]:
    return {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} | {"guest"}


@cache
def imports_of(room: str) -> set[str]:
    nodes = [node for file in (PACKAGE / room).rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {module.split(".")[1] for module in modules if module.startswith("pyvirtio.")} - {room}


def test_the_picture_shows_every_room():
    drawn = set(re.findall(r"\b(\w+)\[\"", PICTURE))
    assert drawn == rooms()


def test_each_arrow_of_the_picture_is_an_import_and_each_import_lies_along_arrows():
    lines = [re.sub(r'\[".*?"\]', "", line) for line in PICTURE.splitlines()]
    arrows = {tuple(line.replace(" ", "").split("-->")) for line in lines if "-->" in line}
    below = {room: {target for source, target in arrows if source == room} for room in rooms()}
    assert not [(source, target) for source, target in arrows if target not in imports_of(source)]

    @cache
    def reachable(room: str) -> set[str]:
        return below[room].union(*map(reachable, below[room]))

    hidden = {room: (imports_of(room) & rooms()) - reachable(room) for room in rooms()}
    assert not {room: missing for room, missing in hidden.items() if missing}
