"""Builds a kernel module out of tree, natively or for another architecture, and keeps it.

The result is named by what went into it: the sources, the kernel's release and symbols, the compiler.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, digest, no_room, says_no_room
from pyvirtio.provision.packages import DEBIAN_NAMES
from pyvirtio.provision.progress import Progress, Silent
from pyvirtio.vm.guest_packages import COMPILERS, TOOLCHAINS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyvirtio.vm.kernel import Kernel

SOURCES = (".c", ".h", ".S")
# Type information for BPF would need one more tool, and nothing in a guest reads it.
SETTINGS = ("CONFIG_DEBUG_INFO_BTF_MODULES=",)
KERNEL_ARCH = {"x86_64": "x86", "aarch64": "arm64"}  # by the kernel's own build


def build_module(
    cache: Cache,
    kernel: Kernel,
    arch: str,
    sources: Path,
    *,
    toolchain: Callable[[int], Path],
    progress: Progress | None = None,
) -> Path:
    """Return the folder with the modules (``*.ko``) built from the folder `sources`, which has a Kbuild file.

    Args:
        cache: where the result is kept.
        kernel: what it is built for.
        arch: the architecture of the kernel.
        sources: C files, headers and Kbuild, in folders of their own as well.
        toolchain: called for the folder with make and a version of gcc, if something has to be built.
        progress: where the build is reported.

    Raises:
        ProvisionError: the kernel has no headers, or the module does not compile; the message ends
            with what the compiler said.
    """
    if kernel.headers is None:
        raise ProvisionError(
            f"the headers of kernel {kernel.release} are missing, so no driver can be built for it; "
            "install them, or leave --kernel out"
        )
    headers, gcc = kernel.headers, compiler_for(kernel.headers)

    def make(folder: Path) -> None:
        tools = toolchain(gcc)
        with (progress or Silent()).step(f"building the guest's driver for {kernel.release}"):
            _build(headers, arch, sources, gcc, tools=tools, folder=folder, root=cache.root)

    return cache.entry("module", module_key(kernel, sources), make)


def module_key(kernel: Kernel, sources: Path) -> str:
    """Return a name for everything that a build depends on."""
    symbols = kernel.headers / "Module.symvers" if kernel.headers else None
    parts: list[str | bytes] = [
        kernel.release,
        f"gcc-{compiler_for(kernel.headers)}" if kernel.headers else "",
        *SETTINGS,
        symbols.read_bytes() if symbols and symbols.is_file() else b"",
    ]
    for path in _sources(sources):
        parts += [path.relative_to(sources).as_posix(), path.read_bytes()]
    return digest(*parts)


def compiler_for(headers: Path) -> int:
    """Return the version of gcc to build with: the first that is not older than the kernel's own, or the newest."""
    own = _built_with(headers)
    return next((version for version in TOOLCHAINS if version >= own), max(TOOLCHAINS))


def _built_with(headers: Path) -> int:
    """Return the version of gcc with which the kernel was built; 0 where that is not known."""
    config = headers / "include/config/auto.conf"
    found = (
        re.search(r"^CONFIG_GCC_VERSION=(\d+)\d{4}$", config.read_text(), re.MULTILINE) if config.is_file() else None
    )
    return int(found[1]) if found else 0


def _build(headers: Path, arch: str, sources: Path, gcc: int, *, tools: Path, folder: Path, root: Path) -> None:
    work = folder / "build"
    for path in _sources(sources):
        target = work / path.relative_to(sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    cross = "" if arch == platform.machine() else f"{COMPILERS[DEBIAN_NAMES[arch]]}-"
    command = [
        *("make", "-C", str(headers), f"M={work}", f"ARCH={KERNEL_ARCH[arch]}"),
        *(f"CROSS_COMPILE={cross}", f"CC={cross}gcc-{gcc}", *SETTINGS, "modules"),
    ]
    done = subprocess.run(
        command,
        env=tool_environment(tools),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if says_no_room(done.stderr):
            raise no_room(root)
        complaint = "\n".join(f"  | {line}" for line in done.stderr.splitlines()[-30:])
        raise ProvisionError(f"the module in {sources} does not build{_too_old(headers, gcc)}; mend this:\n{complaint}")
    for module in work.rglob("*.ko"):
        shutil.copyfile(module, folder / module.name)
    shutil.rmtree(work)


def _too_old(headers: Path, gcc: int) -> str:
    """Return, where the kernel was built by a newer compiler than ours, what that means."""
    own = _built_with(headers)
    if own <= gcc:
        return ""
    return f", for the kernel was built with gcc-{own} and drivers are built with gcc-{gcc}; take an older kernel"


def tool_environment(tools: Path) -> dict[str, str]:
    """Return the environment in which the programs of an unpacked toolchain run."""
    libraries = [path for base in ("usr/lib", "lib") for path in sorted((tools / base).glob("*-linux-gnu"))]
    if any((folder / "libc.so.6").exists() for folder in libraries):
        libraries = []  # the tools find their own, and programs of this machine must not
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "KBUILD_"))}
    return {
        **inherited,
        "PATH": f"{tools / 'usr/bin'}:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "LC_ALL": "C",
    }


def _sources(folder: Path) -> list[Path]:
    """Return the files that a build reads, in a fixed order, without what an earlier build left."""
    wanted = (path for path in folder.rglob("*") if path.suffix in SOURCES and not path.name.endswith(".mod.c"))
    return sorted([*wanted, *folder.rglob("Kbuild")])
