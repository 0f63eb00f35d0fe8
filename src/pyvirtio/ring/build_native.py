"""Builds the accelerator into this checkout: ``python -m pyvirtio.ring.build_native``.

A package that is installed was built already. A checkout runs from its sources; this compiles the C module beside
itself, where a C compiler and Python's headers are present, and otherwise does nothing: everything works without.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).with_name("_native.c")
LIBRARY = SOURCE.with_name("_native.abi3.so")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")


def compiler() -> list[str] | None:
    """Give the C compiler's command, or None where it or Python's headers are missing."""
    command = shlex.split(os.environ.get("CC", "cc"))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return command if command and shutil.which(command[0]) and headers.exists() else None


def build(target: Path = LIBRARY, *options: str) -> bool:
    """Compile the accelerator into ``target`` with more ``options``; gives whether that was possible."""
    command = compiler()
    if command is None:
        return False
    scratch = target.with_name(f"{target.name}.{os.getpid()}")
    # -isystem: Python's headers do not live by our warnings.
    headers = ["-isystem", sysconfig.get_path("include")]
    arguments = [*command, "-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", *headers, *options]
    result = subprocess.run(  # noqa: S603  # the compiler that the user has chosen
        [*arguments, str(SOURCE), "-o", str(scratch)], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if result.returncode:
        scratch.unlink(missing_ok=True)
        return False
    scratch.replace(target)  # in one step: a process may be importing it
    return True


if __name__ == "__main__":
    if not build():
        LIBRARY.unlink(missing_ok=True)  # it would be of an older source
        sys.exit(1)
