"""Reads the command line and runs one command."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module

from pyvirtio.cli.usage import Parser
from pyvirtio.errors import UsageError, VirtioError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "factorial",
    "new",
    "serve",
    "header",
    "block",
    "switch",
    "trace",
    "tap",
    "vm",
    "qemu",
    "bench",
    "doctor",
    "completion",
)
"""The commands; each is a module of this package with a function ``add_to``."""

MANY_OBJECTS = 10_000
"""So many new objects make Python look for garbage. Imports make thousands, and none of them is garbage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    gc.set_threshold(MANY_OBJECTS)
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser_for(words).parse_args(words)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        gc.freeze()  # the interpreter ends sooner if it need not look for garbage
    except VirtioError as error:
        print(f"pyvirtio: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("pyvirtio: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our results has enough; this keeps the interpreter from complaining about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def parser_for(words: Sequence[str] = ()) -> Parser:
    """Return the parser of the command that is wanted, or of all: a command does not pay for the others' imports."""
    from pyvirtio import __version__

    parser = Parser(
        prog="pyvirtio",
        description="Virtio devices and drivers in Python, for an unmodified QEMU and Linux.",
        examples=(
            ("pyvirtio factorial 5", "a driver hands 5 to a device in another process, and prints 5! = 120"),
            ("pyvirtio serve factorial --socket /tmp/factorial.sock", "a device on a socket"),
            ("pyvirtio vm factorial 5", "the same from inside a Linux guest"),
        ),
    )
    parser.add_argument("--version", action="version", version=f"pyvirtio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, prog="pyvirtio")
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        import_module(f"pyvirtio.cli.{name}").add_to(commands)
    return parser
