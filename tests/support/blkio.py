"""libblkio from Python: a front-end for vhost-user disks that has nothing in common with ours (blkio(3))."""

from __future__ import annotations

import contextlib
import ctypes
from ctypes import byref, c_char_p, c_int, c_int64, c_long, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60  # seconds


class _Region(ctypes.Structure):
    _fields_ = (
        ("address", c_void_p),
        ("length", c_size_t),
        ("iova", c_uint64),
        ("fd_offset", c_int64),
        ("fd", c_int),
        ("flags", c_uint32),
    )


class _Completion(ctypes.Structure):
    _fields_ = (("user_data", c_void_p), ("error", c_char_p), ("result", c_int), ("reserved", c_uint8 * 12))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", c_long), ("nanoseconds", c_long))


class Blkio:
    """A disk behind a vhost-user socket, and ``slots`` pieces of shared memory of ``size`` bytes each."""

    def __init__(self, library: Path, socket: str, *, queues: int, slots: int, size: int, readonly: bool) -> None:
        self._library = ctypes.CDLL(str(library))
        for name in ("blkio_get_error_msg", "blkio_get_queue"):
            getattr(self._library, name).restype = c_char_p if name.endswith("msg") else c_void_p
        self._blkio = c_void_p()
        self._size = size
        self._check("blkio_create", b"virtio-blk-vhost-user", byref(self._blkio))
        self._region = _Region()
        try:
            self._start(socket, queues=queues, readonly=readonly)
            self._check("blkio_alloc_mem_region", self._blkio, byref(self._region), c_size_t(slots * size))
            self._check("blkio_map_mem_region", self._blkio, byref(self._region))
        except BaseException:
            self.close()
            raise

    def _start(self, socket: str, *, queues: int, readonly: bool) -> None:
        self._check("blkio_set_str", self._blkio, b"path", socket.encode())
        self._check("blkio_set_bool", self._blkio, b"read-only", ctypes.c_bool(readonly))
        self._check("blkio_connect", self._blkio)
        self._check("blkio_set_int", self._blkio, b"num-queues", queues)
        self._check("blkio_start", self._blkio)

    def _check(self, name: str, *arguments: object) -> None:
        if result := getattr(self._library, name)(*arguments):
            raise OSError(-result, f"{name}: {self._library.blkio_get_error_msg().decode()}")

    def capacity(self) -> int:
        """Return the disk's size in bytes."""
        value = c_uint64()
        self._check("blkio_get_uint64", self._blkio, b"capacity", byref(value))
        return value.value

    # Requests. A slot is the number of a piece of the shared memory, and comes back from `completions`.

    def fill(self, slot: int, data: bytes) -> None:
        """Put data into a slot."""
        ctypes.memmove(self._address(slot), data, len(data))

    def content(self, slot: int, length: int) -> bytes:
        """Return what is in a slot."""
        return ctypes.string_at(self._address(slot), length)

    def _address(self, slot: int) -> int:
        return int(self._region.address) + slot * self._size

    def submit(self, queue: int, what: str, slot: int, offset: int, length: int) -> None:
        """Begin to ``read`` into a slot, or to ``write`` from it."""
        self._begin(queue, what, c_uint64(offset), c_void_p(self._address(slot)), c_size_t(length), c_void_p(slot))

    def submit_range(self, queue: int, what: str, slot: int, offset: int, length: int) -> None:
        """Begin to ``discard`` a range, or to ``write_zeroes`` there."""
        self._begin(queue, what, c_uint64(offset), c_uint64(length), c_void_p(slot))

    def flush(self, queue: int) -> None:
        """Flush and wait for that."""
        self._begin(queue, "flush", c_void_p(0))
        assert self.completions(queue) == [(0, 0)]

    def _begin(self, queue: int, what: str, *arguments: object) -> None:
        getattr(self._library, f"blkioq_{what}")(self._queue(queue), *arguments, c_uint32(0))

    def _queue(self, index: int) -> c_void_p:
        return c_void_p(self._library.blkio_get_queue(self._blkio, index))

    def completions(self, queue: int) -> list[tuple[int, int]]:
        """Submit what was begun and wait for something; return slots, and 0 or a negative errno for each."""
        found = (_Completion * 64)()
        limit = _Timespec(PATIENCE, 0)
        number = self._library.blkioq_do_io(self._queue(queue), found, 1, len(found), byref(limit))
        assert number > 0, self._library.blkio_get_error_msg().decode()
        return [(completion.user_data or 0, completion.result) for completion in found[:number]]

    def close(self) -> None:
        """Disconnect."""
        self._library.blkio_destroy(byref(self._blkio))


@contextlib.contextmanager
def connected(
    library: Path, socket: str, *, queues: int = 1, slots: int = 64, size: int = 4096, readonly: bool = False
) -> Iterator[Blkio]:
    """Drive the disk behind ``socket`` while the block runs."""
    disk = Blkio(library, socket, queues=queues, slots=slots, size=size, readonly=readonly)
    with contextlib.closing(disk):
        yield disk
