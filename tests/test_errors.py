"""Errors say what is wrong, and what to do next."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pyvirtio import errors

SOURCES = Path(errors.__file__).parent
TOLD = {"LocalError", "UsageError", "NegotiationError", "ProvisionError", "ArgumentTypeError", "error"}
"""Who makes them can do something about them; ``error`` is a parser's method."""

SAID_ELSEWHERE = {
    "trace/events.py",  # the reader of a recording adds the line, and what to do about it
    "device/device.py",  # the last part is filled in
}
# What is wrong, then what to do; a colon alone often stands before a reason of the system's, which is no advice.
ADVICE = re.compile(r"; |\. [A-Z`]|: (?!\{)| so |^say ")
PASSED_ON = re.compile(r"(\{\}|[:=, ]|line)+")  # what another place has said


def messages() -> dict[str, str]:
    """Return each message that is written in the sources, by where it is, with {} for what is filled in."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and name_of(node.func) in TOLD:
                text = text_of(node.args[0])
                if text is not None:
                    found[f"{path.relative_to(SOURCES)}:{node.lineno}"] = text
    return found


def name_of(called: ast.expr) -> str:
    if isinstance(called, ast.Attribute) and called.attr == "error":
        return "error" if "parser" in ast.unparse(called.value) else ""
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def text_of(message: ast.expr) -> str | None:
    """Return a message that is written down; None if it was made elsewhere."""
    if isinstance(message, ast.Constant):
        return str(message.value)
    if isinstance(message, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in message.values)
        return "".join(parts)
    if isinstance(message, ast.BinOp) and isinstance(message.op, ast.Add):
        parts = (text_of(side) or "{}" for side in (message.left, message.right))
        return "".join(parts)
    return None


MESSAGES = messages()


def test_the_messages_are_found():
    assert len(MESSAGES) > 200


@pytest.mark.parametrize("message", sorted({text for text in MESSAGES.values() if not PASSED_ON.fullmatch(text)}))
def test_a_message_says_what_to_do_next(message: str):
    where = [place for place, text in MESSAGES.items() if text == message]
    advised = ADVICE.search(message) or {place.partition(":")[0] for place in where} <= SAID_ELSEWHERE
    assert advised, where
