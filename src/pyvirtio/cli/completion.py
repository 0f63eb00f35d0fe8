"""``pyvirtio completion``: lets a shell complete pyvirtio's command lines.

A shell's script only hands the line on and shows what comes back, so all of them offer the same, and what is offered is
what the installed version takes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

SHELLS = ("bash", "zsh", "fish")
"""Each has a script in the folder ``shells``."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "completion",
        help="let your shell complete command lines",
        description="Print the script that lets a shell complete pyvirtio's commands, options, devices and their "
        "options, files and sockets.",
        examples=(
            ('eval "$(pyvirtio completion bash)"', "in ~/.bashrc"),
            ("source <(pyvirtio completion zsh)", "in ~/.zshrc, below compinit"),
            ("pyvirtio completion fish >~/.config/fish/completions/pyvirtio.fish", "once"),
        ),
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    parser.add_argument("--answer", action="store_true", help="what the script asks, with the line on stdin")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the script of a shell, or answer it."""
    import sys

    if options.answer:
        print("\n".join(_answer(sys.stdin.read().removesuffix("\n"))))
        return 0
    from pathlib import Path

    print(Path(__file__).with_name("shells").joinpath(f"pyvirtio.{options.shell}").read_text(), end="")
    return 0


def _answer(line: str) -> list[str]:
    from itertools import dropwhile

    from pyvirtio.cli.complete import complete, words_of
    from pyvirtio.cli.main import parser_for

    # Variables may be set in front of a command.
    words = list(dropwhile(lambda word: word.partition("=")[0].isidentifier() and "=" in word, words_of(line))) or [""]
    found = complete(parser_for(words[1:]), words[1:]) if len(words) > 1 else None
    last = words[-1]
    return [last, *found.lines()] if found is not None else [last, "", ""]
