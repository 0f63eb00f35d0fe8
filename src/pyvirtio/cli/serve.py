"""``pyvirtio serve``: a device for whoever connects, QEMU or a driver of yours."""

from __future__ import annotations

import sys

from pyvirtio.cli.usage import natural, positive

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from pyvirtio.transport import DeviceDescription


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    from pyvirtio.devices import SHIPPED

    parser = commands.add_parser(
        "serve",
        help="serve a device on a socket",
        description="Serve a device on a Unix socket, to one front-end at a time, until SIGTERM or Ctrl-C.",
    )
    parser.add_argument("device", metavar="DEVICE", help=f"{', '.join(SHIPPED)}, or your own as file.py:Class")
    parser.add_argument("--socket", metavar="PATH", required=True, help="where front-ends connect")
    parser.add_argument("--workers", metavar="N", type=positive, default=1, help="divide the queues among N processes")
    parser.add_argument("--reload", action="store_true", help="run changed code as soon as the device's file is saved")
    parser.add_argument(
        "--device-id",
        metavar="N",
        type=positive,
        help="serve under another virtio id (QEMU 11.1 itself ends at 44, 46, 47, 48 and 63)",
    )
    parser.add_argument(
        "--poll-us",
        metavar="N",
        type=natural,
        default=0,
        help="after each request look for the next one for N microseconds before sleeping: takes a core (default 0)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the device and its workers say")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until told to end."""
    import logging

    from pyvirtio.host.serve import serve

    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="pyvirtio: %(message)s")

    def ready(description: DeviceDescription) -> None:
        print(
            f"pyvirtio: {description.name} (virtio id {description.device_id}) is ready on {options.socket}",
            file=sys.stderr,
            flush=True,
        )

    serve(
        options.device,
        options.socket,
        workers=options.workers,
        reload=options.reload,
        device_id=options.device_id,
        poll_us=options.poll_us,
        ready=ready,
    )
    return 0
