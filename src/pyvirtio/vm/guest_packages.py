"""What a guest needs, from the machine's package registry: QEMU, kernels, a toolchain, programs.

Each is a folder of unpacked packages in the cache, made when it is first asked for.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError
from pyvirtio.provision.cache import digest
from pyvirtio.provision.own_libraries import use_own_libraries
from pyvirtio.provision.packages import DEBIAN_NAMES, Registry, Suites, native_architecture
from pyvirtio.vm.kernel import Kernel
from pyvirtio.vm.qemu import STARTER, write_starters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EMULATOR = Suites("trixie", backports=True)
GUEST = Suites("bookworm")  # python and busybox in the guest, and the compiler for its modules
KERNELS = {"6.1": GUEST, "6.12": Suites("bookworm", backports=True), "7": Suites("trixie", backports=True)}
# What the tools to build modules with need, where they are newer than this machine may be.
BUILD_LIBRARIES = {"7": ("libc6", "libelf1t64", "zlib1g", "libzstd1")}
FLAVOURS = {"cloud": "-cloud", "full": ""}  # what stands for them in the names of packages

EMULATORS = ("qemu-system-x86", "qemu-system-arm")
QEMU_KEY = digest(EMULATOR.name, *EMULATORS, STARTER)
UML = "user-mode-linux"
UML_ARCHITECTURES = ("amd64",)
PYTHON = "python3.11"
PROGRAMS = (
    "busybox-static",
    f"{PYTHON}-minimal",
    f"lib{PYTHON}-minimal",
    "libc6",
    "libexpat1",
    "zlib1g",
)
STANDARD_LIBRARY = f"lib{PYTHON}-stdlib"  # a guest gets single files of it
# By the version of gcc: where it comes from. A kernel is built with the first that is not older than its own.
TOOLCHAINS = {12: GUEST, 14: Suites("trixie")}
COMPILERS = {"amd64": "x86-64-linux-gnu", "arm64": "aarch64-linux-gnu"}  # how Debian names cross compilers
# The compiler's packages depend on these, but building a kernel module does not. Tools of the release that this
# project knows as the oldest run with the C library of this machine; newer ones bring theirs.
NOT_FOR_KERNELS = ("libc6", "lib*san*", "libstdc++*", "libgprofng*", "lib*-cross", "libquadmath*", "libitm*")
# Folders in packages that nothing here reads.
PRUNED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bash-completion",
)


@dataclass(frozen=True)
class GuestPackages:
    """Provisions what a guest needs, once.

    Each method returns at once if the cache has what is asked for. Otherwise it downloads that, and raises
    ProvisionError where it cannot.
    """

    registry: Registry

    def has_qemu(self) -> bool:
        """Return whether QEMU was provisioned."""
        return self.registry.cache.has("qemu", QEMU_KEY)

    def qemu(self) -> Path:
        """Return the folder with QEMU's packages, for every architecture of a guest."""

        def make(folder: Path) -> None:
            self.registry.unpack(EMULATOR, EMULATORS, folder, dependencies=True)
            prune(folder)
            write_starters(folder)

        return self.registry.cache.entry("qemu", QEMU_KEY, make)

    def has_kernel(self, arch: str, version: str, flavour: str) -> bool:
        """Return whether the kernel was provisioned."""
        return self.registry.cache.has("kernel", _kernel_key(arch, version, flavour))

    def kernel(self, arch: str, version: str, flavour: str) -> Kernel:
        """Return a kernel with its modules and headers: one of `KERNELS`, in one of `FLAVOURS`.

        Raises:
            LocalError: there is no recipe for the version or the flavour.
        """
        if version not in KERNELS:
            raise LocalError(
                f"there is no recipe for kernel {version}; give one of {', '.join(KERNELS)}, or --kernel FILE"
            )
        if flavour not in FLAVOURS:
            raise LocalError(f"there is no flavour {flavour!r} of a kernel; give one of {', '.join(FLAVOURS)}")
        suites, architecture = KERNELS[version], DEBIAN_NAMES[arch]

        def make(folder: Path) -> None:
            image, headers = (
                self._newest(suites, f"linux-{part}{FLAVOURS[flavour]}-{architecture}", architecture)
                for part in ("image", "headers")
            )
            # Newer kernels have image, modules and their lists in packages of their own.
            parts = [
                *(self._parts(suites, image, r"linux-(base-\d|binary-|modules-)", architecture)),
                *(self._parts(suites, headers, r"linux-(headers|kbuild)-", architecture)),
            ]
            parts += BUILD_LIBRARIES.get(version, ())
            self.registry.unpack(suites, [f"{image}:{architecture}", f"{headers}:{architecture}", *parts], folder)
            prune(folder)
            relocate(folder)
            if version in BUILD_LIBRARIES:
                use_own_libraries(folder, ["usr/lib/linux-kbuild-*"])
            Kernel.unpacked(folder)  # what has none is not to be kept

        return Kernel.unpacked(self.registry.cache.entry("kernel", _kernel_key(arch, version, flavour), make))

    def packages(self, arch: str, packages: Sequence[str]) -> Path:
        """Return the folder with packages for a guest, and everything that they depend on."""
        architecture = DEBIAN_NAMES[arch]

        def make(folder: Path) -> None:
            self.registry.unpack(GUEST, [f"{name}:{architecture}" for name in packages], folder, dependencies=True)
            prune(folder)

        return self.registry.cache.entry("packages", digest(GUEST.name, architecture, *sorted(packages)), make)

    def uml(self) -> Kernel:
        """Return user-mode Linux: a kernel whose image is a program of this machine, and its modules.

        Raises:
            LocalError: it does not exist for this machine's architecture.
        """
        if native_architecture() not in UML_ARCHITECTURES:
            raise LocalError("user-mode Linux runs on x86_64 only; boot a guest under QEMU instead")

        def make(folder: Path) -> None:
            self.registry.unpack(GUEST, [UML], folder)
            prune(folder)

        root = self.registry.cache.entry("uml", digest(GUEST.name, UML), make)
        modules = next((root / "usr/lib/uml/modules").iterdir())
        return Kernel(root / "usr/bin/linux.uml", modules.name, modules)

    def programs(self, arch: str) -> Path:
        """Return the folder with the programs of a guest: busybox, and Python with the libraries it needs.

        The rest of Python's standard library is in its folder ``standard-library``.
        """
        architecture = DEBIAN_NAMES[arch]

        def make(folder: Path) -> None:
            self.registry.unpack(GUEST, [f"{name}:{architecture}" for name in PROGRAMS], folder)
            rest = folder / "standard-library"
            self.registry.unpack(GUEST, [f"{STANDARD_LIBRARY}:{architecture}"], rest)
            for unpacked in (folder, rest):
                prune(unpacked)

        key = digest(GUEST.name, architecture, *PROGRAMS, STANDARD_LIBRARY)
        return self.registry.cache.entry("programs", key, make)

    def toolchain(self, arch: str, gcc: int) -> Path:
        """Return the folder with make, and with a compiler on this machine for kernel modules of `arch`.

        `gcc` is one of the versions in `TOOLCHAINS`.
        """
        architecture, native, suites = DEBIAN_NAMES[arch], native_architecture(), TOOLCHAINS[gcc]
        cross = f"-{COMPILERS[architecture]}" if architecture != native else ""
        own_libraries = suites is not GUEST
        packages = (f"gcc-{gcc}{cross}", "make", *(() if own_libraries else ("libelf1",)))

        def make(folder: Path) -> None:
            def unwanted(name: str) -> bool:
                if own_libraries and name == "libc6":
                    return False
                return any(fnmatch.fnmatchcase(name, pattern) for pattern in NOT_FOR_KERNELS)

            self.registry.unpack(suites, packages, folder, dependencies=True, unwanted=unwanted)
            prune(folder)
            if own_libraries:
                use_own_libraries(folder, ["usr/bin", "usr/libexec"])

        key = digest(suites.name, native, *packages, *NOT_FOR_KERNELS)
        return self.registry.cache.entry("toolchain", key, make)

    def _newest(self, suites: Suites, package: str, architecture: str) -> str:
        """Return the package with a version in its name on which the package without one depends."""
        prefix = re.sub(r"^(linux-[a-z]+-).*", r"\1", package)
        needed = self.registry.depends(suites, f"{package}:{architecture}")
        return next(name for name in needed if name.startswith(prefix))

    def _parts(self, suites: Suites, package: str, wanted: str, architecture: str) -> list[str]:
        """Return the packages on which a package depends and whose names begin as is wanted.

        Those with the kernel itself are of the guest's architecture; the tools to build with are of this machine's.
        """
        names = [name for name in self.registry.depends(suites, f"{package}:{architecture}") if re.match(wanted, name)]
        return [name if "kbuild" in name or "common" in name else f"{name}:{architecture}" for name in names]


def prune(folder: Path) -> None:
    """Remove documentation from a folder of unpacked packages."""
    for path in PRUNED:
        shutil.rmtree(folder / path, ignore_errors=True)


def relocate(folder: Path) -> None:
    """Let the unpacked headers of a kernel find their common part beside them, instead of in /usr/src."""
    here = "$(dir $(abspath $(lastword $(MAKEFILE_LIST))))"
    for makefile in folder.glob("usr/src/linux-headers-*/Makefile"):
        text = re.sub(r"^include /usr/src/", f"include {here}../", makefile.read_text(), flags=re.MULTILINE)
        makefile.write_text(re.sub(r"^KBUILD_OUTPUT=/usr/src/", f"KBUILD_OUTPUT={here}../", text, flags=re.MULTILINE))


def _kernel_key(arch: str, version: str, flavour: str) -> str:
    libraries = BUILD_LIBRARIES.get(version, ())
    return digest(KERNELS[version].name if version in KERNELS else "", arch, version, flavour, *libraries)
