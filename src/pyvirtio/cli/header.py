"""``pyvirtio header``: the C header of a device, for its driver in the Linux kernel."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "header",
        help="write a device's structures as a C header",
        description="Print a C header with the structures, enumerations, feature bits and queues that a device "
        "declares, for its driver in the Linux kernel.",
        examples=(
            ("pyvirtio header double.py:Double --output linux/double.h", "made anew whenever the device changes"),
        ),
    )
    parser.add_argument("device", metavar="DEVICE[,OPTION=VALUE...]", help="your device as file.py:Class")
    parser.add_argument("--output", metavar="FILE", help="write it there; where it cannot be made, the file stays")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print or write the header."""
    from pyvirtio.errors import LocalError
    from pyvirtio.host.loader import DeviceLoader
    from pyvirtio.scaffold import c_header

    text = c_header(DeviceLoader(options.device).new_device())
    if options.output is None:
        print(text, end="")
        return 0
    try:
        with open(options.output, "w") as file:
            file.write(text)
    except OSError as error:
        raise LocalError(f"{options.output} cannot be written: {error.strerror}; give another --output") from error
    return 0
