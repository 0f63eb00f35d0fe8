"""Builds the native engine into this checkout: ``python -m pyvirtio.ring.build_native``.

An installed package was built already. A checkout runs from its sources; this compiles the C module beside them, where
a C compiler and Python's headers are present. Without it everything works, only more slowly. Exit status 0 is built,
1 failed (the compiler's own words say why), 2 no compiler or no headers.
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

LIMITED_API = 0x030B0000
"""One library serves every Python from 3.11 on, but for free-threaded ones, each of which needs its own."""

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    LIBRARY = SOURCE.with_name(f"_native{sysconfig.get_config_var('EXT_SUFFIX')}")
    _MACROS: list[str] = []
else:
    LIBRARY = SOURCE.with_name("_native.abi3.so")
    _MACROS = [f"-DPy_LIMITED_API={LIMITED_API:#x}"]


def compiler() -> list[str] | None:
    """Return the C compiler's command, or None where it or Python's headers are missing."""
    command = shlex.split(os.environ.get("CC", "cc"))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return command if command and shutil.which(command[0]) and headers.exists() else None


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
    macros = [*_MACROS, f'-DSOURCE_DIGEST="{digest()}"']
    arguments = ["-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", *headers, *macros, *options]
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
        _say("not built: there is no C compiler, or Python's headers are missing; the Python engine runs instead")
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
