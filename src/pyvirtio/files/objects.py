"""A tree of Python objects: dictionaries are directories, and reading or writing a file calls a function.

>>> lamp = {"on": False}
>>> def switch(data: bytes) -> None:
...     lamp["on"] = data.strip() == b"1"
>>> tree = Objects({"readme": "write 1 to lamp", "lamp": (lambda: f"{lamp['on']:d}", switch)})
>>> [name for *_, name in tree.open((), 0).entries(0)]
[b'.', b'..', b'lamp', b'readme']
"""

from __future__ import annotations

import errno
import hashlib
import stat
import time
from collections.abc import Callable, Mapping

from pyvirtio.files.structures import ACCESS, Attributes, Open, Qid, QidType, Set
from pyvirtio.files.tree import File, Tree, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from typing import Any

    from pyvirtio.files.structures import Changes
    from pyvirtio.files.tree import Entry, Path, Sink, Source

    Content = str | bytes
    Read = Callable[[], Content | Awaitable[Content]]
    Write = Callable[[bytes], object]
    Node = Mapping[str, Any] | Content | Read | tuple[Read | None, Write | None]

_DIRECTORY, _FILE = stat.S_IFDIR >> 12, stat.S_IFREG >> 12  # types of entries, as in ``d_type``


class Objects(Tree):
    """The tree whose root is the mapping ``root``.

    A mapping is a directory, and may change at any time. Text or bytes are a file to be read. A function is one, too:
    it returns the text or bytes, and is called whenever somebody reads from the beginning. A pair is a function to read
    and one to write, either of which may be None; the latter is called with the bytes of each write. A function may be
    ``async def``: then others are served meanwhile, and it is cancelled when the client gives up. One that raises
    `OSError` chooses the error that the client sees.

    What a function will return is not known before, so its file has the size 0, as files in ``/proc`` have.
    """

    knows_sizes = False

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._since = time.time_ns()

    def _find(self, path: Path) -> Node:
        node: Node = self._root
        for name in path:
            if not isinstance(node, Mapping):
                refuse(errno.ENOTDIR)
            try:
                node = node[name.decode()]
            except (KeyError, UnicodeDecodeError):
                refuse(errno.ENOENT)
        return node

    def attributes(self, path: Path) -> Attributes:
        """Return who may do what; a file can be changed by whoever may write it."""
        node = self._find(path)
        seconds, ns = divmod(self._since, 10**9)
        times = {f"{which}time_{part}": value for which in "amc" for part, value in (("sec", seconds), ("nsec", ns))}
        size = len(_encoded(node)) if isinstance(node, str | bytes) else 0
        return Attributes(qid=_qid(path, node), mode=_mode(node), size=size, blocks=-(-size // 512), **times)

    def open(self, path: Path, flags: int) -> File:
        """Open a file for what it can do."""
        node = self._find(path)
        if isinstance(node, Mapping):
            if flags & ACCESS:
                refuse(errno.EISDIR)
            return _Directory(self, path, node)
        read, write = _functions(node)
        wants_read, wants_write = {0: (True, False), 1: (False, True)}.get(flags & ACCESS, (True, True))
        if (wants_read and read is None) or (wants_write and write is None):
            refuse(errno.EACCES)
        return _File(self, path, read, write)

    def create(self, parent: Path, name: bytes, flags: int, mode: int) -> File:
        """Open a file that is there; none can be made."""
        path = (*parent, name)
        try:
            self._find(path)
        except FileNotFoundError:
            refuse(errno.EROFS)
        if flags & Open.EXCLUSIVE:
            refuse(errno.EEXIST)
        return self.open(path, flags)

    def change(self, path: Path, changes: Changes) -> None:
        """Let a file be cut before it is written, which means nothing, and refuse the rest."""
        if isinstance(self._find(path), Mapping) or changes.valid & (Set.MODE | Set.UID | Set.GID):
            refuse(errno.EPERM)


class _Directory(File):
    def __init__(self, tree: Objects, path: Path, node: Mapping[str, Any]) -> None:
        self._tree = tree
        self._path = path
        self._node = node

    def attributes(self) -> Attributes:
        return self._tree.attributes(self._path)

    def entries(self, offset: int) -> Iterator[Entry]:
        listed = [(b".", self._path, self._node), (b"..", self._path[:-1], self._node)]
        listed += [(name.encode(), (*self._path, name.encode()), self._node[name]) for name in sorted(self._node)]
        for place, (name, path, node) in enumerate(listed[offset:], start=offset + 1):
            yield _qid(path, node), place, _DIRECTORY if isinstance(node, Mapping) else _FILE, name


class _File(File):
    def __init__(self, tree: Objects, path: Path, read: Read | None, write: Write | None) -> None:
        self._tree = tree
        self._path = path
        self._read = read
        self._write = write
        self._content = b""

    def attributes(self) -> Attributes:
        return self._tree.attributes(self._path)

    def change(self, changes: Changes) -> None:
        self._tree.change(self._path, changes)

    def read(self, sink: Sink, count: int, offset: int) -> int | Awaitable[int]:
        if self._read is None:
            refuse(errno.EBADF)
        if offset:
            return self._show(sink, count, offset)
        content = self._read()
        if isinstance(content, str | bytes):
            self._content = _encoded(content)
            return self._show(sink, count, 0)
        return self._read_later(content, sink, count)

    async def _read_later(self, content: Awaitable[Content], sink: Sink, count: int) -> int:
        self._content = _encoded(await content)
        return self._show(sink, count, 0)

    def _show(self, sink: Sink, count: int, offset: int) -> int:
        part = self._content[offset : offset + count]
        sink.write(part)
        return len(part)

    def write(self, source: Source, count: int, offset: int) -> int | Awaitable[int]:
        if self._write is None:
            refuse(errno.EBADF)
        taken = self._write(source.read(count))
        return self._write_later(taken, count) if hasattr(taken, "__await__") else count

    @staticmethod
    async def _write_later(taken: Awaitable[object], count: int) -> int:
        await taken
        return count


def _encoded(content: Content) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _functions(node: Node) -> tuple[Read | None, Write | None]:
    """Return what reads and what writes a file."""
    if isinstance(node, tuple):
        return node
    if isinstance(node, str | bytes):
        return (lambda: node), None
    if callable(node):
        return node, None
    raise TypeError(f"{node!r} in a tree of objects is neither a mapping, text, bytes, a function nor a pair of them")


def _mode(node: Node) -> int:
    if isinstance(node, Mapping):
        return stat.S_IFDIR | 0o555
    read, write = _functions(node)
    return stat.S_IFREG | (0o444 if read else 0) | (0o222 if write else 0)


def _qid(path: Path, node: Node) -> Qid:
    number = int.from_bytes(hashlib.blake2b(b"/".join(path), digest_size=8).digest(), "little")
    return Qid(QidType.DIRECTORY if isinstance(node, Mapping) else QidType.FILE, 0, number)
