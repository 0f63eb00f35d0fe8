"""Links out of this folder: pages include some of the files there, others are downloads, folders are only named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.transforms import SphinxTransform

if TYPE_CHECKING:
    from typing import Any

    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
INCLUDED = {ROOT / "CHANGELOG.md": "project/changelog", ROOT / "CONTRIBUTING.md": "project/contributing"}
"""Files beside this folder, and the pages that include them."""


class LinksOutside(SphinxTransform):
    """Finds what Markdown's relative links lead to, where that is no page of this folder."""

    default_priority = 5  # before downloads are collected

    def apply(self, **_: Any) -> None:
        """Replace each such link by what a site can have."""
        for kind in (pending_xref, download_reference):
            for node in list(self.document.findall(kind)):
                if node.get("reftype") == "myst":
                    self._replace(node)

    def _replace(self, node: nodes.Element) -> None:
        path, _, anchor = node["reftarget"].partition("#")
        if node.get("refdomain") == "doc":  # a page, by its path without suffix if it is not of this folder
            path, anchor = f"{path}.md" if path.startswith("/") else "", node.get("reftargetid")
        page = Path(self.env.doc2path(self.env.docname))
        # A page that is included has its links as from where it lies.
        target = (Path(node.source or page).parent / path).resolve()
        if not path or not target.exists() or not target.is_relative_to(ROOT):
            return  # nothing, of which MyST complains
        if target in INCLUDED:
            link = pending_xref(refdomain="doc", reftype="myst", refexplicit=True, refdoc=self.env.docname)
            link["reftarget"], link["reftargetid"] = INCLUDED[target], anchor or None
        elif target.is_file():
            link = download_reference(reftype="myst", refdoc=self.env.docname, refexplicit=True)
            link["reftarget"] = os.path.relpath(target, page.parent)
        else:
            link = nodes.inline()
        link.source, link.line = node.source, node.line
        link += node.children
        node.replace_self(link)


def say_language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Let a screen reader and a search engine know which pages are Chinese."""
    if page.startswith("zh/"):
        context["language"] = "zh-Hans"


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx."""
    app.add_transform(LinksOutside)
    app.connect("html-page-context", say_language)
    return {"parallel_read_safe": True}
