"""``pyvirtio serve``: a device for whoever connects, QEMU or a driver of yours."""

from __future__ import annotations

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
        examples=(
            ("pyvirtio serve factorial --socket /tmp/factorial.sock", "a device that ships"),
            ("pyvirtio serve block,help", "the options of one"),
            ("pyvirtio serve block,path=disk.img,readonly --socket /tmp/disk.sock", "a disk, with options"),
            ("pyvirtio serve double.py:Double --socket /tmp/double.sock --reload", "your own, as it is being written"),
        ),
    )
    parser.add_argument(
        "device",
        metavar="DEVICE[,OPTION=VALUE...]",
        help=f"{', '.join(SHIPPED)}, or your own as file.py:Class; DEVICE,help lists its options",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", "--socket-path", metavar="PATH", dest="socket", help="where front-ends connect")
    where.add_argument(
        "--fd", metavar="N", type=natural, help="use the socket that this process was started with as descriptor N"
    )
    parser.add_argument("--workers", metavar="N", type=positive, default=1, help="divide the queues among N processes")
    parser.add_argument("--reload", action="store_true", help="run changed code as soon as the device's file is saved")
    parser.add_argument("--device-id", metavar="N", type=positive, help="serve under another virtio id")
    parser.add_argument(
        "--poll-us",
        metavar="N",
        type=natural,
        default=0,
        help="after each request look for the next one for N microseconds before sleeping: takes a core (default 0)",
    )
    parser.add_argument("--trace", metavar="FILE", help="record what happens on socket and rings; see pyvirtio trace")
    parser.add_argument(
        "--watch",
        metavar="PORT",
        type=natural,
        nargs="?",
        const=0,
        help="show the running device to a browser of this machine, at the address that is printed (any free port)",
    )
    parser.add_argument(
        "--print-capabilities", action="store_true", help="print what the device is as JSON, for management programs"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the device and its workers say")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Serve until told to end."""
    from pyvirtio.system import log

    log.to_stderr(verbose=options.verbose)
    if options.device.endswith(",help"):
        return _print_options(options.device.removesuffix(",help"))
    if options.print_capabilities:
        return _print_capabilities(options)
    if options.socket is None and options.fd is None:
        options.parser.error("say where: --socket PATH, or --fd N for a socket that is open already")

    where = options.socket if options.fd is None else options.fd
    common = {
        "workers": options.workers,
        "reload": options.reload,
        "device_id": options.device_id,
        "busy_poll_us": options.poll_us,
        "ready": lambda description: _say_ready(description, where, verbose=options.verbose),
    }
    if options.trace is None and options.watch is None:
        from pyvirtio.host.serve import serve

        serve(options.device, where, **common)
    else:
        from pyvirtio.trace.serve import serve_traced

        serve_traced(options.device, where, recording=options.trace, port=options.watch, **common)
    return 0


def _say_ready(description: DeviceDescription, where: str | int, *, verbose: bool) -> None:
    from pyvirtio.spec.ids import QEMU_FORWARDS, id_trouble
    from pyvirtio.system import log

    if trouble := id_trouble(description.device_id):
        # An id that some QEMU takes may be one's choice; one that none takes is a mistake.
        taken = any(description.device_id in ids for ids in QEMU_FORWARDS.values())
        (log.info if taken else log.warning)("id-unusable", trouble)
    if verbose:
        _say_if_slow()
    place = where if isinstance(where, str) else f"descriptor {where}"
    log.write(f"pyvirtio: {description.name} (virtio id {description.device_id}) is ready on {place}\n")


def _say_if_slow() -> None:
    from pyvirtio.ring.engine import COST, obstacle
    from pyvirtio.system import log

    if found := obstacle():
        what, remedy = found
        log.info("engine-slow", f"there is a faster engine in C, but {what}: {COST}; {remedy}")


def _print_options(name: str) -> int:
    from pyvirtio.device.options import usage
    from pyvirtio.host.loader import DeviceLoader

    lines = usage(DeviceLoader(name).kind)
    print("\n".join(lines) if lines else f"{name} takes no options")
    return 0


def _print_capabilities(options: argparse.Namespace) -> int:
    """Print what vhost-user's "Backend program conventions" want a back-end to say of itself."""
    import json

    from pyvirtio.host.loader import DeviceLoader
    from pyvirtio.spec.ids import VHOST_USER_TYPES

    description = DeviceLoader(options.device, options.device_id).new_device().description()
    print(json.dumps({"type": VHOST_USER_TYPES.get(description.device_id, description.name), "features": []}))
    return 0
