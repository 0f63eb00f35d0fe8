"""Messages that no honest client sends, each with the errors that it may get; used in process and over a socket."""

from __future__ import annotations

import errno

from pyvirtio.files.structures import Changes, Set
from pyvirtio.ninep.messages import FORMATS, pack
from pyvirtio.ninep.structures import NO_FID, NO_TAG, NO_UID, VERSION, Header

ROOT, FILE, OPEN, DIRECTORY = 0, 1, 2, 3
"""The fids that are there before: the root, a file, that file open for reading and writing, the root open."""

GIB = 1 << 30


def message(number: int, body: bytes, *, size: int | None = None, tag: int = 1) -> bytes:
    """Return the bytes of a message, whatever it is."""
    return Header(Header.nbytes + len(body) if size is None else size, number, tag).pack() + body


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def text(value: bytes, length: int | None = None) -> bytes:
    return number(len(value) if length is None else length, 2) + value


TWALK, TREAD, TWRITE = (FORMATS[kind].number for kind in ("Twalk", "Tread", "Twrite"))


def walk(fid: int, newfid: int, names: list[bytes], count: int | None = None) -> bytes:
    listed = number(len(names) if count is None else count, 2) + b"".join(map(text, names))
    return message(TWALK, number(fid) + number(newfid) + listed)


def write(fid: int, offset: int, count: int, data: bytes, size: int | None = None) -> bytes:
    return message(TWRITE, number(fid) + number(offset, 8) + number(count) + data, size=size)


PROTO, BADF, INVAL = errno.EPROTO, errno.EBADF, errno.EINVAL

MESSAGES: dict[str, tuple[bytes, int]] = {
    # Sizes that lie.
    "a size of 0": (message(TREAD, bytes(16), size=0), PROTO),
    "a size that is too small": (message(TREAD, bytes(16), size=22), PROTO),
    "a size that is too large": (message(TREAD, bytes(16), size=24), PROTO),
    "a size of 4 GiB": (message(TREAD, bytes(16), size=0xFFFFFFFF), PROTO),
    "nothing behind the head": (message(TREAD, b""), PROTO),
    "more behind the end": (message(TREAD, bytes(17)), PROTO),
    "a name that is longer than the message": (message(TWALK, bytes(8) + number(1, 2) + text(b"a", 1000)), PROTO),
    "more names than there are": (walk(ROOT, 9, [b"a"], count=2), PROTO),
    "65535 names": (walk(ROOT, 9, [b"a"], count=65535), PROTO),
    "fewer names than there are": (walk(ROOT, 9, [b"a", b"b"], count=1), PROTO),
    "a write that is longer than its data": (write(OPEN, 0, 100, b"short"), PROTO),
    "a write that is shorter than its data": (write(OPEN, 0, 1, b"longer"), PROTO),
    "a write of 4 GiB": (write(OPEN, 0, 0xFFFFFFFF, b"x"), PROTO),
    "a write that ends before its count": (message(TWRITE, bytes(15)), PROTO),
    # Names.
    "17 names": (walk(ROOT, 9, [b".."] * 17), INVAL),
    "a name with a slash": (walk(ROOT, 9, [b"../file"]), INVAL),
    "a name with a NUL": (walk(ROOT, 9, [b"file\0"]), INVAL),
    "an empty name": (walk(ROOT, 9, [b""]), INVAL),
    "a name of 256 bytes": (walk(ROOT, 9, [b"n" * 256]), errno.ENAMETOOLONG),
    "a new file called ..": (pack("Tlcreate", 1, fid=FILE, name=b"..", flags=1, mode=0, gid=0), INVAL),
    "a new directory with a slash": (pack("Tmkdir", 1, fid=ROOT, name=b"a/b", mode=0o755, gid=0), INVAL),
    "a link to nothing": (pack("Tsymlink", 1, fid=ROOT, name=b"l", target=b"", gid=0), INVAL),
    "a link with a NUL": (pack("Tsymlink", 1, fid=ROOT, name=b"l", target=b"a\0b", gid=0), INVAL),
    "a link that is too long": (
        pack("Tsymlink", 1, fid=ROOT, name=b"l", target=b"t" * 5000, gid=0),
        errno.ENAMETOOLONG,
    ),
    # Fids.
    "a fid that is in use": (walk(ROOT, FILE, []), BADF),
    "a fid that is in use by itself": (walk(OPEN, OPEN, []), BADF),
    "an attach to a fid in use": (
        pack("Tattach", 1, fid=ROOT, afid=NO_FID, uname=b"", aname=b"", n_uname=NO_UID),
        BADF,
    ),
    "a fid that nobody has": (pack("Tclunk", 1, fid=77), BADF),
    "the fid that is none": (walk(ROOT, NO_FID, []), BADF),
    "reading what is not open": (pack("Tread", 1, fid=FILE, offset=0, count=10), BADF),
    "walking from what is open": (walk(OPEN, 9, [b"x"]), BADF),
    "an attribute for what is open": (pack("Txattrcreate", 1, fid=OPEN, name=b"user.x", size=1, flags=0), BADF),
    "an attribute of 16 EiB": (
        pack("Txattrcreate", 1, fid=FILE, name=b"user.x", size=(1 << 64) - 1, flags=0),
        errno.E2BIG,
    ),
    # Offsets and counts.
    "reading at 2**63": (pack("Tread", 1, fid=OPEN, offset=1 << 63, count=10), INVAL),
    "reading at 2**64 - 1": (pack("Tread", 1, fid=OPEN, offset=(1 << 64) - 1, count=10), INVAL),
    "writing at 2**63": (write(OPEN, 1 << 63, 1, b"x"), INVAL),
    "writing across 2**63": (write(OPEN, (1 << 63) - 1, 2, b"xx"), INVAL),
    "reading a directory as a file": (pack("Tread", 1, fid=DIRECTORY, offset=0, count=10), errno.EISDIR),
    "a directory at 2**64 - 1": (pack("Treaddir", 1, fid=DIRECTORY, offset=(1 << 64) - 1, count=1000), INVAL),
    "cutting at 2**64 - 1": (
        pack("Tsetattr", 1, fid=OPEN, changes=Changes(valid=Set.SIZE, size=(1 << 64) - 1)),
        errno.EFBIG,
    ),
    "a time beyond all times": (
        pack(
            "Tsetattr",
            1,
            fid=OPEN,
            changes=Changes(valid=Set.ATIME | Set.ATIME_SET, atime_sec=(1 << 64) - 1, atime_nsec=(1 << 64) - 1),
        ),
        INVAL,
    ),
    # Kinds.
    "a message of the server": (pack("Rread", 1, count=0), errno.EOPNOTSUPP),
    "a message that does not exist": (message(200, b""), PROTO),
    "the message 0": (message(0, b""), PROTO),
    "Tlerror": (message(6, bytes(4)), PROTO),
    "Topen of 9P2000": (message(112, bytes(5)), PROTO),
    "an error from the client": (pack("Rlerror", 1, ecode=5), errno.EOPNOTSUPP),
    "a lock of no kind": (
        pack("Tlock", 1, fid=OPEN, type=9, flags=0, start=0, length=0, proc_id=1, client_id=b"x"),
        INVAL,
    ),
    "a lock beyond 2**63": (
        pack("Tlock", 1, fid=OPEN, type=0, flags=0, start=(1 << 64) - 1, length=1, proc_id=1, client_id=b"x"),
        INVAL,
    ),
    "a session with messages of 0 bytes": (pack("Tversion", NO_TAG, msize=0, version=VERSION), errno.EMSGSIZE),
    "a session with messages of 10 bytes": (pack("Tversion", NO_TAG, msize=10, version=VERSION), errno.EMSGSIZE),
}
"""By what is wrong: the message, and the error that it gets. None of them changes anything."""

BEGINNING = [
    pack("Tversion", NO_TAG, msize=8192, version=VERSION),
    pack("Tattach", 1, fid=ROOT, afid=NO_FID, uname=b"", aname=b"", n_uname=NO_UID),
    walk(ROOT, FILE, [b"file"]),
    walk(ROOT, OPEN, [b"file"]),
    pack("Tlopen", 1, fid=OPEN, flags=2),
    walk(ROOT, DIRECTORY, []),
    pack("Tlopen", 1, fid=DIRECTORY, flags=0),
]
"""What is sent before, so that the fids are there."""

HUGE = pack("Tread", 1, fid=OPEN, offset=0, count=2 * GIB)
"""A read of 2 GiB, which is answered with what there is room for."""

ORDINARY = pack("Tread", 1, fid=OPEN, offset=0, count=100)
"""What is answered with the content of the file, whatever was sent before."""
