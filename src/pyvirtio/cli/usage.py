"""How every command says that it was used wrongly: one line that says what to do, and exit status 2."""

from __future__ import annotations

import argparse
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Never


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help ends in examples.

    Attributes:
        examples: a command line each, and what it does.
    """

    def __init__(self, *, examples: Sequence[tuple[str, str]] = (), **options: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)  # type: ignore[arg-type]  # as they came
        self.examples = examples

    def format_help(self) -> str:
        """Return the help, with an example on two lines: what it does, and how it is typed."""
        lines = [line for typed, what in self.examples for line in (f"  # {what}", f"  {typed}")]
        return "\n".join([super().format_help(), "examples:", *lines, ""]) if lines else super().format_help()

    def error(self, message: str) -> Never:
        """Print one line, and leave with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def below(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[Parser] | None:
    """Return the argument that is one of several commands, each with a parser of its own, if there is one."""
    return next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)


def every(parser: Parser) -> Iterator[Parser]:
    """Yield a parser and those of all commands below it."""
    yield parser
    commands = below(parser)
    for one in commands.choices.values() if commands else ():
        yield from every(one)


class _Formatter(argparse.HelpFormatter):
    """Fits the terminal, without ``shutil``, which imports compression libraries at every start."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size().columns
        except OSError:
            columns = 80
        super().__init__(prog, width=columns - 2)


def natural(text: str) -> int:
    """Read a number from 0 on, for an option."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; give one from 0 on")
    return int(text)


def size(text: str) -> int:
    """Read a number of bytes, for an option: decimal, 0x…, or with a unit, K, M, G or T, of 1024."""
    from pyvirtio.device.options import integer

    try:
        number = integer(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative; give a number of bytes from 0 on")
    return number


def positive(text: str) -> int:
    """Read a number from 1 on, for an option."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0; give one from 1 on")
    return int(text)
