"""What is said of files, as 9P2000.L lays it out: its values serve every protocol, and the names are its own."""

from enum import IntEnum, IntFlag

from pyvirtio.spec.struct import Struct, le32, le64, nested, u8

LONGEST_NAME = 255
"""The most bytes of a name, as in Linux (NAME_MAX)."""

LONGEST_PATH = 4095
"""The most bytes of a path, and of what a symbolic link points to (PATH_MAX)."""


class QidType(IntFlag):
    """What a qid stands for."""

    DIRECTORY = 0x80
    LINK = 0x02
    FILE = 0x00


class Open(IntFlag):
    """Flags of Tlopen and Tlcreate: Linux's, by the numbers that most architectures have."""

    WRITE_ONLY = 0o1
    READ_WRITE = 0o2
    CREATE = 0o100
    EXCLUSIVE = 0o200
    TRUNCATE = 0o1000
    APPEND = 0o2000
    DSYNC = 0o10000
    DIRECTORY = 0o200000
    SYNC = 0o4010000


ACCESS = 0o3
"""The bits of the flags that say whether to read or to write; 3 is no value for them."""

BASIC = 0x7FF
"""The attributes that Rgetattr has in any case: everything but the time of birth, generation and data version."""


class Set(IntFlag):
    """Which fields of a Tsetattr are to be set. A time without its ..._SET bit becomes the current one."""

    MODE = 0x1
    UID = 0x2
    GID = 0x4
    SIZE = 0x8
    ATIME = 0x10
    MTIME = 0x20
    CTIME = 0x40
    ATIME_SET = 0x80
    MTIME_SET = 0x100


class Lock(IntEnum):
    """What a Tlock asks for."""

    READ = 0
    WRITE = 1
    UNLOCK = 2


class LockStatus(IntEnum):
    """What an Rlock says."""

    SUCCESS = 0
    BLOCKED = 1
    ERROR = 2


XATTR_CREATE, XATTR_REPLACE = 1, 2
"""The flags of Txattrcreate."""


class Qid(Struct):
    """What a server calls a file: ``path`` is one number for each, ``version`` changes with its content."""

    type: int = u8()
    version: int = le32()
    path: int = le64()


class Attributes(Struct):
    """The body of Rgetattr. ``valid`` says which fields count."""

    valid: int = le64(BASIC)
    qid: Qid = nested(Qid)
    mode: int = le32()
    uid: int = le32()
    gid: int = le32()
    nlink: int = le64(1)
    rdev: int = le64()
    size: int = le64()
    blksize: int = le64(4096)
    blocks: int = le64()
    atime_sec: int = le64()
    atime_nsec: int = le64()
    mtime_sec: int = le64()
    mtime_nsec: int = le64()
    ctime_sec: int = le64()
    ctime_nsec: int = le64()
    btime_sec: int = le64()
    btime_nsec: int = le64()
    gen: int = le64()
    data_version: int = le64()


class Changes(Struct):
    """What Tsetattr has behind its fid."""

    valid: int = le32()
    mode: int = le32()
    uid: int = le32()
    gid: int = le32()
    size: int = le64()
    atime_sec: int = le64()
    atime_nsec: int = le64()
    mtime_sec: int = le64()
    mtime_nsec: int = le64()


class FileSystem(Struct):
    """The body of Rstatfs."""

    type: int = le32(0x01021997)
    bsize: int = le32(4096)
    blocks: int = le64()
    bfree: int = le64()
    bavail: int = le64()
    files: int = le64()
    ffree: int = le64()
    fsid: int = le64()
    namelen: int = le32(LONGEST_NAME)
