"""A device whose code writes into its worker's channel to the keeper: it shares the process, so it can."""

from __future__ import annotations

import array
import os
import socket

from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

FLOOD = 1_000_000
"""A request to write 50,000 reports."""

MESSAGES = {
    "nothing": b"",
    "bytes": b"\xff\x00garbage",
    "a number": b"7",
    "a list": b"[]",
    "an unknown kind": b'["unknown", {}]',
    "a kind that is a list": b'[["done"], {}]',
    "fields that are a list": b'["done", ["number", "result"]]',
    "no fields": b'["done", {}]',
    "very deep": b"[" * 50_000,
    "very long": b'["done", {"number": 1, "result": "' + b"x" * 100_000 + b'"}]',
    "done with nothing": b'["done", {"number": 999, "result": null}]',
    "done with text": b'["done", {"number": "one", "result": "two"}]',
    "done with a list": b'["done", {"number": [1], "result": [2]}]',
    "a broken queue that is none": b'["broken", {"queue": 77}]',
    "a broken queue that is text": b'["broken", {"queue": "zero"}]',
    "a broken queue that is a list": b'["broken", {"queue": [0]}]',
    "changes that are a number": b'["config", {"changes": 5}]',
    "changes beyond the end": b'["config", {"changes": [[999, 1]]}]',
    "changes before the start": b'["config", {"changes": [[-1000, 1]]}]',
    "changes that are no bytes": b'["config", {"changes": [[0, 256]]}]',
    "changes that are text": b'["config", {"changes": [["0", "1"]]}]',
    "changes that are fractions": b'["config", {"changes": [[0.5, 1.5]]}]',
    "ready again": b'["ready", {"description": 1, "patience": "x", "needs_one_worker": [], "sources": 3}]',
    "failed, late": b'["failed", {"why": "no reason", "usage": 3}]',
}


class Number(Struct):
    value: int = le32()


class Config(Struct):
    state: int = le32()


class Rude(Device):
    """A request is the index of a message to be written, with 30 descriptors along; its answer is that index."""

    config = Config()
    requests = Queue(Number, Number, size=64)

    @requests.each
    def answer(self, request: Number) -> int:
        if request.value == FLOOD:
            with channel() as sock:
                for _ in range(50_000):
                    sock.send(MESSAGES["a broken queue that is none"])
        elif request.value < len(MESSAGES):
            fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1] * 30))]
            with channel() as sock:
                sock.sendmsg([list(MESSAGES.values())[request.value]], fds)
        return request.value


def channel() -> socket.socket:
    """Return the worker's channel: its only socket that carries packets."""
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if sock.type == socket.SOCK_SEQPACKET:
            return sock
        sock.close()
    raise OSError("this process has no channel")
