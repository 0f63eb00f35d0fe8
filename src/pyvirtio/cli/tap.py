"""``pyvirtio tap``: sit between a front-end and a back-end and record what they do."""

from __future__ import annotations

from pyvirtio.cli.usage import positive, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "tap",
        help="record any front-end and any back-end from in between",
        description="Listen on the socket FRONT, connect whoever comes to the back-end that serves the socket BACK, "
        "pass everything on, and record messages, rings, kicks and interrupts, until SIGTERM or Ctrl-C.",
        examples=(
            ("pyvirtio tap /tmp/front.sock /tmp/back.sock", "print each step; give QEMU /tmp/front.sock"),
            ("pyvirtio tap /tmp/front.sock /tmp/back.sock --output run.jsonl", "record it, for pyvirtio trace"),
        ),
    )
    parser.add_argument("front", metavar="FRONT", help="the socket to make, for the front-end")
    parser.add_argument("back", metavar="BACK", help="the socket of the back-end")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to record; by default each step is printed")
    parser.add_argument("--device-id", metavar="N", type=positive, help="the virtio id, which no message says")
    parser.add_argument("--snap", metavar="BYTES", type=size, default=256 << 10, help="of each request, at most (256K)")
    parser.add_argument(
        "--limit", metavar="BYTES", type=size, default=256 << 20, help="of the recording, at most (256M)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log connections")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Pass everything on until told to end."""
    from pyvirtio.system import log
    from pyvirtio.trace.tapping import tap

    log.to_stderr(verbose=options.verbose)
    tap(
        options.front,
        options.back,
        options.output,
        device_id=options.device_id,
        snap=options.snap,
        limit=options.limit,
        ready=lambda: log.write(f"pyvirtio: the tap is ready on {options.front}\n"),
    )
    return 0
