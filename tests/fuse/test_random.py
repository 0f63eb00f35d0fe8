"""Random requests, most of them nonsense, to a folder: nothing outside is touched, and a successor knows the same."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from pyvirtio.device import Reader, Writer
from pyvirtio.files import Folder
from pyvirtio.files.fids import LOG_SIZE
from pyvirtio.fuse import Server
from pyvirtio.fuse.nodes import HANDLES
from pyvirtio.ring import Chain
from pyvirtio.spec import fuse
from pyvirtio.spec.fuse import ROOT, Opcode

if TYPE_CHECKING:
    import random
    from pathlib import Path

    import pytest

    from pyvirtio.spec.struct import Struct

KINDS: dict[int, tuple[type[Struct] | None, int]] = {
    Opcode.LOOKUP: (None, 1),
    Opcode.FORGET: (fuse.FlushIn, 0),
    Opcode.GETATTR: (fuse.GetattrIn, 0),
    Opcode.SETATTR: (fuse.SetattrIn, 0),
    Opcode.READLINK: (None, 0),
    Opcode.SYMLINK: (None, 2),
    Opcode.MKNOD: (fuse.MknodIn, 1),
    Opcode.MKDIR: (fuse.MkdirIn, 1),
    Opcode.UNLINK: (None, 1),
    Opcode.RMDIR: (None, 1),
    Opcode.RENAME: (fuse.RenameIn, 2),
    Opcode.RENAME2: (fuse.Rename2In, 2),
    Opcode.LINK: (fuse.LinkIn, 1),
    Opcode.OPEN: (fuse.OpenIn, 0),
    Opcode.READ: (fuse.ReadIn, 0),
    Opcode.WRITE: (fuse.WriteIn, 0),
    Opcode.STATFS: (None, 0),
    Opcode.RELEASE: (fuse.ReleaseIn, 0),
    Opcode.FSYNC: (fuse.FsyncIn, 0),
    Opcode.SETXATTR: (fuse.SetxattrIn, 1),
    Opcode.GETXATTR: (fuse.GetxattrIn, 1),
    Opcode.LISTXATTR: (fuse.GetxattrIn, 0),
    Opcode.REMOVEXATTR: (None, 1),
    Opcode.FLUSH: (fuse.FlushIn, 0),
    Opcode.OPENDIR: (fuse.OpenIn, 0),
    Opcode.READDIR: (fuse.ReadIn, 0),
    Opcode.CREATE: (fuse.CreateIn, 1),
    Opcode.BATCH_FORGET: (fuse.BatchForgetIn, 0),
}
NAMES = (b"a", b"b", b"c", b"a", b"b", b"..", b".", b"", b"../secret", b"/etc", b"n" * 256, b"\xff", b"user.a")


class Client:
    """Makes requests up, mostly about nodes and handles that there may be."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def number(self) -> int:
        rng = self.rng
        few = (rng.randrange(1, 30), HANDLES + rng.randrange(1, 30), rng.randrange(4096), 0o644, 2, 0o102)
        return rng.choice((*few, *few, 1 << 62, rng.getrandbits(64)))

    def request(self) -> bytes:
        opcode = self.rng.choice(list(KINDS))
        kind, names = KINDS[opcode]
        sizes = [kind.size_of(name) for name in kind().as_dict()] if kind else []
        body = b"".join((self.number() & (1 << 8 * size) - 1).to_bytes(size, "little") for size in sizes)
        body += b"".join(self.rng.choice(NAMES) + b"\0" for _ in range(names))
        body = body[: self.rng.choice((len(body), len(body), len(body), self.rng.randrange(len(body) + 1)))]
        node = self.rng.choice((ROOT, ROOT, self.rng.randrange(1, 30), self.number()))
        return fuse.InHeader(40 + len(body), opcode, self.rng.getrandbits(64), node).pack() + body


async def answer(server: Server, data: bytes, *, repeats: bool = False) -> bytes:
    memory = bytearray(5000)
    writer = Writer(Chain(0, 0, [], [memoryview(memory)]))
    await server.answer(Reader(Chain(0, 0, [memoryview(data)])), writer, repeats=repeats)
    return bytes(memory[: len(memory) - writer.room])


def test_random_requests_leave_no_trace_outside(
    tmp_path: Path, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"outside")
    memory, tree, client = memoryview(bytearray(LOG_SIZE)), Folder(folder), Client(rng)

    async def main() -> int:
        server, succeeded = Server(tree, memory), 0
        await answer(server, fuse.InHeader(104, Opcode.INIT).pack() + fuse.InitIn(7, 38).pack())
        for step in range(10_000):
            data = client.request()
            answered = await answer(server, data)
            succeeded += len(answered) > fuse.OutHeader.nbytes
            if step % 1000 == 999:
                server.close()
                server = Server(tree, memory)
                if Opcode(data[4]) in {Opcode.CREATE, Opcode.MKDIR, Opcode.LOOKUP, Opcode.UNLINK, Opcode.RENAME}:
                    assert await answer(server, data, repeats=True) == answered, data
        server.close()
        return succeeded

    assert asyncio.run(main()) > 100
    tree.close()
    assert sorted(os.listdir(tmp_path)) == ["folder", "secret"]
    assert (tmp_path / "secret").read_bytes() == b"outside"
    assert "[method-failed]" not in caplog.text
