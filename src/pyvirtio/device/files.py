"""A file of a device, which an ``async def`` method reads into guest memory and writes from it.

What can be had at once, from the system's cache, is had at once. What has to wait for a disk goes through an io_uring
of the event loop, in batches, straight from and into the guest's memory; where there is none (an old kernel, a
container that forbids it, the engine in Python) it goes through threads. That is the only difference.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from pyvirtio.device.file_io import running_io
from pyvirtio.device.streams import MOST_PARTS
from pyvirtio.errors import LocalError
from pyvirtio.ring.engine import engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from pyvirtio.device.streams import Reader, Writer
    from pyvirtio.ring import _native

EAGER = getattr(os, "RWF_NOWAIT", 8)
"""Have the system refuse what it cannot do at once."""


class File:
    """A file whose content requests are read from and written to, without keeping other requests waiting.

    ``fd`` is an open file or block device that the caller closes, after the device's end. A file that was opened with
    O_DIRECT is read and written past the system's cache, which takes buffers, lengths and offsets that are aligned.

    An operation begins when its method is called. Await it before the next one on the same reader or writer, and before
    the request's method returns. Where it is cancelled, that takes as long as the system uses the guest's memory.

    >>> from pyvirtio import Device, Driver, Queue, RequestQueue, open_driver
    >>> class Rom(Device):
    ...     requests = Queue(size=16)
    ...
    ...     def __init__(self, fd):
    ...         self.file = File(fd)
    ...
    ...     @requests.stream
    ...     async def read(self, reader, writer):
    ...         await self.file.read_into(writer, -1, int.from_bytes(reader.read(), "little"))
    >>> class RomDriver(Driver):
    ...     device_id = 38
    ...     requests = RequestQueue()
    >>> fd = os.memfd_create("rom")
    >>> _ = os.pwrite(fd, b"content", 0)
    >>> with open_driver(RomDriver, Rom(fd)) as driver:
    ...     driver.requests.submit(bytes([3]), room=10).data()
    b'tent'
    >>> os.close(fd)

    Raises:
        LocalError: ``fd`` is not open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._tries = _is_cached(fd)
        self._busy: set[int] = set()
        if engine() == "native":
            from pyvirtio.ring import _native

            native = _native.File(fd, self._tries, _open_uring, self._read, self._write, self._sync)
            # The C functions are the methods: a method that forwards would take as long as they do.
            for name in ("read_into", "write_from", "sync"):
                setattr(self, name, getattr(native, name))

    def read_into(self, writer: Writer, length: int, offset: int, /) -> Awaitable[int]:
        """Read up to ``length`` bytes from ``offset`` on into the room of ``writer``; await the number that came.

        Negative lengths stand for all the room. There are fewer than that only at the end of the file. They count as
        written.

        Raises:
            OSError: the system refuses. Nothing counts as written then.
            LocalError: ``offset`` is negative, the request is over, or another operation on it goes on.
        """
        return self._read(writer, length, offset)

    def write_from(self, reader: Reader, length: int, offset: int, /) -> Awaitable[int]:
        """Write up to ``length`` bytes of ``reader`` from ``offset`` on; await the number, all that there are.

        Negative lengths stand for all that is left. They count as read.

        Raises:
            OSError: the system refuses; some may be in the file.
            LocalError: as `read_into` does.
        """
        return self._write(reader, length, offset)

    def sync(self) -> Awaitable[None]:
        """Await that the disk has what was written (fdatasync).

        Raises:
            OSError: it has not.
        """
        return self._sync()

    # By system calls that do not wait, and threads.

    async def _read(self, writer: Writer, length: int, offset: int) -> int:
        with self._alone(writer, offset):
            done = await self._transfer(os.preadv, writer.views(length), offset)
            writer.advance(done)
            return done

    async def _write(self, reader: Reader, length: int, offset: int) -> int:
        with self._alone(reader, offset):
            return await self._transfer(os.pwritev, reader.views(length), offset)

    @contextlib.contextmanager
    def _alone(self, stream: Reader | Writer, offset: int) -> Generator[None]:
        """Refuse what cannot be begun."""
        if offset < 0:
            raise LocalError(f"the offset {offset} is before the file's beginning; give one from 0 on")
        if id(stream) in self._busy:
            raise LocalError("one operation at a time: await the one that goes on")
        self._busy.add(id(stream))
        try:
            yield
        finally:
            self._busy.discard(id(stream))

    async def _sync(self) -> None:
        await running_io().call(os.fdatasync, self._fd)

    async def _transfer(self, call: Callable[..., int], views: list[memoryview], offset: int) -> int:
        total, done = sum(map(len, views)), 0
        while done < total:
            number = await self._transfer_some(call, views[:MOST_PARTS], offset + done)
            if not number and call is os.pwritev:
                raise OSError(errno.EIO, "the file takes no more, and does not say why")
            if not number:
                break
            done += number
            views = _behind(views, number)
        return done

    async def _transfer_some(self, call: Callable[..., int], views: list[memoryview], offset: int) -> int:
        if self._tries:
            try:
                return call(self._fd, views, offset, EAGER)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._tries = False
        return await running_io().call(call, self._fd, views, offset)


_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)


def _open_uring() -> _native.Uring | None:
    return running_io().uring()


def _is_cached(fd: int) -> bool:
    """Return whether something may be had at once: what goes past the cache waits for the disk, whatever its flags."""
    try:
        return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
    except OSError as error:
        raise LocalError(f"{fd} is no open file: {error.strerror}; give the descriptor of one") from error


def _behind(views: list[memoryview], number: int) -> list[memoryview]:
    """Return what is left of views behind their first ``number`` bytes."""
    left = []
    for view in views:
        if number < len(view):
            left.append(view[number:])
        number = max(0, number - len(view))
    return left
