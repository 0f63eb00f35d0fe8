"""``pyvirtio bench``: hands its arguments on to the benchmarks, which a source checkout has and the wheel has not."""

from __future__ import annotations

from importlib import import_module

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

_PACKAGE = "pyvirtio_bench"
EXAMPLES = (
    ("pyvirtio bench --quick echo", "how long the echo device takes for a request, roughly"),
    ("pyvirtio bench --guest --write", "everything, into docs/benchmarks.md: many minutes"),
)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; its options are the benchmarks' to declare."""
    parser = commands.add_parser(
        "bench",
        help="measure a device in Python against the same in C (in a source checkout)",
        description="Measure the devices that ship, as they are installed, next to C on libvhost-user and to QEMU's "
        "storage daemon. The benchmarks come with a checkout, and `pyvirtio bench --help` lists their options.",
        examples=EXAMPLES,
        add_help=False,
        prefix_chars="\0",  # no argument can begin with it, so every one of them comes through as it is
    )
    parser.add_argument("arguments", metavar="ARGUMENT", nargs="*", help="see pyvirtio bench --help")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the benchmarks and return the exit status.

    Raises:
        LocalError: they are not installed.
    """
    try:
        command = import_module(f"{_PACKAGE}.command")
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise
        raise LocalError(
            "the benchmarks come with pyvirtio's source checkout, not with the installed package; "
            "run `make bench` in a checkout, and `pyvirtio bench` works there from then on"
        ) from error
    status: int = command.main(options.arguments)
    return status
