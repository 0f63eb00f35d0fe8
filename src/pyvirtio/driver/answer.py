"""How the bytes that a device writes for one request are read: a structure, data, a structure at the end."""

from __future__ import annotations

from pyvirtio.errors import DeviceError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.spec.struct import Struct


class Answer:
    """An answer in parts: ``head`` and ``tail`` are structures, or None where none is declared; ``data`` is bytes."""

    __slots__ = ("data", "head", "tail")

    def __init__(self, head: Any, data: bytes, tail: Any) -> None:
        self.head = head
        self.data = data
        self.tail = tail

    def __repr__(self) -> str:
        return f"Answer(head={self.head!r}, data={self.data!r}, tail={self.tail!r})"


class AnswerFormat:
    r"""The parts of an answer.

    ``room`` is, here and elsewhere, the number of bytes that the device may write for a request. The tail lies in the
    last of them, wherever the data ends: its place must not depend on what the device wrote before.

    >>> from pyvirtio.spec.struct import Struct, u8
    >>> class Status(Struct):
    ...     code: int = u8()
    >>> answers = AnswerFormat(None, Status)
    >>> answers.buffers(513)
    [512, 1]
    >>> answers.read(b"four", b"\x00", room=513)
    Answer(head=None, data=b'four', tail=Status(code=0))
    """

    def __init__(self, head: type[Struct] | None, tail: type[Struct] | None = None, *, data: bool = False) -> None:
        self._head = head
        self._tail = tail
        self._head_size = head.nbytes if head else 0
        self.tail_size = tail.nbytes if tail else 0
        self._in_parts = data or tail is not None
        self.default_room = self._head_size + self.tail_size if tail or (head and not data) else None
        """The room that a request is given unless told otherwise; None where it is not known."""

    def buffers(self, room: int) -> list[int]:
        """Return the lengths of the buffers to offer for an answer of at most ``room`` bytes.

        Head, data and tail have a buffer each where a tail is declared: no device needs that (VIRTIO 1.4, 2.7.4.1),
        but some rely on it, for Linux does it.

        Raises:
            LocalError: the declared structures do not fit.
        """
        if not self._in_parts and room >= 0:
            return [room] if room else []
        data = room - self._head_size - self.tail_size
        if data < 0:
            raise LocalError(
                f"an answer takes at least {self._head_size + self.tail_size} bytes, and room={room} was given; "
                "give more"
            )
        if not self.tail_size:
            return [room] if room else []
        return [length for length in (self._head_size, data, self.tail_size) if length]

    def read(self, written: bytes, tail: bytes, room: int) -> Any:
        """Read an answer from the bytes that the device says it wrote, and from the last bytes of the room.

        Raises:
            DeviceError: the answer is shorter than the structures.
        """
        if self._head is None and not self._in_parts:
            return written
        if len(written) < self._head_size or (self.tail_size and not written):
            raise DeviceError(
                f"the device answered with {len(written)} bytes; "
                f"{(self._head or self._tail).__name__} takes "  # type: ignore[union-attr]  # one is there
                f"{self._head_size or self.tail_size}. It does so for a request that it cannot use: look at its log"
            )
        head = self._head.unpack(written) if self._head else None
        if not self._in_parts:
            return head
        data = written[self._head_size : room - self.tail_size]
        return Answer(head, data, self._tail.unpack(tail) if self._tail else None)
