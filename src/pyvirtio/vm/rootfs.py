"""The root file system of a guest: what is in it, and the initramfs made of that.

It holds busybox, Python without sources, the kernel's modules that the machine needs, the driver, and
what lies in `pyvirtio/guest`. It is not compressed: under TCG the guest would need longer to unpack it
than QEMU needs to load it.
"""

from __future__ import annotations

import lzma
import os
import subprocess
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, digest
from pyvirtio.vm.guest_packages import PYTHON
from pyvirtio.vm.initramfs import Initramfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyvirtio.vm.kernel import Kernel

KEPT = 8  # initramfs in the cache, of some 17 MB each; whoever edits a driver makes many
RECIPE = "1"  # raise it when what is made of the same parts changes
GUEST_FILES = Path(str(files("pyvirtio"))) / "guest"
DRIVER_SOURCES = GUEST_FILES / "linux"
MODULE_SUFFIXES: dict[str, Callable[[bytes], bytes]] = {
    ".ko": lambda data: data,
    ".ko.xz": lzma.decompress,
    ".ko.gz": lambda data: zlib.decompress(data, wbits=31),
}
# Extension modules of Python that are not in its binary, and that a driver in Python needs.
EXTENSIONS = ("mmap",)
# Compiles a library into .pyc files without sources, in the guest's own version of Python. The host's
# architecture does not matter: byte code has none.
COMPILE = """
import sys, marshal, os, importlib._bootstrap_external as external
source, target = sys.argv[1:]
for folder, _, names in os.walk(source):
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith(".py") and not os.path.islink(path):  # a link may lead to a file of this machine
            relative = os.path.relpath(path, source)
            code = compile(open(path, "rb").read(), "/" + relative, "exec", dont_inherit=True, optimize=0)
            made = os.path.join(target, relative + "c")
            os.makedirs(os.path.dirname(made), exist_ok=True)
            with open(made, "wb") as file:
                file.write(external._code_to_hash_pyc(code, bytes(8), False))
"""


@dataclass(frozen=True)
class Contents:
    """What an initramfs is made of.

    Attributes:
        kernel: whose modules are taken.
        modules: which of them, in the order in which they are loaded.
        programs: the folder with the packages of the guest's architecture.
        library: the folder with Python's compiled library.
        drivers: more modules, loaded last.
    """

    kernel: Kernel
    modules: tuple[str, ...]
    programs: Path
    library: Path
    drivers: tuple[Path, ...] = ()

    def key(self) -> str:
        """What the initramfs depends on, as a name."""
        ours = [path.read_bytes() for path in guest_programs()]
        drivers = [path.read_bytes() for path in self.drivers]
        modules = [find_module(self.kernel, name) or b"built in" for name in self.modules]
        parts = (RECIPE, *self.modules, self.programs.name, self.library.name)
        return digest(*parts, *modules, *ours, *drivers)


def compiled_library(cache: Cache, native_programs: Path) -> Path:
    """The folder with Python's library as byte code.

    Args:
        cache: where it is kept.
        native_programs: the guest's programs for the architecture of this machine, whose Python compiles.
    """

    def make(folder: Path) -> None:
        libraries = [
            path for base in ("lib", "usr/lib") for path in sorted((native_programs / base).glob("*-linux-gnu"))
        ]
        # Not the one in lib64, a link that leads out of this folder, to the loader of the machine's own C library.
        loader = next(path for folder in libraries for path in sorted(folder.glob("ld-linux-*")))
        python = [
            *(str(loader), "--library-path", ":".join(map(str, libraries))),
            str(native_programs / "usr/bin" / PYTHON),
        ]
        done = subprocess.run(
            [*python, "-S", "-s", "-c", COMPILE, native_programs / "usr/lib" / PYTHON, folder],
            env={"PYTHONHOME": str(native_programs / "usr"), "PATH": os.defpath},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ProvisionError(f"the guest's Python cannot be compiled: {done.stderr.strip()[-500:]}")

    return cache.entry("python", digest(RECIPE, COMPILE, native_programs.name), make)


def build_initramfs(cache: Cache, contents: Contents) -> Path:
    """The file with the initramfs.

    Raises:
        ProvisionError: a module is missing or compressed in a way that cannot be read.
    """

    def make(folder: Path) -> None:
        (folder / "initramfs.cpio").write_bytes(assemble(contents).to_bytes())

    folder = cache.entry("initramfs", contents.key(), make)
    cache.keep_latest("initramfs", KEPT)
    return folder / "initramfs.cpio"


def assemble(contents: Contents) -> Initramfs:
    """The root file system, as an archive."""
    archive = Initramfs()
    for folder in ("dev", "proc", "sys", "tmp", "root", "run"):
        archive.directory(folder)
    archive.character_device("dev/console", 5, 1)
    _add_busybox(archive, contents.programs)
    _add_python(archive, contents.programs, contents.library)
    _add_modules(archive, contents)
    for path in guest_programs():
        target = "init" if path.name == "init" else f"bin/{path.name}"
        archive.file(target, path.read_bytes(), 0o755)
    return archive


def guest_programs() -> list[Path]:
    """The files of `pyvirtio/guest` that are put into every guest."""
    return sorted(path for path in GUEST_FILES.iterdir() if path.is_file() and not path.suffix)


def _add_busybox(archive: Initramfs, programs: Path) -> None:
    busybox = next(path for base in ("bin", "usr/bin") if (path := programs / base / "busybox").is_file())
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    # Its shell finds its own commands without links; scripts that begin with #! need these.
    for name in ("sh", "env"):
        archive.symlink(f"bin/{name}", "busybox")
    archive.symlink("usr/bin/env", "/bin/busybox")


def _add_python(archive: Initramfs, programs: Path, library: Path) -> None:
    archive.copy(programs / "usr/bin" / PYTHON, f"usr/bin/{PYTHON}")
    archive.symlink("usr/bin/python3", PYTHON)
    for base in ("lib", "lib64"):
        _add_libraries(archive, programs, base)
    _add_libraries(archive, programs, "usr/lib", folders="*-linux-gnu")
    archive.tree(library, f"usr/lib/{PYTHON}")
    archive.directory(f"usr/lib/{PYTHON}/lib-dynload")
    extensions = programs / "standard-library/usr/lib" / PYTHON / "lib-dynload"
    for path in sorted(extensions.glob("*.so")):
        if path.name.split(".")[0] in EXTENSIONS:
            archive.copy(path, f"usr/lib/{PYTHON}/lib-dynload/{path.name}")


LIBRARIES = (
    "ld-linux",
    "libc.so",
    "libm.so",
    "libz.so",
    "libexpat.so",
    "libdl.so",
    "libpthread.so",
    "libutil.so",
)


def _add_libraries(archive: Initramfs, programs: Path, base: str, folders: str = "") -> None:
    roots = sorted((programs / base).glob(folders)) if folders else [programs / base]
    for root in roots:
        wanted = (path for path in root.rglob("*") if path.name.startswith(LIBRARIES) and not path.is_dir())
        for path in wanted:
            archive.copy(path, path.relative_to(programs).as_posix())


def _add_modules(archive: Initramfs, contents: Contents) -> None:
    order = []
    for name in contents.modules:
        if found := find_module(contents.kernel, name):
            archive.file(f"lib/modules/{name}.ko", found)
            order.append(name)
    for path in contents.drivers:
        archive.file(f"lib/modules/{path.name}", path.read_bytes())
        order.append(path.stem)
    archive.file("lib/modules/order", "".join(f"/lib/modules/{name}.ko\n" for name in order).encode())


def find_module(kernel: Kernel, name: str) -> bytes | None:
    """A module of the kernel, unpacked; None if it is built in.

    Raises:
        ProvisionError: the kernel has it neither way, or it is compressed neither with xz nor with gzip.
    """
    if kernel.modules is None:
        return None
    spellings = {name, name.replace("_", "-")}
    for path in sorted(_all_modules(kernel.modules)):
        stem, _, ending = path.name.partition(".")
        if stem not in spellings:
            continue
        unpack = MODULE_SUFFIXES.get(f".{ending}")
        if unpack is None:
            raise ProvisionError(f"{path} is compressed in a way that pyvirtio cannot read; unpack it to .ko")
        return unpack(path.read_bytes())
    builtin = kernel.modules / "modules.builtin"
    if builtin.is_file() and any(Path(line).stem in spellings for line in builtin.read_text().split()):
        return None
    raise ProvisionError(f"kernel {kernel.release} has no module {name}: it cannot drive a virtio device here")


def _all_modules(root: Path) -> Iterable[Path]:
    return (path for path in root.glob("kernel/drivers/virtio/*.ko*"))
