"""docs/troubleshooting.md has each event of the log and each message of an error that a user can cause; no other."""

from __future__ import annotations

import ast
import re

from pyvirtio.system.events import EVENTS
from tests.support.pages import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
SOURCE = ROOT / "src/pyvirtio"

CAUSED_BY_USERS = {"LocalError", "UsageError", "NegotiationError", "ProvisionError", "GuestError", "NoAnswer"}
ON_THE_PAGE_TOO = {"DeviceError"}
ELSEWHERE = ("drivers", "devices", "testing", "ring", "vsock/endpoint.py")
"""Their messages are about one call of theirs, and say all that there is to say."""

GAP = "…"


def words(node: ast.expr) -> str:
    """Return the text of an expression, with a gap for each part that is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    if isinstance(node, ast.BinOp):
        return words(node.left) + words(node.right)
    return GAP


def messages(kinds: set[str]) -> dict[str, str]:
    """Return the messages of errors of these kinds, and where each is."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        place = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
                found[words(node.args[0])] = f"{place}:{node.lineno}"
    return found


def tells(message: str) -> bool:
    """Return whether there is enough text in a message to look it up by."""
    return sum(len(part) for part in re.findall(r"\w+", message)) >= 9


def rows() -> list[str]:
    """Return the messages of the page's tables."""
    _, _, tables = PAGE.partition("## Serving a device")
    return re.findall(r"^\| `(.*?)` \| ", tables, re.MULTILINE)


def fits(row: str, message: str) -> bool:
    """Return whether a row, whose gaps are any text, is in a message."""
    return re.search(".*?".join(map(re.escape, row.split(GAP))), message) is not None


def test_each_event_has_its_row_and_each_row_its_event():
    listed = re.findall(r"^\| `\[([a-z-]+)\]` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(EVENTS)
    assert set(re.findall(r"`\[([a-z-]+)\]`", PAGE)) == set(EVENTS)


def test_each_message_that_a_user_can_cause_has_a_row():
    wanted = {text: place for text, place in messages(CAUSED_BY_USERS).items() if not place.startswith(ELSEWHERE)}
    missing = [
        (place, text) for text, place in wanted.items() if tells(text) and not any(fits(r, text) for r in rows())
    ]
    assert len(wanted) > 150
    assert missing == []


def test_each_row_is_a_message_of_the_source():
    said = messages(CAUSED_BY_USERS | ON_THE_PAGE_TOO)
    assert [row for row in rows() if not any(fits(row, text) for text in said)] == []


def test_what_is_looked_for_is_found():
    assert fits("there is no device …; there are: …", "there is no device …; there are: …. Or give")
    assert not fits("there is no file …", "there is no device …")
    assert tells("… cannot be read: …")
    assert not tells("… failed: …")
