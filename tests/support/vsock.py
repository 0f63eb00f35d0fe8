"""What a guest says to a socket device, right or wrong, whichever way it goes; and programs of the host."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from pyvirtio.vsock import BUFFER, MOST_CONNECTIONS, Header
from pyvirtio.vsock.packets import Op, Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GUEST, HOST = 7, 2


class Talk:
    """Says packets; `send` is whoever's that knows the way."""

    def send(self, *packets: bytes) -> None:
        """Send bytes as packets, all at once, and see them taken."""
        raise NotImplementedError

    def say(self, op: int, port: int = 1000, *, to: int = 80, payload: bytes = b"", **changes: Any) -> None:
        """Send a packet; its credit is large."""
        self.send(packet(op, port, to=to, payload=payload, **changes))


def packet(op: int, port: int = 1000, *, to: int = 80, payload: bytes = b"", **changes: Any) -> bytes:
    """Return a packet of the guest's; ``changes`` replace what would be right."""
    fields = {"src_cid": GUEST, "dst_cid": HOST, "src_port": port, "dst_port": to, "buf_alloc": 1 << 30}
    return Header(**{"len": len(payload), "op": op, **fields, **changes}).pack() + payload


CREDIT = BUFFER // 4
LIES: dict[str, tuple[Callable[[Talk], object], list[Op]]] = {
    "a header that is cut": (lambda d: d.send(b"x" * (Header.nbytes - 1)), []),
    "no bytes": (lambda d: d.send(b"\0"), []),
    "an unknown operation": (lambda d: d.say(99), [Op.RST]),
    "no operation": (lambda d: d.say(Op.INVALID), [Op.RST]),
    "data without a connection": (lambda d: d.say(Op.RW, 5, payload=b"x"), [Op.RST]),
    "credit without a connection": (lambda d: d.say(Op.CREDIT_REQUEST, 5), [Op.RST]),
    "an answer to nothing": (lambda d: d.say(Op.RESPONSE, 5), [Op.RST]),
    "a length beyond the packet": (lambda d: d.say(Op.RW, payload=b"x", len=2), [Op.RST]),
    "a length of 4 GiB": (lambda d: d.say(Op.RW, payload=b"x", len=0xFFFFFFFF), [Op.RST]),
    "more than the credit": (lambda d: d.send(*[packet(Op.RW, payload=bytes(CREDIT))] * 5), [Op.RST]),
    "a second request": (lambda d: d.say(Op.REQUEST), [Op.RST]),
    "a second response": (lambda d: d.say(Op.RESPONSE), [Op.RST]),
    "data after the end": (
        lambda d: d.send(packet(Op.SHUTDOWN, flags=Shutdown.SEND), packet(Op.RW, payload=b"x")),
        [Op.RST],
    ),
    "somebody else's CID": (lambda d: d.say(Op.RW, src_cid=8, payload=b"x"), []),
    "a CID with upper bits": (lambda d: d.say(Op.RW, src_cid=GUEST | 1 << 40, payload=b"x"), []),
    "a CID that is nobody's": (lambda d: d.say(Op.REQUEST, 5, dst_cid=9), [Op.RST]),
    "the CID of all": (lambda d: d.say(Op.REQUEST, 5, dst_cid=0xFFFFFFFF), [Op.RST]),
    "an unknown type": (lambda d: d.say(Op.REQUEST, 5, type=9), [Op.RST]),
    "messages, which were not offered": (lambda d: d.say(Op.REQUEST, 5, type=2), [Op.RST]),
    "shutdown flags that do not exist": (lambda d: d.say(Op.SHUTDOWN, flags=0xFFFFFFF0), []),
    "no shutdown flags": (lambda d: d.say(Op.SHUTDOWN, flags=0), []),
    "a RST for nobody": (lambda d: d.say(Op.RST, 5), []),
    "a port that is any": (lambda d: d.say(Op.REQUEST, 0xFFFFFFFF, to=0xFFFFFFFF), [Op.RST]),
    "more forwarded than was sent": (lambda d: d.say(Op.CREDIT_UPDATE, fwd_cnt=0xFFFF0000), []),
    "no credit at all": (lambda d: d.say(Op.CREDIT_UPDATE, buf_alloc=0), []),
}
"""Guests that break the rules, who are connected from port 1000 to port 80, and what the device says to each."""


# Programs of the host.


def answer(sock: socket.socket, reply: Callable[[bytes], bytes]) -> None:
    """Answer each piece that comes, until the other end is gone."""
    with sock, contextlib.suppress(ConnectionError):
        while data := sock.recv(1 << 16):
            sock.sendall(reply(data))


@contextlib.contextmanager
def program(path: Path, port: int, serve: Callable[[socket.socket], None] | None = None) -> Iterator[socket.socket]:
    """Listen as a program of the host; ``serve`` has each connection in a thread, or nobody takes them."""
    place, threads = f"{path}_{port}", list[threading.Thread]()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(MOST_CONNECTIONS)

        def accept() -> None:
            assert serve is not None
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(sock,)))
                threads[-1].start()

        if serve is not None:
            threads.append(threading.Thread(target=accept))
            threads[0].start()
        try:
            yield listener
        finally:
            os.unlink(place)
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def digest(sock: socket.socket) -> None:
    """Answer the whole of what comes with its checksum."""
    with sock, contextlib.suppress(ConnectionError):
        seen = hashlib.sha256()
        while piece := sock.recv(1 << 16):
            seen.update(piece)
        sock.sendall(seen.digest())


def echo(sock: socket.socket) -> None:
    """Answer with what comes."""
    answer(sock, bytes)


def shout(sock: socket.socket) -> None:
    """Answer in capital letters."""
    answer(sock, bytes.upper)
