"""Files and block devices of the host, read and written straight from and into the guest's memory."""

from __future__ import annotations

import errno
import mmap
import os

from pyvirtio.system import allocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio.device import Reader, Writer

SMALLEST_BLOCK, LARGEST_BLOCK = 512, 65536
"""The sizes of blocks that are tried where the page cache is bypassed, in bytes."""

BOUNCE = 1 << 16
"""The most bytes that are copied at once where they cannot go straight from or into the guest's memory."""


class FileStorage:
    """A file or a block device; see `pyvirtio.storage.Storage`. With ``direct`` the page cache is bypassed."""

    def __init__(self, path: Path, *, readonly: bool, direct: bool) -> None:
        access = os.O_RDONLY if readonly else os.O_RDWR
        self._fd = os.open(path, access | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
        self._direct = direct
        self.block_size = _block_size(self._fd) if direct else SMALLEST_BLOCK

    def size(self) -> int:
        """Return how many bytes there are now."""
        return os.lseek(self._fd, 0, os.SEEK_END)

    async def read_into(self, writer: Writer, length: int, offset: int) -> None:
        """Read ``length`` bytes into the request's next room."""
        end = offset + length
        while offset < end:
            try:
                number = writer.read_from(self._fd, end - offset, offset)
            except OSError as error:
                if not self._is_misaligned(error):
                    raise
                number = self._read_copy(writer, end - offset, offset)
            if not number:
                raise OSError(errno.EIO, f"the file ends at {offset}, {end - offset} bytes too early")
            offset += number

    async def write_from(self, reader: Reader, length: int, offset: int) -> None:
        """Write the request's next ``length`` bytes."""
        end = offset + length
        while offset < end:
            try:
                offset += reader.write_to(self._fd, end - offset, offset)
            except OSError as error:
                if not self._is_misaligned(error):
                    raise
                offset += self._write_copy(reader, end - offset, offset)

    def _is_misaligned(self, error: OSError) -> bool:
        """Return whether the guest's memory does not lie as O_DIRECT needs it, which no driver has to know."""
        return self._direct and error.errno == errno.EINVAL

    def _read_copy(self, writer: Writer, length: int, offset: int) -> int:
        buffer = _aligned(min(length, BOUNCE))
        number = os.preadv(self._fd, [buffer], offset)
        writer.write(bytes(buffer[:number]))
        return number

    def _write_copy(self, reader: Reader, length: int, offset: int) -> int:
        buffer = _aligned(min(length, BOUNCE))
        buffer[:] = reader.read(len(buffer))
        written = 0
        while written < len(buffer):
            written += os.pwrite(self._fd, buffer[written:], offset + written)
        return written

    async def sync(self) -> None:
        """End only when everything written before is on the medium."""
        os.fdatasync(self._fd)

    async def discard(self, offset: int, length: int) -> None:
        """Punch a hole, where the file system can."""
        allocation.punch_hole(self._fd, offset, length)

    async def zero(self, offset: int, length: int, *, may_unmap: bool) -> None:
        """Punch a hole, mark a range as zeros, or write them, whichever is first possible."""
        if may_unmap and allocation.punch_hole(self._fd, offset, length):
            return
        if allocation.zero_range(self._fd, offset, length):
            return
        end = offset + length
        zeros = _aligned(BOUNCE)
        while offset < end:
            offset += os.pwrite(self._fd, zeros[: end - offset], offset)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


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
