"""FUSE as data: what a virtio file system's requests hold (VIRTIO 1.4, 5.11, and the uapi header ``linux/fuse.h``).

Names are those of the header, without ``fuse_``. Times are seconds since 1970 and nanoseconds, sizes are in bytes.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from pyvirtio.spec.struct import Struct, array, le16, le32, le64, nested

MAJOR, MINOR = 7, 36
"""The version of the protocol that is spoken here; both sides then speak the older one of theirs."""

ROOT = 1
"""The node of the folder that is shared."""

DIRECT_IO = 1
"""A flag of an `OpenOut`: nothing of the file may be cached, for its size is not known before it is read."""

DIRENT_ALIGNMENT = 8
"""Each entry of a folder begins at a multiple of so many bytes."""


class Opcode(IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    DESTROY = 38
    BATCH_FORGET = 42
    RENAME2 = 45


class InitFlags(IntFlag):
    """What the two sides can do."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22


class Valid(IntFlag):
    """Which fields of a `SetattrIn` count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


class InHeader(Struct):
    """What precedes each request; ``len`` is its length with this header, ``nodeid`` what it is about."""

    len: int = le32()
    opcode: int = le32(kind=Opcode)
    unique: int = le64()
    nodeid: int = le64()
    uid: int = le32()
    gid: int = le32()
    pid: int = le32()
    total_extlen: int = le16()
    padding: int = le16()


class OutHeader(Struct):
    """What precedes each answer; ``error`` is 0, or a negative errno as an unsigned number."""

    len: int = le32()
    error: int = le32()
    unique: int = le64()


class Attr(Struct):
    """What is known of a file."""

    ino: int = le64()
    size: int = le64()
    blocks: int = le64()
    atime: int = le64()
    mtime: int = le64()
    ctime: int = le64()
    atimensec: int = le32()
    mtimensec: int = le32()
    ctimensec: int = le32()
    mode: int = le32()
    nlink: int = le32()
    uid: int = le32()
    gid: int = le32()
    rdev: int = le32()
    blksize: int = le32()
    flags: int = le32()


class EntryOut(Struct):
    """The answer to what finds or makes a file; the node is the driver's until it forgets it as often as it got it."""

    nodeid: int = le64()
    generation: int = le64()
    entry_valid: int = le64()
    attr_valid: int = le64()
    entry_valid_nsec: int = le32()
    attr_valid_nsec: int = le32()
    attr: Attr = nested(Attr)


class ForgetOne(Struct):
    """A node, and how often it is forgotten."""

    nodeid: int = le64()
    nlookup: int = le64()


class BatchForgetIn(Struct):
    """How many `ForgetOne` follow."""

    count_: int = le32()
    dummy: int = le32()


class GetattrIn(Struct):
    """Asks for a file's attributes."""

    getattr_flags: int = le32()
    dummy: int = le32()
    fh: int = le64()


class AttrOut(Struct):
    """A file's attributes, and how long they hold."""

    attr_valid: int = le64()
    attr_valid_nsec: int = le32()
    dummy: int = le32()
    attr: Attr = nested(Attr)


class SetattrIn(Struct):
    """Changes those attributes that ``valid`` names."""

    valid: int = le32(kind=Valid)
    padding: int = le32()
    fh: int = le64()
    size: int = le64()
    lock_owner: int = le64()
    atime: int = le64()
    mtime: int = le64()
    ctime: int = le64()
    atimensec: int = le32()
    mtimensec: int = le32()
    ctimensec: int = le32()
    mode: int = le32()
    unused4: int = le32()
    uid: int = le32()
    gid: int = le32()
    unused5: int = le32()


class MkdirIn(Struct):
    """Makes a folder, whose name follows."""

    mode: int = le32()
    umask: int = le32()


class MknodIn(Struct):
    """Makes a file of any kind, whose name follows; ``mode`` says which."""

    mode: int = le32()
    rdev: int = le32()
    umask: int = le32()
    padding: int = le32()


class RenameIn(Struct):
    """Moves a file; its old and its new name follow."""

    newdir: int = le64()


class Rename2In(Struct):
    """The same, with the flags of renameat2(2)."""

    newdir: int = le64()
    flags: int = le32()
    padding: int = le32()


class LinkIn(Struct):
    """Gives a file another name, which follows."""

    oldnodeid: int = le64()


class OpenIn(Struct):
    """Opens a file or a folder; ``flags`` are those of open(2)."""

    flags: int = le32()
    open_flags: int = le32()


class CreateIn(Struct):
    """Makes a file, whose name follows, and opens it."""

    flags: int = le32()
    mode: int = le32()
    umask: int = le32()
    open_flags: int = le32()


class OpenOut(Struct):
    """The handle of what was opened."""

    fh: int = le64()
    open_flags: int = le32()
    backing_id: int = le32()


class ReleaseIn(Struct):
    """Closes a handle."""

    fh: int = le64()
    flags: int = le32()
    release_flags: int = le32()
    lock_owner: int = le64()


class FlushIn(Struct):
    """Says that a descriptor of a file is closed."""

    fh: int = le64()
    unused: int = le32()
    padding: int = le32()
    lock_owner: int = le64()


class FsyncIn(Struct):
    """Asks that what was written lasts."""

    fh: int = le64()
    fsync_flags: int = le32()
    padding: int = le32()


class ReadIn(Struct):
    """Reads from a file or a folder."""

    fh: int = le64()
    offset: int = le64()
    size: int = le32()
    read_flags: int = le32()
    lock_owner: int = le64()
    flags: int = le32()
    padding: int = le32()


class WriteIn(Struct):
    """Writes to a file; the data follows."""

    fh: int = le64()
    offset: int = le64()
    size: int = le32()
    write_flags: int = le32()
    lock_owner: int = le64()
    flags: int = le32()
    padding: int = le32()


class WriteOut(Struct):
    """How much was written."""

    size: int = le32()
    padding: int = le32()


class SetxattrIn(Struct):
    """Sets an extended attribute; its name and its value, of ``size`` bytes, follow."""

    size: int = le32()
    flags: int = le32()


class GetxattrIn(Struct):
    """Asks for an extended attribute, whose name follows, or for the names of all; ``size`` 0 asks how long that is."""

    size: int = le32()
    padding: int = le32()


class GetxattrOut(Struct):
    """How long it is."""

    size: int = le32()
    padding: int = le32()


class Kstatfs(Struct):
    """What is known of a file system."""

    blocks: int = le64()
    bfree: int = le64()
    bavail: int = le64()
    files: int = le64()
    ffree: int = le64()
    bsize: int = le32()
    namelen: int = le32()
    frsize: int = le32()
    padding: int = le32()
    spare: tuple[int, ...] = array(le32(), 6)


class Dirent(Struct):
    """An entry of a folder, whose name follows; ``off`` is where to read on, ``type`` as d_type of readdir(3)."""

    ino: int = le64()
    off: int = le64()
    namelen: int = le32()
    type: int = le32()


class InitIn(Struct):
    """Begins a session."""

    major: int = le32()
    minor: int = le32()
    max_readahead: int = le32()
    flags: int = le32(kind=InitFlags)
    flags2: int = le32()
    unused: tuple[int, ...] = array(le32(), 11)


class InitOut(Struct):
    """What the session is like; ``max_write`` is the most bytes of one write."""

    major: int = le32()
    minor: int = le32()
    max_readahead: int = le32()
    flags: int = le32(kind=InitFlags)
    max_background: int = le16()
    congestion_threshold: int = le16()
    max_write: int = le32()
    time_gran: int = le32()
    max_pages: int = le16()
    map_alignment: int = le16()
    flags2: int = le32()
    max_stack_depth: int = le32()
    request_timeout: int = le16()
    unused: tuple[int, ...] = array(le16(), 11)
