#!/usr/bin/python3
"""Check a file system from inside a guest.

::

    files_check.py ordinary DIR          what programs do with files every day; prints the names that are left
    files_check.py exercise FILE SEED N  N random reads, writes, cuts and mappings of a file, against a model
    files_check.py many DIR N            a directory of N names, listed and emptied
    files_check.py load DIR SEED N       N rounds of making, writing, renaming, reading, removing; prints checksums
    files_check.py hold FILE             keep a file open, and read and write it at each line of input

It runs on a minimal Python; the last line is ``ok`` if all is well.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import stat
import sys
from collections.abc import Callable  # noqa: TC003 - typing is slow to import in a guest


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def fails(number: int, function: Callable[..., object], *arguments: object) -> None:
    found = 0
    try:
        function(*arguments)
    except OSError as error:
        found = error.errno or 0
    assert found == number, (function, arguments, os.strerror(found))


def ordinary(folder: str) -> None:
    os.chdir(folder)
    data = random.Random(1).randbytes(1_000_003)
    write("file", data)
    assert read("file") == data
    assert os.stat("file").st_size == len(data)
    with open("file", "ab") as file:
        file.write(b"more")
    assert read("file") == data + b"more"

    os.rename("file", "renamed")
    fails(errno.ENOENT, os.stat, "file")
    os.mkdir("folder", 0o750)
    assert stat.S_IMODE(os.stat("folder").st_mode) == 0o750
    os.rename("renamed", "folder/file")
    os.rename("folder", "moved")
    assert read("moved/file") == data + b"more"
    fails(errno.ENOTEMPTY, os.rmdir, "moved")
    fails(errno.EEXIST, os.mkdir, "moved")
    fails(errno.EISDIR, write, "moved", b"")
    fails(errno.ENOTDIR, os.stat, "moved/file/x")

    os.chmod("moved/file", 0o640)
    assert stat.S_IMODE(os.stat("moved/file").st_mode) == 0o640
    os.truncate("moved/file", 10)
    assert read("moved/file") == data[:10]
    os.truncate("moved/file", 20)
    assert read("moved/file") == data[:10] + bytes(10)
    os.utime("moved/file", (1_000_000_000, 1_100_000_000))
    assert os.stat("moved/file").st_mtime == 1_100_000_000

    os.symlink("moved/file", "link")
    os.symlink("/etc/hostile", "absolute")
    os.symlink("../../../../../../tmp/of-the-guest", "upwards")
    write("/tmp/of-the-guest", b"the guest's own")
    assert os.readlink("link") == "moved/file"
    assert read("link") == data[:10] + bytes(10)
    assert read("upwards") == b"the guest's own"
    fails(errno.ENOENT, read, "absolute")
    os.link("moved/file", "hard")
    assert os.stat("hard").st_nlink == 2
    os.unlink("hard")
    os.mkfifo("fifo")
    assert stat.S_ISFIFO(os.stat("fifo").st_mode)
    fails(errno.EPERM, os.mknod, "device", stat.S_IFBLK | 0o600, os.makedev(8, 0))

    with open("unlinked", "w+b") as nameless:
        os.unlink("unlinked")
        nameless.write(data)
        nameless.seek(0)
        assert nameless.read() == data
        assert os.fstat(nameless.fileno()).st_size == len(data)
        os.ftruncate(nameless.fileno(), 5)
    with open("moved/file", "rb") as mapped, mmap.mmap(mapped.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[:10] == data[:10]

    os.setxattr("moved/file", "user.colour", b"blue")
    assert os.getxattr("moved/file", "user.colour") == b"blue"
    assert "user.colour" in os.listxattr("moved/file")
    os.removexattr("moved/file", "user.colour")
    fails(errno.ENODATA, os.getxattr, "moved/file", "user.colour")

    with open("moved/file", "r+b") as one, open("moved/file", "r+b") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fails(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert os.statvfs(".").f_blocks > 0
    descriptor = os.open("moved/file", os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    long = "n" * 255
    write(long, b"long")
    assert long in os.listdir(".")
    os.unlink(long)
    fails(errno.ENAMETOOLONG, write, "n" * 256, b"")
    deep = "/".join(["d"] * 40)
    os.makedirs(deep)
    write(f"{deep}/x", b"deep")
    assert read(f"{deep}/x") == b"deep"
    print(*sorted(os.listdir(".")))


def exercise(path: str, seed: int, number: int) -> None:
    """Do to a file and to a model of it the same, and compare whatever is read."""
    rng, model, most = random.Random(seed), bytearray(), 300_000
    write(path, b"")
    descriptor = os.open(path, os.O_RDWR)
    can_share = can_map_shared(descriptor)
    for step in range(number):
        at, length = rng.randrange(most), rng.randrange(1, 40_000)
        action = rng.choice(
            ("read", "read", "write", "write", "write", "cut", "map", "share", "reopen", "append", "sync")
        )
        if action == "write":
            data = rng.randbytes(length)
            if at > len(model):
                model.extend(bytes(at - len(model)))
            model[at : at + length] = data
            assert os.pwrite(descriptor, data, at) == length
        elif action == "read":
            assert os.pread(descriptor, length, at) == model[at : at + length], (step, action, at, length)
        elif action == "cut":
            model = model[:at] + bytes(max(0, at - len(model)))
            os.ftruncate(descriptor, at)
        elif action == "map" and model:
            with mmap.mmap(descriptor, len(model), mmap.MAP_PRIVATE, mmap.PROT_READ) as view:
                assert view[:] == model, (step, action)
        elif action == "share" and model and can_share:
            at %= len(model)
            data = rng.randbytes(min(length, len(model) - at))
            with mmap.mmap(descriptor, len(model)) as view:
                view[at : at + len(data)] = data
                view.flush()
            model[at : at + len(data)] = data
        elif action == "append":
            data = rng.randbytes(length // 10)
            with open(path, "ab") as file:
                file.write(data)
            model.extend(data)
        elif action == "reopen":
            os.close(descriptor)
            descriptor = os.open(path, os.O_RDWR)
        elif action == "sync":
            os.fsync(descriptor)
        if len(model) > 2 * most:
            model = model[:most]
            os.ftruncate(descriptor, most)
        assert os.fstat(descriptor).st_size == len(model), (step, action, os.fstat(descriptor).st_size, len(model))
    os.close(descriptor)
    assert read(path) == model


def can_map_shared(descriptor: int) -> bool:
    os.pwrite(descriptor, b"x", 0)
    try:
        mmap.mmap(descriptor, 1).close()
    except OSError:
        return False
    finally:
        os.ftruncate(descriptor, 0)
    return True


def many(folder: str, number: int) -> None:
    os.mkdir(folder)
    names = {f"entry-{n:05}" for n in range(number)}
    for name in names:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY))
    assert set(os.listdir(folder)) == names
    assert len(os.listdir(folder)) == number
    for entry in os.scandir(folder):
        os.unlink(entry.path)
    os.rmdir(folder)


def load(folder: str, seed: int, number: int) -> None:
    rng = random.Random(seed)
    os.mkdir(folder)
    os.chdir(folder)
    content: dict[str, bytes] = {}
    with open("journal", "w+b") as journal:
        for n in range(number):
            name = f"f{n}"
            data = rng.randbytes(rng.randrange(1, 60_000))
            with open("new", "xb") as file:
                file.write(data)
            os.rename("new", name)
            content[name] = data
            journal.write(name.encode() + b"\n")
            journal.flush()
            other = rng.choice(sorted(content))
            assert read(other) == content[other], other
            if n % 3 == 2:
                os.unlink(other)
                del content[other]
                fails(errno.ENOENT, os.stat, other)
            if n % 7 == 6:
                os.mkdir(f"d{n}")
                os.symlink(name, f"d{n}/link")
                os.rename(f"d{n}", f"e{n}")
                assert sorted(os.listdir(f"e{n}")) == ["link"]
                os.unlink(f"e{n}/link")
                os.rmdir(f"e{n}")
            assert set(os.listdir(".")) == {*content, "journal"}, n
        journal.seek(0)
        assert journal.read().split() == [b"f%d" % n for n in range(number)]
    for name, data in content.items():
        assert read(name) == data


def hold(path: str) -> None:
    with open(path, "r+b", buffering=0) as file:
        print("holding", flush=True)
        for line in sys.stdin:
            file.seek(0, os.SEEK_END)
            file.write(line.encode())
            file.seek(0)
            print(len(file.read()), flush=True)


COMMANDS: dict[str, Callable[..., None]] = {
    "ordinary": ordinary,
    "exercise": exercise,
    "many": many,
    "load": load,
    "hold": hold,
}


def main(command: str, path: str, *numbers: str) -> None:
    COMMANDS[command](path, *map(int, numbers))
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
