"""pyvirtio as its users install it: a wheel of this checkout in a virtual environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio_bench.provision import cache, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio_bench.pythons import Python

CHECKOUT = Path(__file__).parents[2]
PARTS = ("src", "tools/generate-man", "pyproject.toml", "setup.py", "README.md", "LICENSE", "LICENSES")
KEPT = 4  # environments in the cache: two for each of the last states of the checkout


@dataclass(frozen=True)
class Install:
    """An environment with pyvirtio in it."""

    root: Path

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.root / "bin" / "python")

    @property
    def command(self) -> tuple[str, ...]:
        """What ``pyvirtio`` runs; through the interpreter, for the environment was moved after pip wrote the script."""
        return (self.python, str(self.root / "bin" / "pyvirtio"))


@dataclass(frozen=True)
class Installs:
    """Makes environments for a Python, and keeps them in a cache as long as the checkout does not change."""

    cache: cache.Cache
    python: Python
    progress: progress.Progress

    def install(self, extra: str = "") -> Install:
        """Return the environment with the package alone, or with one of its extras.

        Raises:
            ProvisionError: it cannot be made.
        """

        def make(folder: Path) -> None:
            with self.progress.step(f"installing pyvirtio{extra and f' with {extra}'} for {self.python.program}"):
                wheel = _wheel(folder / "wheel")
                _run([str(self.python.program), "-m", "venv", "--without-pip", str(folder)], "a virtual environment")
                wanted = f"{wheel}[{extra}]" if extra else str(wheel)
                _pip("--python", str(folder), "install", "--only-binary", ":all:", wanted)
                shutil.rmtree(folder / "wheel")

        parts = [path.read_bytes() for path in _sources()]
        key = cache.digest(str(self.python.program.resolve()), self.python.title, extra, *parts)
        found = Install(self.cache.entry("bench-install", key, make))
        self.cache.keep_latest("bench-install", KEPT)
        return found


def _sources() -> Iterator[Path]:
    for part in PARTS:
        found = CHECKOUT / part
        files = sorted(found.rglob("*")) if found.is_dir() else [found]
        yield from (path for path in files if path.is_file() and not _is_made(path))


def _is_made(path: Path) -> bool:
    """Return whether a file is not part of the sources: `setup.py` makes it."""
    return path.suffix in {".pyc", ".so"} or any(part.endswith(".egg-info") for part in path.parts)


def _wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, for setuptools leaves files beside them."""
    copy = folder / "source"
    for path in _sources():
        target = copy / path.relative_to(CHECKOUT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(copy))
    return next(folder.glob("*.whl"))


def _pip(*arguments: str) -> None:
    quiet = ("-qq", "--no-input", "--disable-pip-version-check")
    _run([sys.executable, "-m", "pip", *quiet, *arguments], "an install; run `make tools` in the checkout, and see")


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
        raise ProvisionError(f"{' '.join(command[:3])} cannot make {what}: {lines[-1]}")
