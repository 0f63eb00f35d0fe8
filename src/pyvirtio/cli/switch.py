"""``pyvirtio switch``: a learning switch to which network cards of any process connect."""

from __future__ import annotations

import contextlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "switch",
        help="join guests of any process by a network",
        description="Listen on a Unix socket, and be a learning switch to whoever connects: "
        "`pyvirtio serve net,stream=PATH`, QEMU's `-netdev stream`, passt's clients.",
        examples=(
            ("pyvirtio switch /tmp/switch.sock", "a network"),
            ("pyvirtio vm shell --device net,stream=/tmp/switch.sock", "in other terminals: guests in it"),
            ("pyvirtio switch /tmp/switch.sock --tap tap0", "with this machine in it, too"),
        ),
    )
    parser.add_argument("path", metavar="PATH", help="the socket to listen on")
    parser.add_argument("--tap", metavar="NAME", help="plug a TAP device of this machine in as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    import asyncio

    asyncio.run(_serve(options.path, options.tap))
    return 0


async def _serve(path: str, tap: str | None) -> None:
    import asyncio
    import signal

    from pyvirtio.network.plugging import plug, serve
    from pyvirtio.network.switch import Switch
    from pyvirtio.network.tap import TapEnd
    from pyvirtio.system import log

    switch = Switch()
    work = [serve(switch, path, ready=lambda: log.write(f"pyvirtio: the switch is ready on {path}\n"))]
    if tap is not None:
        work.append(plug(switch, TapEnd(tap)))
    everything = asyncio.gather(*work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, everything.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await everything
