"""Requests of one shape, taken from the ring together; and how plain Python reads and writes their structures."""

from __future__ import annotations

import struct

from pyvirtio.ring.chain import Chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    Location = tuple[memoryview, int, int]
    """A buffer within one region: the region's view, the offset in it, the length."""

    class RecordBatch(Protocol):
        """What `pop_records` returns: requests of at least the size that was asked for.

        ``requests`` is private memory that holds all of them, one behind the other; it does not change, and it cannot
        be written. ``len`` is the number of records that are not answered yet.
        """

        @property
        def requests(self) -> Any:
            """All requests, also those that are answered, in a buffer."""
            ...

        def take(self) -> Chain:
            """Take the next record out, to answer it as a chain."""
            ...

        def __len__(self) -> int: ...


class PythonBatch:
    """Requests that still lie where the driver put them, until somebody wants all of them; see `RecordBatch`.

    ``records`` are, for each: its head, and where its readable and its writable buffer are. ``sequence`` is the
    sequence number of the first; those of the others follow without a gap.
    """

    def __init__(
        self, records: list[tuple[int, Location, Location]], sequence: int, request_size: int, response_size: int
    ) -> None:
        self._records = records
        self._sequence = sequence
        self._request_size = request_size
        self.response_size = response_size
        self._done = 0
        self._copy: bytes | None = None

    def __len__(self) -> int:
        return len(self._records) - self._done

    @property
    def heads(self) -> list[int]:
        """The heads of the records that are left."""
        return [head for head, _, _ in self._records[self._done :]]

    @property
    def requests(self) -> bytes:
        """All requests, also those that are answered, in one private buffer."""
        if self._copy is None:
            size = self._request_size
            self._copy = b"".join([view[start : start + size] for _, (view, start, _), _ in self._records])
        return self._copy

    def unpacked(self, codec: PythonCodec) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Return head and fields of the records that are left, each read when its turn comes."""
        unpack, records = codec.unpack_from, self._records[self._done :]
        if self._copy is None:
            return ((head, unpack(view, start)) for head, (view, start, _), _ in records)
        # If the copy was seen, the copy is used: each byte of a request is read once.
        copy, size, first = self._copy, self._request_size, self._done
        return ((record[0], unpack(copy, size * index)) for index, record in enumerate(records, first))

    def answer(self, answers: Any) -> list[int]:
        """Write answers of the next records; return their heads.

        Raises:
            ValueError: ``answers`` are not whole answers, or more than there are records left.
        """
        size, data, start = self.response_size, bytes(answers), 0
        records = self._records[self._done : self._done + len(data) // size]
        if len(data) != size * len(records):
            raise ValueError(f"{len(data)} bytes are not answers of {size} bytes for up to {len(self)} records")
        heads = []
        for head, _, (view, place, _) in records:
            view[place : place + size] = data[start : start + size]
            start += size
            heads.append(head)
        self._done += len(heads)
        return heads

    def take(self) -> Chain:
        """Take the next record out, to answer it as a chain."""
        head, *locations = self._records[self._done]
        sequence = self._sequence + self._done
        self._done += 1
        readable, writable = ([view[start : start + length]] for view, start, length in locations)
        return Chain(head, sequence, readable, writable)


class PythonCodec:
    """What plain Python needs to know of a structure to call a method with it, or to write what a method returned.

    ``codes`` are those of its items in the language of the module ``struct``.
    """

    def __init__(self, structure: Any, codes: list[str]) -> None:
        codec = struct.Struct("<" + "".join(codes))
        self.structure = structure
        self.unpack_from = codec.unpack_from
        self._pack = codec.pack
        self._is_number = structure.is_number

    def pack(self, answer: Any) -> bytes | None:
        """Return the bytes of a structure, or of the number that is its only field; None for anything else."""
        try:
            if type(answer) is self.structure:
                return self._pack(*answer)
            if type(answer) is int and self._is_number:
                return self._pack(answer)
        except struct.error:  # a number does not fit
            pass
        return None
