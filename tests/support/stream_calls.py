"""A method for streams that does anything, and its mirror on chains of the reference engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyvirtio.spec.struct import Struct, le16, raw, u8

if TYPE_CHECKING:
    from random import Random

    from pyvirtio.ring import Chain


class Three(Struct):
    """Three bytes."""

    one: int = u8()
    two: int = le16()


class Five(Struct):
    """Five bytes."""

    two: int = le16()
    three: bytes = raw(3)


class Call(NamedTuple):
    """What a call saw and did."""

    data: bytes
    room: int
    answer: bytes


class Failed(Exception):
    """What a call raises now and then."""


class Calls:
    """Notes what it is called for; ``method`` reads and writes in any way, and fails now and then."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.made: list[Call] = []

    def method(self, reader: Any, writer: Any) -> None:
        """Answer one request."""
        rng, room = self.rng, writer.room
        data = self._read(reader)
        assert reader.left == 0
        answer = b""
        for _ in range(rng.randrange(3)):
            answer += self._write(writer, min(writer.room, rng.randrange(6)))
        assert writer.room == room - len(answer)
        self.made.append(Call(data, room, answer))
        if rng.random() < 0.05:
            raise Failed

    def _read(self, reader: Any) -> bytes:
        data = b""
        while reader.left and len(data) < 64:
            way = self.rng.randrange(4)
            if way < 2 and reader.left >= 5:
                data += reader.take((Three, Five)[way]).pack()
            elif way == 2:
                data += b"".join(map(bytes, reader.views(self.rng.randrange(9))))
            else:
                data += reader.read(self.rng.randrange(9))
        return data + bytes(reader.read())

    def _write(self, writer: Any, number: int) -> bytes:
        data = self.rng.randbytes(number)
        if number in (3, 5):
            writer.put((Three if number == 3 else Five).unpack(data))
        elif self.rng.random() < 0.2:
            data = bytes(number)
            writer.skip(number)
        elif self.rng.random() < 0.2:
            at = 0
            for view in writer.views(number):
                view[:] = data[at : at + len(view)]
                at += len(view)
            writer.advance(number)
        else:
            writer.write(data)
        return data


def mirror(call: Call, chain: Chain) -> None:
    """Do the same with a chain."""
    assert chain.error is None
    assert (chain.read(1 << 40), chain.room) == (call.data, call.room)
    chain.write(call.answer)
