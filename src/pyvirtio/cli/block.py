"""``pyvirtio block``: drive anybody's vhost-user disk, without a guest."""

from __future__ import annotations

import sys
import time

from pyvirtio.cli.usage import positive, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from pyvirtio.driver import Ticket
    from pyvirtio.drivers.block import BlockDriver

CHUNK = 1 << 20
"""The bytes that are taken from stdin at once."""

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "block",
        help="read, write, copy and measure anybody's vhost-user disk",
        description="Drive the disk that a vhost-user back-end serves on a socket: pyvirtio's, QEMU's storage daemon, "
        "or your own. Offsets and lengths are in bytes; K, M, G and T may follow them.",
        examples=(
            ("pyvirtio serve block,path=disk.img --socket /tmp/disk.sock", "in another terminal: the disk"),
            ("pyvirtio block /tmp/disk.sock info", "what it is, and what it can do"),
            ("pyvirtio block /tmp/disk.sock read 1M 4K >piece", "4096 bytes of it, from 1 MiB on"),
            ("pyvirtio block --reconnect 60 /tmp/disk.sock write <disk.img", "fill it, whatever restarts meanwhile"),
        ),
    )
    parser.add_argument("socket", metavar="SOCKET", help="the socket that the back-end serves")
    parser.add_argument(
        "--reconnect",
        metavar="SECONDS",
        type=positive,
        help="if the back-end ends, go on with the one that is started in its place within so many seconds",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=type(parser))

    def action(
        name: str, run: Callable[[BlockDriver, argparse.Namespace], object], text: str, *examples: tuple[str, str]
    ) -> argparse.ArgumentParser:
        typed = [(f"pyvirtio block /tmp/disk.sock {name}{rest}", what) for rest, what in examples]
        one = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", examples=typed)
        one.set_defaults(run=run_action, action=run, queues=1)
        return one

    info = action(
        "info", _info, "print what the disk is and what it can do", (" --json", "the same, for a program to read")
    )
    read = action(
        "read",
        _read,
        "print LENGTH bytes from OFFSET on, or all that follow",
        (" 0 512 | xxd", "the first sector"),
        (" >disk.img", "all of it"),
    )
    write = action(
        "write",
        _write,
        "write what comes on stdin, from OFFSET on, and flush",
        (" 1M <piece", "put a file's bytes at 1 MiB"),
    )
    copy = action(
        "copy",
        _copy,
        "copy the whole disk to the one that is served on the socket TARGET, and flush",
        (" /tmp/other.sock", "whoever serves that one"),
    )
    zero = action("zero", _zero, "let a range read as zeros", (" 0 64K", "forget a partition table"))
    discard = action(
        "discard", _discard, "say that nobody needs a range any more", (" 1G 1G", "free the second GiB of the image")
    )
    bench = action(
        "bench",
        _bench,
        "measure random requests",
        (" --depth 1", "how long one request takes"),
        (" --size 128K --queues 4 --overwrite", "how much goes through; what is on the disk is lost"),
    )
    for one in (read, write):
        one.add_argument("offset", metavar="OFFSET", type=size, nargs="?", default=0, help="where to begin (0)")
    read.add_argument("length", metavar="LENGTH", type=size, nargs="?", help="how many bytes (to the end)")
    copy.add_argument("target", metavar="TARGET", help="the socket of the other disk, which is overwritten")
    for one in (zero, discard):
        one.add_argument("offset", metavar="OFFSET", type=size, help="where it begins, a multiple of 512")
        one.add_argument("length", metavar="LENGTH", type=size, help="how many bytes, a multiple of 512")
    bench.add_argument("--size", metavar="BYTES", type=size, default=4096, help="of each request (4K)")
    bench.add_argument("--depth", metavar="N", type=positive, default=32, help="requests in flight (32)")
    bench.add_argument("--queues", metavar="N", type=positive, default=1, help="queues to use, at most (1)")
    bench.add_argument("--seconds", metavar="N", type=positive, default=3, help="how long (3)")
    bench.add_argument("--overwrite", action="store_true", help="write instead of reading: what is on the disk is lost")
    for one in (info, bench):
        one.add_argument("--json", action="store_true", help="print one JSON object")


def run_action(options: argparse.Namespace) -> int:
    """Open the disk and do one thing with it."""
    with _opened(options.socket, options) as disk:
        options.action(disk, options)
    return 0


def _opened(path: str, options: argparse.Namespace) -> BlockDriver:
    from pyvirtio.connect import open_driver
    from pyvirtio.drivers.block import BlockDriver

    return open_driver(BlockDriver, f"vhost-user:{path}", queues=options.queues, reconnect=options.reconnect)


# What is printed.


def _info(disk: BlockDriver, options: argparse.Namespace) -> None:
    found = {
        "id": disk.identify(),
        "size": disk.size,
        "block_size": disk.block_size,
        "queues": disk.most_queues,
        "readonly": disk.is_readonly,
        "can": disk.abilities,
    }
    if options.json:
        import json

        print(json.dumps(found))
        return
    found["size"] = f"{disk.size} bytes ({_readable(disk.size)})" if disk.size >= 1024 else f"{disk.size} bytes"
    found["block_size"] = f"{disk.block_size} bytes"
    found["readonly"] = "yes" if disk.is_readonly else "no"
    found["can"] = ", ".join(disk.abilities) or "-"
    for name, value in found.items():
        print(f"{name.replace('_', ' '):10}  {value}")


def _readable(number: float) -> str:
    unit = 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.4g} {UNITS[unit]}"


def _read(disk: BlockDriver, options: argparse.Namespace) -> None:
    length = max(0, disk.size - options.offset) if options.length is None else options.length
    for piece in disk.pieces(options.offset, length):
        sys.stdout.buffer.write(piece)


# What is changed.


def _write(disk: BlockDriver, options: argparse.Namespace) -> None:
    _check_writable(disk, options.socket)
    disk.write_pieces(options.offset, iter(lambda: sys.stdin.buffer.read(CHUNK), b""))
    _flush(disk)


def _copy(disk: BlockDriver, options: argparse.Namespace) -> None:
    from pyvirtio.errors import LocalError

    with _opened(options.target, options) as target:
        _check_writable(target, options.target)
        if target.size < disk.size:
            raise LocalError(
                f"the target has {target.size} bytes, the disk {disk.size}; serve one that is large enough"
            )
        target.write_pieces(0, disk.pieces(0, disk.size))
        _flush(target)


def _zero(disk: BlockDriver, options: argparse.Namespace) -> None:
    _check_writable(disk, options.socket)
    disk.write_zeroes(options.offset, options.length)


def _discard(disk: BlockDriver, options: argparse.Namespace) -> None:
    _check_writable(disk, options.socket)
    disk.discard(options.offset, options.length)


def _check_writable(disk: BlockDriver, path: str) -> None:
    from pyvirtio.errors import LocalError

    if disk.is_readonly:
        raise LocalError(f"the disk on {path} is read-only; serve it writable, and try again")


def _flush(disk: BlockDriver) -> None:
    if "flush" in disk.abilities:
        disk.flush()


# How fast it is.


def _bench(disk: BlockDriver, options: argparse.Namespace) -> None:
    if options.overwrite:
        _check_writable(disk, options.socket)
    requests, seconds = _measure(disk, options)
    rate = requests / seconds
    if options.json:
        import json

        print(json.dumps({"requests": requests, "seconds": round(seconds, 6), "bytes": requests * options.size}))
        return
    kind = "writes" if options.overwrite else "reads"
    print(
        f"{kind} of {options.size} bytes, {options.depth} in flight: {rate:.0f} a second, "
        f"{rate * options.size / 1e6:.1f} MB/s, {1e6 * options.depth / rate:.0f} us each"
    )


def _measure(disk: BlockDriver, options: argparse.Namespace) -> tuple[int, float]:
    """Keep requests at random places in flight; return how many were answered, and in which time."""
    from collections import deque

    places = _places(disk.size, options.size)
    data = bytes(options.size)

    def submit() -> Ticket:
        place = next(places)
        return disk.submit_write(place, data) if options.overwrite else disk.submit_read(place, options.size)

    tickets = deque(submit() for _ in range(options.depth))
    requests, start = 0, time.monotonic()
    end = start + options.seconds
    while (now := time.monotonic()) < end:
        disk.check(tickets.popleft())
        tickets.append(submit())
        requests += 1
    for ticket in tickets:
        disk.check(ticket)
    return requests, now - start


def _places(capacity: int, length: int) -> Iterator[int]:
    """Yield the offsets of random requests."""
    import random

    from pyvirtio.errors import LocalError

    if not 0 < length <= capacity:
        raise LocalError(f"requests of {length} bytes on a disk of {capacity}; give --size from 512 on")
    while True:
        yield random.randrange(capacity // length) * length  # noqa: S311  # no secret
