"""Puts a page together: a template of this folder, its styles and scripts, and data.

The policy in the page allows these styles and scripts by their digests and nothing else: no address is ever asked, and
what is in the data cannot become a script. Data is JSON in which no character means anything to a reader of HTML.
"""

from __future__ import annotations

import html
import json
import re
from importlib import resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POLICY = (
    "default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src {connect}; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


SCRIPTS = {"player": ("common", "rings", "show", "player"), "watch": ("common", "watch")}
"""The scripts of a page, in the order in which they stand in it."""


def join(name: str, title: str, data: Any, *, connect: str = "'none'") -> str:
    """Return the page ``name``, one of `SCRIPTS`, as HTML.

    ``connect`` is where its script may ask for more, as a policy says it.
    """
    style = _read("common.css") + _read(f"{name}.css")
    script = "".join(_read(f"{part}.js") for part in SCRIPTS[name])
    filled = {
        "policy": _POLICY.format(style=_digest(style), script=_digest(script), connect=connect),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "data": harmless(data),
    }
    # In one pass: what is filled in may itself look like a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: filled[place[1]], _read(f"{name}.html"))


def harmless(data: Any) -> str:
    r"""Return JSON that ends no element and begins no comment, wherever in HTML it stands.

    >>> harmless("</script><!--")
    '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _read(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


def _digest(text: str) -> str:
    import base64
    import hashlib

    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
