"""Files and block devices of the host, read and written straight from and into the guest's memory."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os

from pyvirtio.device.files import File
from pyvirtio.system import allocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import TypeVar

    from pyvirtio.device import Reader, Writer

    Stream = TypeVar("Stream")
    Transfer = Callable[[Stream, int, int], Awaitable[int]]

SMALLEST_BLOCK, LARGEST_BLOCK = 512, 65536
"""The sizes of blocks that are tried where the page cache is bypassed, in bytes."""

BOUNCE = 1 << 16
"""The most bytes that are copied at once where they cannot go straight from or into the guest's memory."""


class FileStorage:
    """A file or a block device; see `pyvirtio.storage.Storage`.

    Its content goes through the host's page cache; `DirectStorage` bypasses that.
    """

    FLAGS = 0
    block_size = SMALLEST_BLOCK

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self._fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | self.FLAGS)
        self._file = File(self._fd)
        # The file's own methods: one that forwards would take as long as a request.
        self.read_into: Transfer[Writer] = self._file.read_into
        self.write_from: Transfer[Reader] = self._file.write_from

    def size(self) -> int:
        """Return how many bytes there are now."""
        return os.lseek(self._fd, 0, os.SEEK_END)

    async def sync(self) -> None:
        """End only when everything written before is on the medium."""
        await self._file.sync()

    async def discard(self, offset: int, length: int) -> None:
        """Punch a hole, where the file system can."""
        await asyncio.to_thread(allocation.punch_hole, self._fd, offset, length)

    async def zero(self, offset: int, length: int, *, may_unmap: bool) -> None:
        """Punch a hole, mark a range as zeros, or write them, whichever is first possible."""
        await asyncio.to_thread(self._zero, offset, length, may_unmap)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _zero(self, offset: int, length: int, may_unmap: bool) -> None:
        if may_unmap and allocation.punch_hole(self._fd, offset, length):
            return
        if allocation.zero_range(self._fd, offset, length):
            return
        for start in range(offset, offset + length, BOUNCE):
            self._write_all(_aligned(min(BOUNCE, offset + length - start)), start)

    def _write_all(self, data: memoryview, offset: int) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], offset + written)


class DirectStorage(FileStorage):
    """A file or a block device whose content goes past the host's page cache (O_DIRECT).

    Where the guest's memory does not lie as the host needs it for that, which no driver has to know, content is copied.
    """

    FLAGS = os.O_DIRECT

    def __init__(self, path: Path, *, readonly: bool) -> None:
        super().__init__(path, readonly=readonly)
        self.block_size = _block_size(self._fd)
        self.read_into, self.write_from = self._read_into, self._write_from

    async def _read_into(self, writer: Writer, length: int, offset: int, /) -> int:
        try:
            return await self._file.read_into(writer, length, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return await self._read_copies(writer, length, offset)

    async def _write_from(self, reader: Reader, length: int, offset: int, /) -> int:
        try:
            return await self._file.write_from(reader, length, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        await self._write_copies(reader, length, offset)
        return length

    async def _read_copies(self, writer: Writer, length: int, offset: int) -> int:
        done = 0
        while done < length:
            buffer = _aligned(min(BOUNCE, length - done))
            number = await asyncio.to_thread(os.preadv, self._fd, [buffer], offset + done)
            if not number:
                break
            writer.write(bytes(buffer[:number]))
            done += number
        return done

    async def _write_copies(self, reader: Reader, length: int, offset: int) -> None:
        for start in range(offset, offset + length, BOUNCE):
            buffer = _aligned(min(BOUNCE, offset + length - start))
            buffer[:] = reader.read(len(buffer))
            await asyncio.to_thread(self._write_all, buffer, start)


def _block_size(fd: int) -> int:
    """Return the smallest block that can be read where the page cache is bypassed; that depends on the file system."""
    size = SMALLEST_BLOCK
    while size < LARGEST_BLOCK:
        try:
            os.preadv(fd, [_aligned(size)], 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            size *= 2
        else:
            break
    return size


def _aligned(size: int) -> memoryview:
    """Return zeros that begin at a page, as O_DIRECT needs them."""
    return memoryview(mmap.mmap(-1, size))
