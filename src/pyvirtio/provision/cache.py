"""What was provisioned or built once, kept under a name that says what it was made from.

An entry is a folder. It is made in a private place and renamed into the cache when it is complete: an
interrupted download, a full disk or a killed process never leaves half an entry. A lock for each entry
keeps two processes from making the same one twice.

>>> import tempfile
>>> def make(folder):
...     _ = (folder / "greeting").write_text("hello")
>>> with tempfile.TemporaryDirectory() as scratch:
...     cache = Cache(Path(scratch))
...     entry = cache.entry("example", digest("hello"), make)
...     (entry / "greeting").read_text()
'hello'
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ROOM_TEXTS = ("No space left on device", "Disk quota exceeded", "File too large", "enough free space")


def default_root() -> Path:
    """Return the user's cache folder: ``$XDG_CACHE_HOME/pyvirtio``, or ``~/.cache/pyvirtio``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path is ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pyvirtio"


def digest(*parts: str | bytes) -> str:
    """Return a name for what is made from `parts`: 16 hexadecimal digits.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()[:16]


@dataclass(frozen=True)
class Cache:
    """A folder of finished entries.

    Attributes:
        root: the only folder that provisioning writes to.
        notice: called with a line of text when another process has to be waited for.
    """

    root: Path
    notice: Callable[[str], None] = lambda _: None

    def path(self, kind: str, key: str) -> Path:
        """Return where the entry is, or will be."""
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        """Return whether the entry exists, and is therefore complete."""
        return self.path(kind, key).is_dir()

    def entry(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of an entry; if there is none yet, `make` is called to fill an empty folder.

        Raises:
            ProvisionError: the disk is full, the folder cannot be written, or `make` raised it.
        """
        final = self.path(kind, key)
        if not final.is_dir():
            with self._explained(), self.lock(f"{kind}-{key}"):
                if not final.is_dir():
                    self._make(final, make)
        with contextlib.suppress(OSError):  # in a cache that may only be read
            os.utime(final)
        return final

    def note(self, name: str, key: str, find_out: Callable[[], str]) -> str:
        """Return a line of text that takes long to find out, and keep it for as long as `key` stays the same.

        Where the cache cannot be written, `find_out` is called each time.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     cache = Cache(Path(scratch))
        ...     cache.note("colour", "1", lambda: "red"), cache.note("colour", "1", lambda: "blue")
        ('red', 'red')
        """
        path = self.root / "notes" / name
        with contextlib.suppress(OSError, ValueError):
            known_key, text = path.read_text().split("\n", 1)
            if known_key == key:
                return text
        text = find_out()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{name}.{os.getpid()}.{threading.get_native_id()}")
            partial.write_text(f"{key}\n{text}")
            partial.replace(path)
        return text

    def keep_latest(self, kind: str, count: int) -> None:
        """Remove all but the `count` entries of a kind that were used last."""
        with self.lock(f"{kind}-latest"):
            folders = (self.root / kind).glob("*")
            entries = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
            for entry in entries[count:]:
                shutil.rmtree(entry, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock `name`; if another process holds it, wait until that has finished."""
        folder = self.root / "locks"
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.notice(f"another process is making {name}: waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make(self, final: Path, make: Callable[[Path], None]) -> None:
        # Only the holder of the lock uses this name, so whatever is there was left by a process
        # that was killed.
        partial = self.root / "partial" / f"{final.parent.name}-{final.name}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            make(partial)
            final.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.root, error) from error


def cannot_write(root: Path, error: OSError) -> ProvisionError:
    """Return an `OSError` as an error that says what to do about it."""
    if error.errno in NO_ROOM:
        return no_room(root)
    return ProvisionError(f"cannot write to {root}: {error.strerror or error}; set XDG_CACHE_HOME to a writable folder")


def no_room(root: Path) -> ProvisionError:
    """Return the error for a full disk."""
    free = ""
    with contextlib.suppress(OSError):
        free = f" ({shutil.disk_usage(root).free // 2**20} MiB left)"
    return ProvisionError(
        f"no room left on the disk of {root}{free}; free about 1 GiB, or set XDG_CACHE_HOME to a folder on another disk"
    )


def says_no_room(text: str) -> bool:
    """Return whether a program's complaint means that the disk is full."""
    return any(sign in text for sign in NO_ROOM_TEXTS)
