"""Lets programs that were unpacked run on this machine, whatever its C library, with the one that came with them.

Each program is started by a small script in its place, through the loader that lies in the same folder of packages.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SUFFIX = ".elf"  # of the program itself, beside the script
STARTER = """\
#!/bin/sh
# Starts a program that was unpacked here, with the libraries that came with it.
here=$(dirname "$(readlink -f "$0")")
root=$here/{root}
exec "$root/{loader}" --library-path "$root/{libraries}" --argv0 "$0" "$here/{program}" "$@"
"""


def loader_and_libraries(root: Path) -> tuple[Path, Path]:
    """Return where below `root` the loader of its programs lies, and their libraries.

    Raises:
        ProvisionError: the packages are not complete.
    """
    return _one(root, "usr/lib*/**/ld-linux-*.so.*"), _one(root, "usr/lib/*-linux-gnu/libc.so.*").parent


def use_own_libraries(root: Path, folders: Iterable[str]) -> None:
    """Let every program in the `folders` below `root`, given as patterns, run with the libraries below `root`.

    Raises:
        ProvisionError: the packages are not complete.
    """
    loader, libraries = loader_and_libraries(root)
    for folder in (found for pattern in folders for found in sorted(root.glob(pattern))):
        for program in list(_programs(folder)):
            moved = program.rename(program.with_name(program.name + SUFFIX))
            up = os.path.relpath(root, program.parent)
            program.write_text(STARTER.format(root=up, loader=loader, libraries=libraries, program=moved.name))
            program.chmod(0o755)


def _programs(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and os.access(path, os.X_OK) and ".so" not in path.name:
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _one(root: Path, pattern: str) -> Path:
    """Return the only path below `root`, relative to it, that fits."""
    found = sorted(root.glob(pattern))
    if not found:
        raise ProvisionError(f"{root} holds no {pattern}; remove that folder, and it is provisioned again")
    return found[0].relative_to(root)
