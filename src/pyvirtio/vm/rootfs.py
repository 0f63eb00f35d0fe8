"""The root file system of a guest: what is in it, and the initramfs made of that.

It holds busybox, Python without sources, kernel modules, and what lies in `pyvirtio/guest`. It is not
compressed: under TCG the guest would need longer to unpack it than QEMU needs to load it.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, digest
from pyvirtio.vm.guest_packages import PYTHON
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.kernel_modules import Module, load_order

if TYPE_CHECKING:
    from pyvirtio.vm.kernel import Kernel

KEPT = 24  # of some 17 MB each, without packages; each set of modules and each edit of a driver makes another one
RECIPE = "4"  # raise it when the same parts make something else
GUEST_FILES = Path(str(files("pyvirtio"))) / "guest"
DRIVER_SOURCES = GUEST_FILES / "linux"
FOLDERS = ("dev", "proc", "sys", "tmp", "root", "run", "mnt", "var/tmp", "usr/lib/busybox")
SETTINGS = {  # what programs expect to find
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
SHELL = "dash"  # a package, which comes with any others
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
        modules: which of them; what they need is loaded before them.
        programs: the folder with the packages of the guest's architecture.
        library: the folder with Python's compiled library.
        drivers: more modules, loaded last.
        packages: a folder with more packages; None: there are none.
    """

    kernel: Kernel
    modules: tuple[str, ...]
    programs: Path
    library: Path
    drivers: tuple[Path, ...] = ()
    packages: Path | None = None

    def key(self) -> str:
        """Return a name for everything that the initramfs is made of."""
        ours = [path.read_bytes() for path in guest_programs()]
        drivers = [path.read_bytes() for path in self.drivers]
        modules = [module.data for module in load_order(self.kernel, self.modules)]
        packages = self.packages.name if self.packages else ""
        parts = (RECIPE, *self.modules, self.programs.name, self.library.name, packages)
        return digest(*parts, *modules, *ours, *drivers)


def compiled_library(cache: Cache, native_programs: Path) -> Path:
    """Return the folder with Python's library as byte code.

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
            raise ProvisionError(
                "the guest's Python cannot be compiled; "
                f"remove {native_programs}, and it is provisioned again. It says: {done.stderr.strip()[-500:]}"
            )

    return cache.entry("python", digest(RECIPE, COMPILE, native_programs.name), make)


def build_initramfs(cache: Cache, contents: Contents) -> Path:
    """Return the file with the initramfs.

    Raises:
        ProvisionError: a module is missing, or compressed in a way that cannot be read.
    """

    def make(folder: Path) -> None:
        (folder / "initramfs.cpio").write_bytes(assemble(contents).to_bytes())

    folder = cache.entry("initramfs", contents.key(), make)
    cache.keep_latest("initramfs", KEPT)
    return folder / "initramfs.cpio"


def assemble(contents: Contents) -> Initramfs:
    """Return the root file system, as an archive."""
    archive = Initramfs()
    for folder in FOLDERS:
        archive.directory(folder)
    for name, text in SETTINGS.items():
        archive.file(name, text.encode())
    archive.character_device("dev/console", 5, 1)
    if contents.packages:
        archive.tree(contents.packages, wanted=lambda path: path != "PACKAGES")
    _add_busybox(archive, contents.programs, shell=contents.packages is None)
    _add_python(archive, contents.programs, contents.library)
    _add_modules(archive, contents)
    for path in guest_programs():
        target = "init" if path.name == "init" else f"bin/{path.name}"
        archive.file(target, path.read_bytes(), 0o755)
    return archive


def guest_programs() -> list[Path]:
    """Return the files of `pyvirtio/guest` that are put into every guest."""
    return sorted(path for path in GUEST_FILES.iterdir() if path.is_file() and not path.suffix)


def _add_busybox(archive: Initramfs, programs: Path, *, shell: bool) -> None:
    busybox = next(path for base in ("bin", "usr/bin") if (path := programs / base / "busybox").is_file())
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    # Its shell prefers its own commands to those of packages, so with packages there is another one.
    archive.symlink("bin/sh", "busybox" if shell else SHELL)
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
    drivers = [Module(path.stem, path.read_bytes()) for path in contents.drivers]
    modules = [*load_order(contents.kernel, contents.modules), *drivers]
    for module in modules:
        archive.file(f"lib/modules/{module.name}.ko", module.data)
    order = "".join(f"/lib/modules/{module.name}.ko\n" for module in modules)
    archive.file("lib/modules/order", order.encode())
