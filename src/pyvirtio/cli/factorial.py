"""``pyvirtio factorial``: a back-end process computes, this process drives it through a virtqueue."""

from __future__ import annotations

import argparse
import contextlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.drivers.factorial import FactorialDriver

_LARGEST = 2**32 - 1


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "factorial",
        help="have a device in another process compute factorials",
        description="Start a back-end process, drive it over vhost-user and shared memory, and print what it answers.",
        examples=(
            ("pyvirtio factorial 5", "prints 5! = 120"),
            ("pyvirtio factorial 5 --trace", "the same, with each step on the way explained"),
            ("pyvirtio factorial --socket /tmp/factorial.sock 5 30", "ask a back-end that runs already"),
        ),
    )
    parser.add_argument("numbers", metavar="N", nargs="+", type=number, help="a number from 0 to 4294967295")
    parser.add_argument("--socket", metavar="PATH", help="use the back-end that serves this socket")
    parser.add_argument("--wrap32", action="store_true", help="ask for n! mod 2**32 instead of exact values")
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--quiet", action="store_true", help="print the values alone")
    style.add_argument("--json", action="store_true", help="print one JSON list")
    style.add_argument(
        "--trace",
        metavar="FILE",
        type=recording,
        nargs="?",
        const="",
        help="show and explain each step on the ring and on the socket; record them into a file, for pyvirtio trace",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the factorial of each number, in order."""
    sys.set_int_max_str_digits(0)  # 20000! has more digits than Python prints by default
    if options.trace is not None:
        return _show(options)
    with _driver(options) as driver:
        wrapped = not driver.exact
        answers = zip(options.numbers, driver.factorials(options.numbers), strict=True)
        if options.json:
            import json

            # As text: few readers of JSON keep integers of this size whole.
            print(json.dumps([{"n": n, "factorial": str(value), "mod32": wrapped} for n, value in answers]))
            return 0
        for n, value in answers:
            print(value if options.quiet else f"{n}! mod 2**32 = {value}" if wrapped else f"{n}! = {value}")
    return 0


@contextlib.contextmanager
def _driver(options: argparse.Namespace) -> Iterator[FactorialDriver]:
    with contextlib.ExitStack() as stack:
        backend = None
        if options.socket is None:
            from pyvirtio.host.serve import backend as start

            backend = stack.enter_context(start("factorial"))  # it starts while we import the driver
        from pyvirtio.drivers.factorial import FactorialDriver
        from pyvirtio.vhost_user.client import VhostUserTransport

        name = FactorialDriver.device_name
        transport = VhostUserTransport(backend) if backend else VhostUserTransport.connect(options.socket, device=name)
        yield stack.enter_context(FactorialDriver(transport, features=0 if options.wrap32 else None))


def _show(options: argparse.Namespace) -> int:
    """Compute, and print each step on the way."""
    from pyvirtio.devices.factorial import ExactResponse, Request, Response
    from pyvirtio.drivers.factorial import FactorialDriver
    from pyvirtio.trace.demonstration import demonstrated, told

    features = 0 if options.wrap32 else None
    shown = demonstrated(FactorialDriver, "factorial", options.socket, recording=options.trace, features=features)
    with shown as (driver, recorder):
        wrapped = "" if driver.exact else " mod 2**32"
        answers = list(zip(options.numbers, driver.factorials(options.numbers), strict=True))
        for line in told(recorder, Request, ExactResponse if driver.exact else Response):
            print(line)
    for n, value in answers:
        print(f"{n}!{wrapped} = {value}")
    return 0


def recording(text: str) -> str:
    """Read the name of a recording from the command line; raises what argparse shows where it must be a number."""
    if text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is no file; put --trace behind the numbers, or write ./{text}")
    return text


def number(text: str) -> int:
    """Read a number from the command line; raises what argparse shows as wrong usage."""
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; give one from 0 to {_LARGEST}")
    if text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text} is negative and has no factorial; give a number from 0 to {_LARGEST}")
    if len(digits) > 20 or int(digits) > _LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:20]} does not fit in 32 bits; give a number from 0 to {_LARGEST}")
    return int(digits)
