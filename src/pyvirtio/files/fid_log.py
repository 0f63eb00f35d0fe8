"""What must survive the process that serves a tree: which fids there are, and what was answered last.

The log is a piece of memory that the next process gets: a head of two words, and two halves. Records are written one
behind the other into one half; a single store of the word ``end``, which says which half and how far, makes those of
one message count, all or none. When a half is full, what still counts is written into the other one, and the same word
decides. So a death at any moment leaves the state before a message or the one after it.
"""

from __future__ import annotations

from enum import IntEnum

from pyvirtio.spec.struct import Struct, le32, le64, u8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Item = tuple["Record", bytes]

_FORMAT = 0x3150_394C_4F47_0001
"""What the first word is where a log of this format is there; memory is zero at first."""

_HEAD = 16
_UPPER = 1 << 63  # in the word ``end``: the second half counts


class Kind(IntEnum):
    """What a record says."""

    VERSION = 1  # the session began; ``number`` is its msize
    SET = 2  # the fid ``number`` stands for the path in ``text``
    DROP = 3  # the fid ``number`` is gone
    MOVE = 4  # a path was renamed; ``text`` is the old and the new one, with a NUL between
    NOTE = 5  # the message with the tag ``number`` and the digest at the beginning of ``text`` was answered by the rest


class Record(Struct):
    """What precedes the ``length`` bytes of text of each record."""

    length: int = le32()
    kind: int = u8(kind=Kind)
    number: int = le32()
    flags: int = le32()
    type: int = u8()
    identity: int = le64()


class FidLog:
    """The log in ``memory``, at least some kilobytes."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory[:_HEAD].cast("Q")
        half = (len(memory) - _HEAD) // 2
        self._halves = memory[_HEAD : _HEAD + half], memory[_HEAD + half : _HEAD + 2 * half]
        self._upper = bool(self._words[1] & _UPPER)
        self._end = self._words[1] & ~_UPPER
        self.size = half

    def records(self) -> Iterator[Item]:
        """Yield what is in the log, nothing where it is new or of another format."""
        if self._words[0] != _FORMAT:
            self._upper, self._end = False, 0
            self._words[1] = 0
            self._words[0] = _FORMAT
            return
        data, at = bytes(self._halves[self._upper][: self._end]), 0
        while at < len(data):
            record = Record.unpack(data[at:][: Record.nbytes])
            at += Record.nbytes + record.length
            yield record, data[at - record.length : at]

    @property
    def room(self) -> int:
        """The bytes that are left in this half."""
        return self.size - self._end

    def append(self, record: Record, text: bytes) -> None:
        """Write a record that counts from the next `commit` on; there must be room."""
        self._end = _put(self._halves[self._upper], self._end, record, text)

    def commit(self) -> None:
        """Make everything count that was appended."""
        self._words[1] = self._end | (_UPPER if self._upper else 0)

    def rewrite(self, items: Iterable[Item]) -> None:
        """Let these records be all that there is."""
        half, end = self._halves[not self._upper], 0
        for record, text in items:
            end = _put(half, end, record, text)
        self._upper, self._end = not self._upper, end
        self.commit()

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._words, *self._halves):
            view.release()


def _put(half: memoryview, at: int, record: Record, text: bytes) -> int:
    data = record.replace(length=len(text)).pack() + text
    half[at : at + len(data)] = data
    return at + len(data)
