#!/usr/bin/python3
"""Check /dev/virtio_misc from inside a guest.

::

    driver_check.py values               n! for the article's n, and what each read gives
    driver_check.py misuse               wrong sizes, bad pointers, reads without a question
    driver_check.py concurrent 4 500     processes, requests in each; every answer to its asker
    driver_check.py abandon 300          files closed, or asked again, with the request in flight
    driver_check.py full 300             non-blocking writes until there is no more room, then poll
    driver_check.py come-and-go 1000     the same, while somebody loads and unloads the driver
    driver_check.py until-gone 4         processes that ask until the device fails; why it did
    driver_check.py ask N                the answer, or the name of the error

It runs on a minimal Python; the last line is ``ok`` if all is well. ``VIRTIO_MISC`` names another device.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import select
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable  # noqa: TC003 - typing is slow to import in a guest

PATH = os.environ.get("VIRTIO_MISC", "/dev/virtio_misc")
ARTICLE = (0, 5, 10, 12, 13, 20, 33, 34)
EXACT = 1
WAIT_MS = 20_000


def features() -> str:
    """The negotiated feature bits, bit 0 first, as sysfs shows them."""
    with open(f"/sys/class/misc/{os.path.basename(PATH)}/device/features", encoding="ascii") as file:
        return file.read()


def is_exact() -> bool:
    return features()[EXACT] == "1"


def expected(n: int, *, exact: bool) -> bytes:
    value = math.factorial(n)
    if not exact:
        return struct.pack("=I", value % 2**32)
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "little")


def name_of(error: OSError) -> str:
    return errno.errorcode[error.errno or 0]


def device(flags: int = 0) -> int:
    return os.open(PATH, os.O_RDWR | flags)


def submit(fd: int, n: int) -> None:
    written = os.write(fd, struct.pack("=I", n))
    assert written == 4, written


def drain(fd: int, piece: int = 65536) -> bytes:
    """Read to the answer's end, ``piece`` bytes at a time."""
    return b"".join(iter(lambda: os.read(fd, piece), b""))


def fails(code: int, call: Callable[..., object], *arguments: object) -> None:
    """Assert that the call fails with exactly this error."""
    try:
        outcome = repr(call(*arguments))
    except OSError as error:
        outcome = name_of(error)
    assert outcome == errno.errorcode[code], f"{outcome} instead of {errno.errorcode[code]}"


def values() -> None:
    """Both ways of reading, on one file; a write rewinds."""
    exact = is_exact()
    numbers = ARTICLE + ((100, 1000, 4000) if exact else (35, 1000, 2**32 - 1))
    fd = device()
    for n in numbers:
        want = expected(n, exact=exact) if n < 5000 else bytes(4)
        for piece in (65536, 3, 1):
            submit(fd, n)
            got = drain(fd, piece)
            assert got == want, f"n = {n}: {got.hex()} instead of {want.hex()}"
        assert os.pread(fd, 2, 0) == want[:2], "the answer can be read again"
    if exact:
        for n in (2**32 - 1, 2**31, 10**6):
            submit(fd, n)
            fails(errno.ERANGE, os.read, fd, 4)
    os.close(fd)


def outside(mapping_path: str = "/tmp/outside") -> mmap.mmap:
    """A writable mapping with no memory behind it: every access to it is a fault."""
    fd = os.open(mapping_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.ftruncate(fd, 4096)
    mapping = mmap.mmap(fd, 4096)
    os.ftruncate(fd, 0)
    os.close(fd)
    return mapping


def misuse() -> None:
    fd = device()
    fails(errno.ENODATA, os.read, fd, 4)
    for size in (0, 1, 2, 3, 5, 8, 4096, 1 << 20):
        fails(errno.EINVAL, os.write, fd, bytes(size))
    fails(errno.ENODATA, os.read, fd, 4)
    bad = outside()
    fails(errno.EFAULT, os.write, fd, memoryview(bad)[:4])
    fails(errno.EINVAL, os.write, fd, memoryview(bad))
    fails(errno.ENODATA, os.read, fd, 4)
    submit(fd, 5)
    fails(errno.EFAULT, os.readv, fd, [memoryview(bad)[:4]])
    assert drain(fd) == expected(5, exact=is_exact()), "a failed read takes nothing"
    assert os.read(fd, 0) == b""
    fails(errno.ESPIPE, os.lseek, fd, 0, os.SEEK_SET)
    os.close(fd)


def ask_all(numbers: range) -> None:
    """One file; each answer is compared with its own question."""
    exact = is_exact()
    fd = device()
    for n in numbers:
        submit(fd, n)
        got = drain(fd)
        assert got == expected(n, exact=exact), f"n = {n}: {got.hex()}"
    os.close(fd)


def in_children(count: int, work: Callable[[int], None]) -> None:
    """Run work(0) to work(count - 1), each in a process of its own; all must succeed."""
    children = []
    for index in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                work(index)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must see a failure
                sys.stderr.write(f"child {index}: {error!r}\n")
                os._exit(1)
            os._exit(0)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    assert not any(statuses), statuses


def concurrent(processes: int, requests: int) -> None:
    in_children(processes, lambda index: ask_all(range(index * 100, index * 100 + requests)))


def abandon(count: int) -> None:
    """Requests whose file has gone, or has asked something else, before the answer."""
    for n in range(count):
        fd = device()
        submit(fd, n % 100)
        if n % 2:
            submit(fd, n % 50)
        if n % 4 == 3:
            submit(fd, 6)
            assert drain(fd)[:1] == b"\xd0"
        os.close(fd)
    values()


def come_and_go(count: int) -> None:
    """Like the article's program, again and again; the device node may be missing at times."""
    ends: Counter[str] = Counter()
    while ends["done"] < count:
        fd = None
        try:
            fd = device()
            submit(fd, 5)
            ends["done"] += 1
        except OSError as error:
            ends[name_of(error)] += 1
        finally:
            if fd is not None:
                os.close(fd)
    sys.stdout.write(f"{dict(ends)}\n")
    assert set(ends) <= {"done", "ENOENT", "ENODEV"}, ends


def full(count: int) -> None:
    """More questions than the queue holds, none waiting: EAGAIN at most, and poll says when to go on."""
    files = [device(os.O_NONBLOCK) for _ in range(50)]
    refused = 0
    for index in range(count):
        fd = files[index % len(files)]
        while True:
            try:
                submit(fd, 10)
                break
            except BlockingIOError:
                refused += 1
                room = select.poll()
                room.register(fd, select.POLLOUT)
                assert room.poll(WAIT_MS), "there is never room again"
    exact = is_exact()
    for fd in files:
        ready = select.poll()
        ready.register(fd, select.POLLIN)
        assert ready.poll(WAIT_MS) == [(fd, select.POLLIN)], "no answer"
        assert drain(fd) == expected(10, exact=exact)
        os.close(fd)
    sys.stdout.write(f"refused {refused} times\n")


def interrupt() -> None:
    """A sleeping read or write ends with a signal; for a device that does not answer."""
    for fill in (False, True):
        pid = os.fork()
        if pid == 0:
            fd = device()
            while True:
                submit(fd, 5)
                if not fill:
                    os.read(fd, 4)
        signal.alarm(30)
        os.sched_yield()
        select.select([], [], [], 1)
        os.kill(pid, signal.SIGKILL if fill else signal.SIGTERM)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        signal.alarm(0)


def until_gone(processes: int) -> None:
    """Ask until it fails; say how it ended, for each process."""

    def ask_on(index: int) -> None:
        ends: Counter[str] = Counter()
        fd = device()
        answered = 0
        try:
            while True:
                submit(fd, index)
                assert drain(fd) == expected(index, exact=True)[:4].ljust(4 if not exact else 1, b"\0")
                answered += 1
                if answered == 250:
                    sys.stdout.write(f"process {index} is asking\n")
                    sys.stdout.flush()
        except OSError as error:
            ends[name_of(error)] += 1
        fails(errno.ENODEV if "ENODEV" in ends else errno.EIO, os.write, fd, bytes(4))
        state = select.poll()
        state.register(fd, select.POLLIN | select.POLLOUT)
        ((_, events),) = state.poll(0)
        assert events & select.POLLERR, events
        assert not events & select.POLLOUT, events
        os.close(fd)
        sys.stdout.write(f"process {index}: {answered} answered, then {'/'.join(ends)}\n")
        sys.stdout.flush()

    exact = is_exact()
    in_children(processes, ask_on)


def ask(n: int) -> None:
    fd = device()
    try:
        submit(fd, n)
        answer = drain(fd)
        value = int.from_bytes(answer, "little" if is_exact() else sys.byteorder)
        sys.stdout.write(f"{n}: {value}\n")
    except OSError as error:
        sys.stdout.write(f"{n}: {name_of(error)}\n")
    os.close(fd)


COMMANDS: dict[str, Callable[..., None]] = {
    "values": values,
    "misuse": misuse,
    "concurrent": concurrent,
    "abandon": abandon,
    "full": full,
    "interrupt": interrupt,
    "come-and-go": come_and_go,
    "until-gone": until_gone,
    "ask": ask,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*map(int, sys.argv[2:]))
    sys.stdout.write("ok\n")
