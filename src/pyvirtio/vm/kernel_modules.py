"""Finds modules of a kernel by name, wherever in its package they lie, with everything that they need.

What a module needs is read from the module itself. The list that ``modprobe`` reads, ``modules.dep``, is
made when a kernel is installed, and these are only unpacked.
"""

from __future__ import annotations

import difflib
import lzma
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pyvirtio.vm.kernel import Kernel

UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".ko": lambda data: data,
    ".ko.xz": lzma.decompress,
    ".ko.gz": lambda data: zlib.decompress(data, wbits=31),
}
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
SOFT = re.compile(rb"\0softdep=pre: ([^\0]*)\0")


@dataclass(frozen=True)
class Module:
    """A module of a kernel: its name as the kernel spells it, and its contents, unpacked."""

    name: str
    data: bytes

    def needs(self) -> list[str]:
        r"""Return the modules that have to be loaded before this one.

        >>> Module("virtio_rng", b"...\0depends=rng-core,virtio\0...").needs()
        ['rng_core', 'virtio']
        """
        match = DEPENDS.search(self.data)
        return [spelling(name) for name in match[1].decode().split(",") if name] if match else []

    def wants(self) -> list[str]:
        r"""Return the modules that are best loaded before this one, where the kernel has them.

        >>> Module("ext4", b"...\0softdep=pre: crc32c\0...").wants()
        ['crc32c']
        """
        match = SOFT.search(self.data)
        return [spelling(name) for name in match[1].decode().partition("post:")[0].split()] if match else []


def spelling(name: str) -> str:
    """Return a module's name as the kernel spells it: file names may have dashes where it has underscores."""
    return name.replace("-", "_")


def load_order(kernel: Kernel, names: Iterable[str]) -> list[Module]:
    """Return the modules and all that they need, each after what it needs. Built-in ones are left out.

    Raises:
        ProvisionError: the kernel has one of them neither as a module nor built in, or it is compressed with
            neither xz nor gzip.
    """
    if kernel.modules is None:
        return []
    paths = {spelling(path.name.partition(".")[0]): path for path in kernel.modules.glob("kernel/**/*.ko*")}
    builtin = _builtin(kernel.modules)
    loaded: dict[str, Module] = {}
    begun: set[str] = set()  # wishes may go in circles

    def load(name: str) -> None:
        if name in begun or name in builtin:
            return
        if name not in paths:
            raise _missing(kernel, name, [*paths, *builtin])
        begun.add(name)
        module = Module(name, _unpacked(paths[name]))
        for needed in (*module.needs(), *(wanted for wanted in module.wants() if wanted in paths)):
            load(needed)
        loaded[name] = module

    for name in names:
        load(spelling(name))
    return list(loaded.values())


def _builtin(folder: Path) -> set[str]:
    path = folder / "modules.builtin"
    lines = path.read_text().split() if path.is_file() else []
    return {spelling(line.rpartition("/")[2].partition(".")[0]) for line in lines}


def _unpacked(path: Path) -> bytes:
    unpack = UNPACK.get(f".{path.name.partition('.')[2]}")
    if unpack is None:
        raise ProvisionError(f"{path} is compressed in a way that pyvirtio cannot read; unpack it to .ko")
    return unpack(path.read_bytes())


def _missing(kernel: Kernel, name: str, known: list[str]) -> ProvisionError:
    similar = ", ".join(difflib.get_close_matches(name, known))
    hint = f"; it has {similar}" if similar else ""
    return ProvisionError(
        f"kernel {kernel.release} has no {name}, neither as a module nor built in{hint}. "
        "Another kernel may have it: --flavour full leaves less out than cloud, and --kernel-version 6.12 is newer"
    )
