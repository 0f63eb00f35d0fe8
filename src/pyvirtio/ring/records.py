"""Requests of one shape, taken from the ring together; and how plain Python reads and writes their structures."""

from __future__ import annotations

import struct

from pyvirtio.ring.chain import Chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    Place = tuple[memoryview, int, int]

    class RecordBatch(Protocol):
        """What `pop_records` gives.

        ``requests`` is memory that holds all of them, one behind the other, and does not change. ``len`` is the number
        of records that are not answered yet; ``order`` is the place of the first of them in the order of arrival, and
        the others follow without a gap.
        """

        @property
        def requests(self) -> Any:
            """All requests, also those that are answered, in a buffer; raises ImportError where there is no NumPy."""
            ...

        @property
        def order(self) -> int:
            """The next record's place in the order of arrival."""
            ...

        def take(self) -> Chain:
            """Take the next record out, to answer it as a chain."""
            ...

        def __len__(self) -> int: ...


class PythonBatch:
    """Requests that still lie where the driver put them; see `RecordBatch`.

    ``records`` are, for each: its head, and where its readable and its writable buffer are: the view of a region, the
    offset and the length.
    """

    def __init__(self, records: list[tuple[int, Place, Place]], order: int, response_size: int) -> None:
        self.order = order
        self._records = records
        self._response_size = response_size
        self._done = 0

    def __len__(self) -> int:
        return len(self._records) - self._done

    @property
    def requests(self) -> Any:
        """Raises ImportError: plain Python calls no method that wants an array."""
        raise ImportError("this engine makes no arrays")

    def unpacked(self, codec: PythonCodec) -> Iterator[tuple[Any, ...]]:
        """Read the records that are left, one after the other."""
        unpack = codec.unpack_from
        return (unpack(view, start) for _, (view, start, _), _ in self._records[self._done :])

    def answer(self, answers: Any) -> tuple[list[int], int, int]:
        """Write answers of the next records; gives their heads, the bytes that they had, and the bytes of an answer."""
        size, data, start = self._response_size, bytes(answers), 0
        records = self._records[self._done : self._done + len(data) // size]
        if len(data) > size * len(records):
            raise ValueError("the answers are not as long as the records that are left")
        heads, read = [], 0
        for head, (_, _, length), (view, place, _) in records:
            view[place : place + size] = data[start : start + size]
            start += size
            read += length
            heads.append(head)
        self._advance(len(heads))
        return heads, read, size

    def take(self) -> Chain:
        """Take the next record out, to answer it as a chain."""
        order, (head, *places) = self.order, self._records[self._done]
        self._advance(1)
        readable, writable = ([view[start : start + length]] for view, start, length in places)
        return Chain(head, order, readable, writable)

    def _advance(self, number: int) -> None:
        self._done += number
        self.order += number


class PythonCodec:
    """What plain Python needs to know of a structure to call a method with it, or to write what a method gave."""

    def __init__(self, structure: Any) -> None:
        codec = struct.Struct("<" + "".join(structure.codes()))
        self.structure = structure
        self.nbytes = codec.size
        self.unpack_from = codec.unpack_from
        self.iter_unpack = codec.iter_unpack
        self._pack = codec.pack
        self._is_number = structure.is_number

    def pack(self, answer: Any) -> bytes | None:
        """Give the bytes of a structure, or of the number that is its only field; None for what is anything else."""
        try:
            if type(answer) is self.structure:
                return self._pack(*answer)
            if type(answer) is int and self._is_number:
                return self._pack(answer)
        except struct.error:  # a number does not fit
            pass
        return None
