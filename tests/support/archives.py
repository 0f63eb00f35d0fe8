"""Archives of sources."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def extract(archive: Path, folder: Path) -> Path:
    """Extract an archive of sources into a new folder, and return the one folder that it has at its top."""
    with tarfile.open(archive) as files:
        if hasattr(tarfile, "tar_filter"):  # not in the first versions of Python 3.11
            files.extractall(folder, filter="tar")
        else:
            files.extractall(folder)
    [top] = folder.iterdir()
    return top
