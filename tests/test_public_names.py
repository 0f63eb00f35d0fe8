"""The public names: each is there and is documented, and what people are shown uses no others.

docs/stability.md says which rooms they are in.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pyvirtio
from pyvirtio import errors
from tests.support.pages import ROOT, public_packages

if TYPE_CHECKING:
    from types import ModuleType

ROOMS = public_packages()[1:]
OPEN = {"pyvirtio.devices", "pyvirtio.drivers"}  # public is what their modules define
INSIDE = ROOT / "docs" / "explanation"
"""Pages that show what is inside."""


def test_every_public_name_comes_from_one_room():
    offered = [name for names in pyvirtio._ROOMS.values() for name in names]
    assert sorted(offered) == sorted(pyvirtio.__all__)


@pytest.mark.parametrize("name", pyvirtio.__all__)
def test_a_public_name_is_documented_in_the_package_and_where_it_is_defined(name):
    assert name in re.findall(r"`(\w+)`", pyvirtio.__doc__ or "")
    assert getattr(pyvirtio, name).__doc__


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Divice"):
        pyvirtio.Divice  # noqa: B018  # the access is the test


def test_importing_the_package_imports_none_of_its_rooms():
    program = "import sys, pyvirtio; print([name for name in sys.modules if name.startswith('pyvirtio.')])"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_public_rooms_are_there():
    assert len(ROOMS) > 10
    assert len(set(ROOMS)) == len(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_public_room_says_which_of_its_names_are_public_and_documents_them(room: str):
    module = import_module(room)
    names = public_names(module)
    assert module.__doc__
    assert len(set(names)) == len(names) > 0
    silent = [name for name in names if not documented(getattr(module, name))]
    assert silent == []


def public_names(module: ModuleType) -> list[str]:
    """Return what a module lists, or else defines without an underscore."""
    own = [name for name in sorted(defined_in(module.__file__ or "")) if not name.startswith("_")]
    return list(getattr(module, "__all__", own))


def documented(thing: object) -> bool:
    return not (inspect.isclass(thing) or inspect.isfunction(thing)) or bool(thing.__doc__)


def test_every_error_is_public():
    found = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert found == set(errors.__all__)


def is_public(module: str, name: str) -> bool:
    """Return whether a name may be imported from there by those who want to be able to update."""
    if module == "pyvirtio":
        return name in pyvirtio.__all__
    return (module in ROOMS or module.rpartition(".")[0] in OPEN) and name in public_names(import_module(module))


def defined_in(file: str) -> set[str]:
    """Return the names that a file gives to something of its own, and does not import."""
    found = set()
    for node in ast.parse(Path(file).read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


def shown() -> list[tuple[str, str]]:
    """Return the programs that people are shown: those in the README, in docs/, and in examples/."""
    pages = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent != INSIDE)]
    blocks = [
        (str(page.relative_to(ROOT)), block)
        for page in pages
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    ]
    return blocks + [
        (str(path.relative_to(ROOT)), path.read_text()) for path in sorted((ROOT / "examples").glob("*.py"))
    ]


def test_what_people_are_shown_uses_public_names_only():
    imported = [
        (place, node.module, alias.name)
        for place, program in shown()
        if "from pyvirtio" in program  # others are excerpts
        for node in ast.walk(ast.parse(textwrap.dedent(program)))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "pyvirtio"
        for alias in node.names
    ]
    assert len(imported) > 30
    assert [one for one in imported if not is_public(*one[1:])] == []
