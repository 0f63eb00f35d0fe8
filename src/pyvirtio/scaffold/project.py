"""Makes a project: a folder with a device, its tests, what runs them, and where it needs one a driver for Linux.

The files are in ``templates``: ``all`` are in every project, ``driver`` in those with a driver of their own for Linux,
``stock`` in those for which Linux has one, and the rest belongs to one kind.
"""

from __future__ import annotations

import keyword
import re
import shlex
import string
import sys
from pathlib import Path

from pyvirtio.errors import LocalError, UsageError
from pyvirtio.host.loader import DeviceLoader
from pyvirtio.scaffold.c_header import c_header
from pyvirtio.scaffold.c_names import Names
from pyvirtio.scaffold.kinds import DEFAULT, KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyvirtio.scaffold.kinds import Kind

TEMPLATES = Path(__file__).parent / "templates"
LONGEST_NAME = 24  # letters, so that no line with it is too long
TAKEN = frozenset({"pyvirtio", "pytest", "demo", "tests", "linux", "build", "conftest"})
"""Modules that a project has, or imports, beside its device."""

RENAMED = {"gitignore": ".gitignore"}  # whoever packs templates leaves out what is hidden
PROGRAM = "linux/ask.py"
DESCRIPTIONS = {
    "{{name}}.py": "the device",
    "{{name}}_driver.py": "its driver in Python",
    "demo.py": "what `make run` does",
    "guest.sh": "what `make guest` runs in the guest",
    "tests/": "in one process, over a socket, in a guest",
    "linux/{{name}}.c, linux/Kbuild": "its driver for Linux",
    "linux/{{name}}.h": "the device's structures in C, made from `{{name}}.py`",
    PROGRAM: "the program in the guest",
}
HEADER_RULE = """
linux/{{name}}.h: {{name}}.py
	$(pyvirtio) header {{name}}.py:{{Name}} --output $@
"""


class Page(string.Template):
    """A template whose placeholders look like ``{{name}}``, which neither Python nor C, make or the shell use."""

    delimiter = "{{"
    pattern = r"\{\{(?:(?P<braced>[A-Za-z_]+)\}\}|(?P<escaped>(?!))|(?P<named>(?!))|(?P<invalid>))"  # type: ignore[assignment]  # a compiled one replaces it


def create(name: str, like: str = DEFAULT, parent: Path | None = None) -> Path:
    """Make the project ``name`` in a folder of that name, and return the folder.

    Args:
        name: what the device's module and, in C, everything about it is called.
        like: the shipped device that it is like; see `KINDS`.
        parent: where the folder is made; the working directory by default.

    Raises:
        UsageError: the name cannot be used, or there is no such kind.
        LocalError: the folder exists and has something in it, or cannot be written.
    """
    check_name(name)
    if like not in KINDS:
        raise UsageError(f"no project is like {like!r}; there are: {', '.join(sorted(filter(None, KINDS)))}")
    folder = (parent or Path()) / name
    words = _words(name, KINDS[like])
    _check_class(words["Name"], like)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise LocalError(f"{folder} exists already; choose another name, or remove it")
        for path, text in _pages(like, words):
            _write(folder / path, text)
        (folder / "local.mk").write_text(_local(sys.executable))
        if KINDS[like].own_driver:
            device = DeviceLoader(f"{folder / name}.py:{words['Name']}").new_device()
            (folder / "linux" / f"{name}.h").write_text(c_header(device))
    except OSError as error:
        raise LocalError(f"{folder} cannot be written: {error.strerror}; go to another folder") from error
    return folder


def check_name(name: str) -> None:
    """Check that a project can have a name.

    Raises:
        UsageError: it cannot; the message says why.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        proposal = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789") or "thermometer"
        raise UsageError(
            f"{name!r} cannot be the name of a Python module: take a small letter, then small letters, digits and "
            f"underscores, such as {proposal}"
        )
    if len(name) > LONGEST_NAME:
        raise UsageError(f"{name!r} has {len(name)} letters; take {LONGEST_NAME} at most")
    if keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a word of Python, and cannot be imported; take another name, such as my_{name}")
    if name in sys.stdlib_module_names or name in TAKEN:
        raise UsageError(
            f"{name!r} is the name of a module that a project needs, and would hide it; take another name, "
            f"such as my_{name}"
        )


def _check_class(class_name: str, like: str) -> None:
    """Check that the device's class can have its name: nothing else in the project's modules is called so.

    Raises:
        UsageError: something is.
    """
    sources = [template for template in _templates(like) if template.name.endswith(".py.in")]
    if any(re.search(rf"\b{class_name}\b", template.read_text()) for template in sources):
        raise UsageError(
            f"the device's class would be {class_name}, and such a project uses that name already; take another one, "
            f"such as my_{class_name.lower()}"
        )


def _words(name: str, kind: Kind) -> dict[str, str]:
    """Return what the placeholders stand for."""
    class_name = "".join(part.capitalize() for part in name.split("_"))
    c_name = Names(class_name).short
    words = {"name": name, "Name": class_name, "c_name": c_name, "C_NAME": c_name.upper()}
    header = f"linux/{name}.h" if kind.own_driver else ""
    options = [
        *(["--driver linux"] if kind.own_driver else []),
        *(f"--file {file}" for file in kind.files),
        *(f"--package {package}" for package in kind.packages),
    ]
    texts = {
        "about": kind.about,
        "shown": kind.shown,
        "guest_shown": kind.guest_shown,
        "change": kind.change,
        "modules": f'"{name}", "{name}_driver"' if kind.own_driver else f'"{name}"',
        "files": "\n".join(_described(kind)),
        "vm_options": "".join(f" {option}" for option in options),
        "guest_arguments": f", packages={list(kind.packages)}".replace("'", '"') if kind.packages else "",
        "header_dependency": f" {header}" if header else "",
        "header_rule": HEADER_RULE if header else "",
    }
    return {**words, **{key: Page(text).substitute(words) for key, text in texts.items()}}


def _described(kind: Kind) -> Iterator[str]:
    """Yield a line of the README for each file."""
    for path, text in DESCRIPTIONS.items():
        is_there = any(file.startswith(path) for file in kind.files) if path == PROGRAM else kind.own_driver
        if is_there or not path.startswith(("linux/", "{{name}}_driver")):
            names = ", ".join(f"`{one}`" for one in path.split(", "))
            yield f"| {names} | {text} |"


def _pages(like: str, words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the path and the content of each file of a project."""
    for template in _templates(like):
        _, *parts = template.relative_to(TEMPLATES).with_suffix("").parts
        path = "/".join(parts).replace("NAME", words["name"])
        text = Page(template.read_text()).substitute(words)
        yield RENAMED.get(path, path), _with_sorted_imports(text, words["name"])


def _templates(like: str) -> list[Path]:
    folders = ("all", "driver" if KINDS[like].own_driver else "stock", like or "own")
    return [template for folder in folders for template in sorted((TEMPLATES / folder).rglob("*.in"))]


def _with_sorted_imports(text: str, name: str) -> str:
    """Return a page in which what is imported from the project is in order, whatever the project is called.

    >>> _with_sorted_imports("from lamp import Op, answer, LIMIT, Lamp", "lamp")
    'from lamp import LIMIT, Lamp, Op, answer'
    """

    def place(one: str) -> tuple[bool, bool, str]:
        is_constant = one.isupper() and len(one) > 1
        return not is_constant, not one[0].isupper(), one.lower()

    def in_order(match: re.Match[str]) -> str:
        return match[1] + ", ".join(sorted(match[2].split(", "), key=place))

    return re.sub(rf"^(from {name}\w* import )(.+)$", in_order, text, flags=re.MULTILINE)


def _local(python: str) -> str:
    """Return what ``make`` reads to know the Python of this machine.

    >>> print(_local("/home/a b/$3/python"), end="")
    PYTHON ?= '/home/a b/$$3/python'
    """
    return f"PYTHON ?= {shlex.quote(python).replace('$', '$$')}\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if text.startswith("#!"):
        path.chmod(0o755)
