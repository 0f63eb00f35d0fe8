"""The page of the commands, from the parser that reads them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyvirtio.cli.main import COMMANDS, _parser

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = "Example: "


def commands() -> str:
    """Return docs/reference/commands.md."""
    lines = [
        "# Commands",
        "",
        "Made from the commands themselves by `make docs`. `pyvirtio COMMAND --help` prints the same.",
        "",
        "Results go to stdout, everything else to stderr. The exit status is 0 for done, 1 for could not be done, 2",
        "for wrong usage; that of `pyvirtio vm run` is the command's.",
        "",
    ]
    top = _parser(())
    for name in COMMANDS:
        for depth, parser, summary in _tree(top, name):
            lines += _section(depth, parser, summary)
    return "\n".join(lines).rstrip() + "\n"


def _tree(
    above: argparse.ArgumentParser, name: str, depth: int = 2
) -> Iterator[tuple[int, argparse.ArgumentParser, str]]:
    """Yield a command and those below it: the level of its heading, its parser, and what it is for in short."""
    below = _subcommands(above)
    assert below is not None
    summary = next(str(one.help) for one in below._choices_actions if one.dest == name)
    parser: argparse.ArgumentParser = below.choices[name]
    yield depth, parser, summary
    if inner := _subcommands(parser):
        for one in inner.choices:
            yield from _tree(parser, one, depth + 1)


def _subcommands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def _section(depth: int, parser: argparse.ArgumentParser, summary: str) -> list[str]:
    text = parser.description or f"{summary[0].upper()}{summary[1:]}."
    text, _, example = text.partition(EXAMPLE)
    example = example or (parser.epilog or "").removeprefix(EXAMPLE)
    hidden = (argparse.SUPPRESS, None)
    shown = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    places = [action for action in shown if not action.option_strings]
    options = [action for action in shown if action.option_strings]
    synopsis = [parser.prog, *(["[OPTION]..."] if options else []), *map(_place, places)]
    lines = [f"{'#' * depth} {parser.prog}", "", _plain(text.strip()), "", "```text", " ".join(synopsis), "```", ""]
    if example:
        lines += ["For example:", "", "```text", example, "```", ""]
    rows = [(_name(action), _help(parser, action)) for action in (*places, *options) if action.help not in hidden]
    if rows:
        lines += ["| argument | what it is |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]
    return lines


def _place(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    return {"*": f"[{name}]...", "+": f"{name}...", "?": f"[{name}]"}.get(str(action.nargs), name)


def _name(action: argparse.Action) -> str:
    """Return an argument as it is typed, with what it takes."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest.upper()}`"
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    written = f" {value}" if action.nargs != 0 else ""
    written = f" [{value}]" if action.nargs == "?" else written
    return ", ".join(f"`{option}{written}`".replace("|", "\\|") for option in action.option_strings)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return _plain(parser._get_formatter()._expand_help(action))


def _plain(text: str) -> str:
    """Return text as Markdown that says the same."""
    return text.replace("*", "\\*").replace("|", "\\|").replace("<", "\\<")
