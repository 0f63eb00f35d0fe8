"""Which Python the measured installs run on, and whether it was built with profile-guided optimisation.

That build option makes an interpreter a quarter to a third faster. The Pythons that most people run have it (those of
distributions, of python.org's images, of uv); one that was compiled by hand or by pyenv usually has it not. So the
measured Python is one that has it, where this machine has one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pyvirtio.errors import LocalError

OLDEST = (3, 11)
# Debian and Ubuntu run the profiling by hand, not through configure's option; this one is theirs alone.
DISTRIBUTION = "--with-wheel-pkg-dir=/usr/share/python-wheels/"
QUESTION = """
import json, platform, sys, sysconfig
known = {name: str(value) for name, value in sysconfig.get_config_vars().items()}
words = [known.get("CONFIG_ARGS", ""), known.get("PY_CORE_CFLAGS", ""), known.get("CONFIGURE_CFLAGS_NODIST", "")]
print(json.dumps([list(sys.version_info[:3]), platform.python_implementation(), platform.python_compiler(), words]))
"""


@dataclass(frozen=True)
class Python:
    """An interpreter.

    Attributes:
        program: its path.
        version: its numbers.
        title: what it is, for the settings.
        profiled: whether it was built with profile-guided optimisation.
    """

    program: Path
    version: tuple[int, ...]
    title: str
    profiled: bool

    def __str__(self) -> str:
        return f"{self.title}, built {'with' if self.profiled else 'without'} profile-guided optimisation"


def examine(program: Path) -> Python:
    """Return what an interpreter says of itself.

    Raises:
        LocalError: it does not run, or is too old.
    """
    try:
        done = subprocess.run(
            [program, "-IS", "-c", QUESTION], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        )
        version, implementation, compiler, words = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise LocalError(f"{program} is not a Python that runs: {error}; name another with --python PATH") from error
    if tuple(version) < OLDEST:
        raise LocalError(f"{program} is Python {version[0]}.{version[1]}; pyvirtio needs 3.11 or newer")
    title = f"{implementation} {'.'.join(map(str, version))}, {compiler}"
    return Python(program, tuple(version), title, is_profiled(*words))


def is_profiled(configured: str, *flags: str) -> bool:
    """Return whether a Python with these arguments of configure and flags of the compiler was built with a profile.

    >>> is_profiled("'--prefix=/usr/local' '--enable-optimizations'"), is_profiled("'--prefix=/home/me/python'")
    (True, False)
    """
    return any(word in configured for word in ("--enable-optimizations", DISTRIBUTION)) or any(
        "-fprofile-use" in text for text in flags
    )


def choose(given: Path | None = None) -> Python:
    """Return the given interpreter; without one, the first that has a profile of this one and those on the PATH."""
    if given is not None:
        return examine(given)
    own = examine(Path(getattr(sys, "_base_executable", sys.executable)))
    on_path = (shutil.which(name) for name in ("python3", "/usr/bin/python3"))
    found = [own]
    for program in filter(None, on_path):
        try:
            found.append(examine(Path(program)))
        except LocalError:
            continue  # an old one is not a fault: nobody asked for it
    return next((python for python in found if python.profiled), own)
