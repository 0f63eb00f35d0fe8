"""Builds the native engine beside its sources: ``python -m pyvirtio.ring.build_native``.

A wheel for this machine brings it along. This compiles the C module for a checkout, for an install from source
(setup.py), and for an install that had no compiler when it was made. Without it everything works, only more slowly.
The compiler and its options are those of ``CC``, ``CPPFLAGS``, ``CFLAGS`` and ``LDFLAGS``. Exit status 0 is built,
1 failed (the compiler's own words say why), 2 nothing to build with: no compiler, no headers, or a free-threaded
Python, which has no limited API.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).with_name("_native.c")
PARTS = SOURCE.with_name("native")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")

LIBRARY = SOURCE.with_name("_native.abi3.so")
LIMITED_API = 0x030B0000
"""One library serves every Python from 3.11 on."""


def compiler() -> list[str] | None:
    """Return the C compiler's command, or None where it, Python's headers or its limited API are missing."""
    command = shlex.split(os.environ.get("CC", "cc"))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if sysconfig.get_config_var("Py_GIL_DISABLED") or not headers.exists():
        return None
    return command if command and shutil.which(command[0]) else None


def digest() -> str:
    """Return what identifies this source; a library holds the digest of the source that it was built from."""
    files = [SOURCE, *sorted(path for path in PARTS.rglob("*") if path.is_file())]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def build(command: list[str], target: Path = LIBRARY, *options: str) -> bool:
    """Compile the native engine into ``target`` with more ``options``; return whether that succeeded.

    The compiler prints what it has to say. A library that is there already stays until its successor is complete.
    """
    scratch = target.with_name(f"{target.name}.{os.getpid()}")
    headers = ["-isystem", sysconfig.get_path("include")]  # Python's headers do not live by our warnings
    macros = [f"-DPy_LIMITED_API={LIMITED_API:#x}", f'-DSOURCE_DIGEST="{digest()}"']
    wanted = [word for name in ("CPPFLAGS", "CFLAGS", "LDFLAGS") for word in shlex.split(os.environ.get(name, ""))]
    arguments = ["-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", *wanted, *headers, *macros, *options]
    try:
        subprocess.run(  # noqa: S603  # the compiler that the user has chosen
            [*command, *arguments, str(SOURCE), "-o", str(scratch)], check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        scratch.unlink(missing_ok=True)
        return False
    scratch.replace(target)  # in one step: a process may be importing it
    return True


def main() -> int:
    """Build, and say what became of it."""
    command = compiler()
    if command is None:
        _say(
            "not built: there is no C compiler, Python's headers are missing, or this Python is free-threaded; "
            "the Python engine runs instead"
        )
        return 2
    if build(command):
        return 0
    if not LIBRARY.exists():
        _say("not built, see above; the Python engine runs instead")
    elif digest().encode() in LIBRARY.read_bytes():
        _say(f"not built, see above; {LIBRARY.name} is of the same source and stays")
    else:
        LIBRARY.unlink()  # an engine of another source would misread the journal
        _say(f"not built, see above; {LIBRARY.name} was of another source and is removed; the Python engine runs")
    return 1


def _say(text: str) -> None:
    sys.stderr.write(f"native engine: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
