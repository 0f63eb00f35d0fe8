"""How every command says that it was used wrongly: one line that says what to do, and exit status 2."""

from __future__ import annotations

import argparse
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Never


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)  # type: ignore[arg-type]  # as they came

    def error(self, message: str) -> Never:
        """Print one line, and leave with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


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
        raise argparse.ArgumentTypeError(f"{text!r} is not a non-negative integer")
    return int(text)


def size(text: str) -> int:
    """Read a number of bytes, for an option: decimal, 0x…, or with a unit, K, M, G or T, of 1024."""
    from pyvirtio.device.options import integer

    try:
        number = integer(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative")
    return number


def positive(text: str) -> int:
    """Read a number from 1 on, for an option."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
