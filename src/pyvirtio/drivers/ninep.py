"""A client of a 9P file server: files as paths of bytes and text, without a kernel."""

from __future__ import annotations

import contextlib
import itertools
import os

from pyvirtio.devices.ninep import MOUNT_TAG, Config
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError
from pyvirtio.files.structures import Changes, Open, Set
from pyvirtio.ninep.messages import pack, unpack
from pyvirtio.ninep.structures import NO_FID, NO_TAG, NO_UID, REMOVE_DIRECTORY, VERSION, EntryHead, Header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyvirtio.files.structures import Attributes
    from pyvirtio.ninep.messages import Message

ROOT = 0
_ROOM = 4096
_HEAD = Header.nbytes + 4
"""The bytes before the data of Rread and Rreaddir."""

_WRITE_HEAD = len(pack("Twrite", 0, fid=0, offset=0, count=0))


class NinePDriver(Driver):
    """Works on the files of a 9P device.

    A path is text with ``/`` between names, ``""`` for the root; nothing in it is special, not even a symbolic link.
    Every method raises `OSError` where the server answers with an error.

    >>> from pyvirtio import open_driver
    >>> from pyvirtio.devices.ninep import NineP
    >>> from pyvirtio.files import Objects
    >>> with open_driver(NinePDriver, NineP(Objects({"greeting": "hello"}))) as driver:
    ...     driver.mount()
    ...     driver.names(), driver.read("greeting")
    (['greeting'], b'hello')
    """

    device_id = 9
    device_name = "9p"
    features = MOUNT_TAG
    config = Config
    requests = RequestQueue(size=128)
    msize = 64 << 10

    def mount(self) -> None:
        """Begin a session and take hold of the root."""
        answer = self.ask("Tversion", NO_TAG, msize=self.msize, version=VERSION)
        if answer.version != VERSION:
            raise DeviceError(f"the server speaks {answer.version!r} and not 9P2000.L")
        self.msize = answer.msize
        self._numbers = itertools.count(ROOT + 1)
        self.ask("Tattach", fid=ROOT, afid=NO_FID, uname=b"", aname=b"", n_uname=NO_UID)

    def tag(self) -> str:
        """Return the name by which a guest mounts it."""
        length = Config.unpack(self.transport.read_config(0, Config.nbytes)).tag_len
        return self.transport.read_config(Config.nbytes, length).decode()

    # Messages.

    def ask(self, kind: str, tag: int = 0, /, **fields: Any) -> Message:
        """Send a message and return the answer, if it is the right one."""
        return self.exchange(pack(kind, tag, **fields), kind, tag)

    def exchange(self, request: bytes, kind: str, tag: int = 0) -> Message:
        """Send the bytes of a message of a ``kind``, and return the answer."""
        answer = unpack(self._call(request, _ROOM))
        return self._check(answer, kind, tag)

    def _call(self, request: bytes, room: int) -> bytes:
        data: bytes = self.requests.call(request, room=room)
        return data

    @staticmethod
    def _check(answer: Message, kind: str, tag: int) -> Message:
        if answer.kind == "Rlerror":
            raise OSError(answer.ecode, os.strerror(answer.ecode))
        if (answer.kind, answer.message_tag) != ("R" + kind[1:], tag):
            raise DeviceError(f"the server answered {kind} with {answer}")
        return answer

    def _data(self, kind: str, fid: int, offset: int, count: int) -> bytes:
        """Ask for data; return what came."""
        data = self._call(pack(kind, 0, fid=fid, offset=offset, count=count), _HEAD + count)
        answer = self._check(unpack(data), kind, 0)
        if answer.count != len(data) - _HEAD:
            raise DeviceError(f"the server says that it read {answer.count} bytes; {len(data) - _HEAD} came")
        return data[_HEAD:]

    # Fids.

    @contextlib.contextmanager
    def walked(self, path: str) -> Iterator[int]:
        """Yield a fid for ``path``."""
        fid, names = next(self._numbers), [name.encode() for name in path.split("/") if name]
        self.ask("Twalk", fid=ROOT, newfid=fid, names=[])
        try:
            for start in range(0, len(names), 16):
                part = names[start : start + 16]
                if len(self.ask("Twalk", fid=fid, newfid=fid, names=part).qids) != len(part):
                    raise FileNotFoundError(path)
            yield fid
        finally:
            with contextlib.suppress(OSError):
                self.ask("Tclunk", fid=fid)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, bytes]]:
        parent, _, name = path.rpartition("/")
        with self.walked(parent) as fid:
            yield fid, name.encode()

    # Files.

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        with self.walked(path) as fid:
            self.ask("Tlopen", fid=fid, flags=0)
            parts: list[bytes] = []
            while part := self._data("Tread", fid, sum(map(len, parts)), self.msize - _HEAD):
                parts.append(part)
            return b"".join(parts)

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Make a file with this content, or replace that of one that is there."""
        with self._parent(path) as (fid, name):
            flags = Open.CREATE | Open.TRUNCATE | Open.WRITE_ONLY
            self.ask("Tlcreate", fid=fid, name=name, flags=flags, mode=mode, gid=0)
            self._write_all(fid, data)

    def _write_all(self, fid: int, data: bytes) -> None:
        step, at = self.msize - _WRITE_HEAD, 0
        while at < len(data):
            part = data[at : at + step]
            head = pack("Twrite", 0, fid=fid, offset=at, count=len(part), data_length=len(part))
            at += self.exchange(head + part, "Twrite").count

    def names(self, path: str = "") -> list[str]:
        """Return the names in a directory, sorted."""
        with self.walked(path) as fid:
            self.ask("Tlopen", fid=fid, flags=Open.DIRECTORY)
            found, offset = list[str](), 0
            while data := self._data("Treaddir", fid, offset, self.msize - _HEAD):
                while data:
                    head = EntryHead.unpack(data)
                    found.append(data[EntryHead.nbytes :][: head.length].decode())
                    offset, data = head.offset, data[EntryHead.nbytes + head.length :]
            return sorted(set(found) - {".", ".."})

    def attributes(self, path: str) -> Attributes:
        """Return the attributes of a file."""
        with self.walked(path) as fid:
            found: Attributes = self.ask("Tgetattr", fid=fid, mask=0x7FF).body
            return found

    def truncate(self, path: str, size: int) -> None:
        """Cut a file, or make it longer."""
        with self.walked(path) as fid:
            self.ask("Tsetattr", fid=fid, changes=Changes(valid=Set.SIZE, size=size))

    # Names.

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a directory."""
        with self._parent(path) as (fid, name):
            self.ask("Tmkdir", fid=fid, name=name, mode=mode, gid=0)

    def symlink(self, path: str, target: str) -> None:
        """Make a symbolic link."""
        with self._parent(path) as (fid, name):
            self.ask("Tsymlink", fid=fid, name=name, target=target.encode(), gid=0)

    def readlink(self, path: str) -> str:
        """Return what a symbolic link points to."""
        with self.walked(path) as fid:
            target: bytes = self.ask("Treadlink", fid=fid).target
            return target.decode()

    def rename(self, path: str, new: str) -> None:
        """Move a file or a directory."""
        with self._parent(path) as (fid, name), self._parent(new) as (new_fid, new_name):
            self.ask("Trenameat", fid=fid, name=name, dirfid=new_fid, newname=new_name)

    def remove(self, path: str, *, directory: bool = False) -> None:
        """Remove a file, or an empty directory."""
        with self._parent(path) as (fid, name):
            self.ask("Tunlinkat", fid=fid, name=name, flags=REMOVE_DIRECTORY if directory else 0)
