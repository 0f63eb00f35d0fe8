"""Where a disk's bytes are: a file, a block device of the host, or an object of Python.

`open_storage` returns what a device reads and writes; see `Storage` for what it can do.
"""

from __future__ import annotations

from pathlib import Path

from pyvirtio.storage.interface import Storage
from pyvirtio.storage.objects import ByteObject, ObjectStorage

__all__ = ["ByteObject", "ObjectStorage", "Storage", "open_storage"]


def open_storage(source: Path | str | ByteObject, *, readonly: bool = False, direct: bool = False) -> Storage:
    """Open a file or a block device by its path, or an object whose slices are its bytes.

    ``direct`` bypasses the host's page cache (O_DIRECT).

    Raises:
        OSError: the file cannot be opened.
        LocalError: the object cannot do what is needed.
    """
    if not isinstance(source, (Path, str)):
        return ObjectStorage(source, readonly=readonly)
    from pyvirtio.storage.files import DirectStorage, FileStorage

    return (DirectStorage if direct else FileStorage)(Path(source), readonly=readonly)
