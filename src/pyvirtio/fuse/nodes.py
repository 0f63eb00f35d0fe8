"""What a client's nodes and handles stand for: paths, and files that are open.

A node is a path, with the number of the file that was found there: where another one is there now, the client gets
ESTALE and looks again. The client says how often it forgets a node that it got by as many answers; one from before the
death of a process is never forgotten. So there is a limit, and beyond it the oldest ones go. Whoever still uses one of
them by a path finds it again.
"""

from __future__ import annotations

import errno

from pyvirtio.files.fids import Fid
from pyvirtio.files.tree import refuse
from pyvirtio.spec.fuse import ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.files import File, Tree
    from pyvirtio.files.fids import Fids
    from pyvirtio.files.structures import Attributes
    from pyvirtio.files.tree import Path

HANDLES = 1 << 31
"""Numbers of nodes are below this, those of handles begin here."""

AT_ONCE = 256
"""How many nodes go at once where there are too many."""


class Nodes:
    """The nodes and handles of one client, by their numbers in ``fids``."""

    def __init__(self, tree: Tree, fids: Fids) -> None:
        self.tree = tree
        self.fids = fids
        self._numbers: dict[Path, int] = {}  # of nodes
        self._lookups: dict[int, int] = {}
        self._handles: dict[int, set[int]] = {}  # what is open of each node
        self._nodes: dict[int, int] = {}  # of which node each handle is
        self._last = ROOT
        self._last_handle = HANDLES
        for number, fid in fids.items():
            if number < HANDLES:
                self._numbers[fid.path] = number
                self._last = max(self._last, number)
        for number, fid in fids.items():
            if number >= HANDLES and (node := self._numbers.get(fid.path)) is not None:
                self._assign(number, node)
                self._last_handle = max(self._last_handle, number)

    def begin(self) -> None:
        """Begin a session: of the last one nothing is left, and the root is there."""
        for fid in self.fids.begin(1):
            if fid.file is not None:
                fid.file.close()
        self._numbers, self._lookups, self._handles, self._nodes = {(): ROOT}, {}, {}, {}
        self.fids.set(ROOT, Fid((), self.tree.attributes(()).qid))
        self.fids.commit()

    # Nodes.

    def path(self, number: int) -> Path:
        """Return where a node is.

        Raises:
            OSError: ESTALE where it is not known, or something else is there.
        """
        return self._found(number)[0]

    def attributes(self, number: int) -> Attributes:
        """Return a node's attributes, of an open file also where its name is gone; raises as `path` does."""
        file = self.file(number)
        return self._found(number)[1] if file is None else file.attributes()

    def file(self, number: int) -> File | None:
        """Return a file of a node that is open, if there is one; raises as `opened` does."""
        handle = next(iter(self._handles.get(number, ())), None)
        return None if handle is None else self.opened(handle)

    def _found(self, number: int) -> tuple[Path, Attributes]:
        if number not in self.fids or number >= HANDLES:
            refuse(errno.ESTALE)
        fid = self.fids.get(number)
        found = self.tree.attributes(fid.path)
        if found.qid.path != fid.qid.path:
            refuse(errno.ESTALE)
        return fid.path, found

    def enter(self, path: Path, found: Attributes) -> int:
        """Return the number of what is at a path, and count that it was told to the client."""
        number = self._numbers.get(path)
        if number is None or self.fids.get(number).qid.path != found.qid.path:
            self._make_room(path)
            number = self._last = _next(self._last, self.fids, ROOT, HANDLES)
            self.fids.set(number, Fid(path, found.qid))
            self._lookups[number] = 0
            self._numbers[path] = number
        if number in self._lookups:
            self._lookups[number] += 1
        return number

    def forget(self, number: int, lookups: int) -> None:
        """Take note that the client does not know a node from so many answers any more."""
        if number not in self._lookups:
            return
        self._lookups[number] -= lookups
        if self._lookups[number] <= 0 and not self._handles.get(number):
            self._drop(number)

    def gone(self, path: Path) -> None:
        """Take note that a name was removed: whatever is found there next is something else."""
        self._numbers.pop(path, None)

    def move(self, old: Path, new: Path) -> None:
        """Follow a rename."""
        self.fids.move(old, new)
        depth = len(old)
        moved = {path: number for path, number in self._numbers.items() if path[:depth] == old}
        for path in moved:
            del self._numbers[path]
        self._numbers |= {(*new, *path[depth:]): number for path, number in moved.items()}

    def _drop(self, number: int) -> None:
        self._lookups.pop(number, None)
        fid = self.fids.drop(number)
        if fid is not None and self._numbers.get(fid.path) == number:
            del self._numbers[fid.path]

    def _make_room(self, path: Path) -> None:
        while True:
            try:
                self.fids.check_room(path)
            except OSError as error:
                nodes = [one for one, _ in self.fids.items() if ROOT < one < HANDLES]
                unused = [one for one in nodes if not self._handles.get(one)]
                if error.errno != errno.ENFILE or not unused:
                    raise
                for number in unused[:AT_ONCE]:
                    self._drop(number)
            else:
                return

    # Handles.

    def check_open(self, number: int) -> None:
        """Refuse one open file too many, and have room for one of a node, or in it."""
        self.fids.check_open()
        if number in self.fids:
            self._make_room(self.fids.get(number).path)

    def open(self, number: int, file: File, flags: int) -> int:
        """Return a handle for a file of a node that was opened."""
        fid = self.fids.get(number)
        handle = self._last_handle = _next(self._last_handle, self.fids, HANDLES, 2 * HANDLES)
        self.fids.set(handle, Fid(fid.path, fid.qid, flags, file))
        self._assign(handle, number)
        return handle

    def _assign(self, handle: int, node: int) -> None:
        self._nodes[handle] = node
        self._handles.setdefault(node, set()).add(handle)

    def opened(self, handle: int) -> File:
        """Return the file of a handle.

        Raises:
            OSError: EBADF where there is none; ESTALE where it was opened by a process that died, and is gone.
        """
        if not HANDLES <= handle < 2 * HANDLES:
            refuse(errno.EBADF)
        return self.fids.opened(handle, self.tree)

    def close(self, handle: int) -> None:
        """Close a handle; raises OSError, EBADF, where there is none."""
        if handle < HANDLES or handle not in self.fids:
            refuse(errno.EBADF)
        fid, node = self.fids.drop(handle), self._nodes.pop(handle, None)
        if node is not None:
            self._handles[node].discard(handle)
            if not self._handles[node]:
                del self._handles[node]
        if fid is not None and fid.file is not None:
            fid.file.close()


def _next(last: int, taken: Fids, first: int, end: int) -> int:
    """Return the next number that is not taken, from ``first`` on again behind the last one."""
    number = last + 1
    while number in taken or not first < number < end:
        number = number + 1 if number < end else first + 1
    return number
