"""Reads the command line and runs one command."""

from __future__ import annotations

import os
import sys

from pyvirtio.cli import bench, doctor, factorial, serve, vm
from pyvirtio.cli.usage import Parser
from pyvirtio.errors import VirtioError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

COMMANDS = (factorial, serve, vm, bench, doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except VirtioError as error:
        print(f"pyvirtio: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyvirtio: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who read our results has enough; the interpreter shall not complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    from pyvirtio import __version__

    parser = Parser(prog="pyvirtio", description="Virtio devices and drivers in Python.")
    parser.add_argument("--version", action="version", version=f"pyvirtio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, prog="pyvirtio")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
