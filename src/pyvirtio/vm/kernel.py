"""A kernel: its image, and where its modules and the headers for building more of them are."""

from __future__ import annotations

import lzma
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from pyvirtio.errors import ProvisionError

X86_MAGIC = b"HdrS"  # of the boot protocol's header, at 0x202
X86_VERSION = 0x20E  # where the offset of the version stands, less 0x200
ZBOOT_MAGIC = b"MZ\0\0zimg"  # an image that unpacks itself, for arm64
BANNER = re.compile(rb"Linux version (\d\S+) \(")


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted.

    Attributes:
        image: the file that QEMU loads.
        release: as ``uname -r`` prints it.
        modules: the folder ``lib/modules/RELEASE``; None if the kernel has everything built in.
        headers: the folder to build modules in; None if it is not there.
    """

    image: Path
    release: str
    modules: Path | None = None
    headers: Path | None = None

    @classmethod
    def unpacked(cls, root: Path) -> Kernel:
        """Return the kernel whose packages were unpacked under `root`."""
        # Debian's newest packages have the image among the modules.
        images = {path.name.removeprefix("vmlinuz-"): path for path in (root / "boot").glob("vmlinuz-*")}
        images |= {path.parent.name: path for path in (root / "usr/lib/modules").glob("*/vmlinuz")}
        if not images:
            raise ProvisionError(f"{root} holds no kernel; remove that folder, and it is provisioned again")
        release = max(images)
        headers = root / "usr/src" / f"linux-headers-{release}"
        modules = (root / "lib/modules" / release, root / "usr/lib/modules" / release)
        return cls(images[release], release, _first(*modules), _first(headers))

    @classmethod
    def given(cls, image: Path, *, native: bool) -> Kernel:
        """Return the kernel that a user names by its image.

        Modules are looked for where distributions put them: in ``lib/modules`` beside the folder of
        the image and, for a guest of this machine's architecture, in ``/lib/modules``.

        Raises:
            ProvisionError: the file is not a kernel.
        """
        try:
            release = release_of(image.read_bytes()) or image.name.partition("vmlinuz-")[2]
        except OSError as error:
            raise ProvisionError(f"--kernel {image}: {error.strerror}; give a file that you may read") from error
        if not release:
            raise ProvisionError(f"--kernel {image} is not a Linux kernel that a guest can boot; give its vmlinuz")
        roots = (image.resolve().parent.parent, *([Path("/")] if native else []))
        modules = _first(*(root / folder / release for root in roots for folder in ("lib/modules", "usr/lib/modules")))
        return cls(image, release, modules, _first(modules / "build") if modules else None)


def release_of(image: bytes) -> str:
    """Return the release of a kernel, read from its image; empty if it is not found.

    >>> release_of(b"...Linux version 6.1.0-1-cloud-arm64 (maintainers) #1 SMP")
    '6.1.0-1-cloud-arm64'
    """
    if image[0x202:0x206] == X86_MAGIC:
        (offset,) = struct.unpack_from("<H", image, X86_VERSION)
        text = image[offset + 0x200 :][:256].split(b"\0", 1)[0]
        return text.split(b" ", 1)[0].decode("ascii", errors="replace")
    match = BANNER.search(image) or BANNER.search(_decompressed(image))
    return match[1].decode("ascii", errors="replace") if match else ""


def _decompressed(image: bytes) -> bytes:
    """Return the kernel inside a compressed image, or nothing."""
    if image[:8] == ZBOOT_MAGIC:
        offset, size = struct.unpack_from("<II", image, 8)
        image = image[offset : offset + size]
    try:
        if image[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=31).decompress(image)
        if image[:6] == b"\xfd7zXZ\0":
            return lzma.decompress(image)
    except (zlib.error, lzma.LZMAError):
        pass
    return b""


def _first(*folders: Path) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)
