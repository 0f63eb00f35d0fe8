"""Names in docstrings: they are written as short as they are known to their readers, and must exist."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inspect import stringify_signature

from pyvirtio import Device

if TYPE_CHECKING:
    from typing import Any

    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

SOURCE = Path(__file__).parents[2] / "src"


@cache
def known() -> frozenset[str]:
    """Return every word of the sources."""
    return frozenset(word for path in SOURCE.rglob("*.py") for word in re.findall(r"[^\W\d]\w*", path.read_text()))


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    """Return a link to the one documented object of that name; or text, if the name is only one of the sources'."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    target = node["reftarget"].removeprefix("~").lstrip(".")
    found = [name for name, entry in domain.objects.items() if name.endswith(f".{target}") and not entry.aliased]
    if len(found) == 1:
        assert app.builder is not None
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)
    if node["reftype"] != "obj":  # of a signature, whose names the type checker checks
        return content
    return content if known().issuperset(target.split(".")) else None


def describe(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Take a constant's description from where it is defined, and that of a class that has none from its file."""
    package, _, attribute = name.rpartition(".")
    if what == "class" and not any(lines):
        lines[:] = (sys.modules[package].__doc__ or "").splitlines()
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()  # Python says this of each field of a named tuple
    if what != "data":
        return
    place = SOURCE / package.replace(".", "/")
    for path in sorted(place.glob("*.py")):
        described = ModuleAnalyzer.for_file(path, f"{package}.{path.stem}").find_attr_docs()
        if found := described.get(("", attribute)):
            lines[:] = found
            return


def sign(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show how a device is made by its constructor's parameters: `Device.__new__` takes whatever they are."""
    if what != "class" or not isinstance(value, type) or not issubclass(value, Device):
        return signature, returns
    own = inspect.Signature()
    if value.__init__ is not object.__init__:
        own = inspect.signature(
            value.__init__, eval_str=True
        )  # options are converted by these types, so they are there
    parameters = [one for one in own.parameters.values() if one.name != "self"]
    return stringify_signature(own.replace(parameters=parameters), show_return_annotation=False), None


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", describe)
    app.connect("autodoc-process-signature", sign)
    return {"parallel_read_safe": True}
