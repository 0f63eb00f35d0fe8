"""The page of the commands, from the parser that reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio.cli.main import COMMANDS, parser_for
from pyvirtio.cli.usage import below, every

if TYPE_CHECKING:
    import argparse

    from pyvirtio.cli.usage import Parser


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
    top = below(parser_for())
    assert top is not None
    for name in COMMANDS:
        for parser in every(top.choices[name]):
            lines += _section(parser)
    return "\n".join(lines).rstrip() + "\n"


def _section(parser: Parser) -> list[str]:
    shown = [action for action in parser._actions if action.dest != "help" and action is not below(parser)]
    places = [action for action in shown if not action.option_strings]
    options = [action for action in shown if action.option_strings]
    words = [word for word in parser.prog.split() if word.islower()]
    synopsis = [parser.prog, *(["[OPTION]..."] if options else []), *map(_place, places)]
    synopsis += ["COMMAND ..."] if below(parser) else []
    lines = [f"{'#' * len(words)} {' '.join(words)}", "", _plain(str(parser.description)), ""]
    lines += ["```text", " ".join(synopsis), "```", ""]
    if parser.examples:
        lines += ["For example:", "", "```text"]
        lines += [line for typed, what in parser.examples for line in (f"# {what}", typed)]
        lines += ["```", ""]
    rows = [(_name(action), _help(parser, action)) for action in (*places, *options)]
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


def _help(parser: Parser, action: argparse.Action) -> str:
    return _plain(parser._get_formatter()._expand_help(action))


def _plain(text: str) -> str:
    """Return text as Markdown that says the same."""
    return text.replace("*", "\\*").replace("|", "\\|").replace("<", "\\<")
