"""What the README shows must run."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
PACKAGE = Path(__file__).parents[1] / "src" / "pyvirtio"


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_device_and_driver_of_the_readme_run(capsys):
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks():
        exec(compile(block, "README.md", "exec"), namespace)
    assert capsys.readouterr().out == "42\n"


def test_device_of_the_readme_is_as_short_as_it_says():
    assert len(blocks()[0].splitlines()) <= 20


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text())
    assert links
    assert not [link for link in links if not (README.parent / link).exists()]


def test_picture_shows_every_room():
    describe = re.search(r"```mermaid\n(.*?)```", README.read_text(), re.DOTALL)
    assert describe
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    drawn = set(re.findall(r"\b(\w+)\[\"", describe[1]))
    assert rooms <= drawn
