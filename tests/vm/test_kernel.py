"""Kernels: which release an image is, and where its modules are."""

from __future__ import annotations

import gzip
import lzma
import struct
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.vm.guest_packages import relocate
from pyvirtio.vm.kernel import Kernel, release_of

if TYPE_CHECKING:
    from pathlib import Path

BANNER = b"\0\0Linux version 6.12.1-cloud (builder) #1 SMP\0"


def bzimage(release: bytes) -> bytes:
    image = bytearray(0x1000)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x300)
    image[0x500 : 0x500 + len(release)] = release
    return bytes(image)


def zboot(payload: bytes) -> bytes:
    return b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)) + bytes(48) + payload


@pytest.mark.parametrize(
    ("image", "release"),
    [
        (bzimage(b"6.1.0-56-cloud-amd64 (builder) #1"), "6.1.0-56-cloud-amd64"),
        (BANNER, "6.12.1-cloud"),
        (gzip.compress(BANNER), "6.12.1-cloud"),
        (lzma.compress(BANNER), "6.12.1-cloud"),
        (zboot(gzip.compress(BANNER)), "6.12.1-cloud"),
        (b"\x1f\x8b damaged", ""),
        (b"", ""),
        (b"no kernel at all", ""),
    ],
    # gzip writes the time into its header, and a test's name is to be the same every second.
    ids=["bzimage", "plain", "gzip", "xz", "zboot", "damaged", "empty", "nothing"],
)
def test_the_release_is_read_from_the_image(image: bytes, release: str) -> None:
    assert release_of(image) == release


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "lib/modules/6.12.1-cloud").mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.12.1-cloud").write_bytes(BANNER)
    (tmp_path / "usr/src/linux-headers-6.12.1-cloud").mkdir(parents=True)
    return tmp_path


def test_a_kernel_is_found_among_its_packages(tree: Path) -> None:
    kernel = Kernel.unpacked(tree)
    assert kernel.release == "6.12.1-cloud"
    assert kernel.modules == tree / "lib/modules/6.12.1-cloud"
    assert kernel.headers == tree / "usr/src/linux-headers-6.12.1-cloud"
    with pytest.raises(ProvisionError, match="remove that folder"):
        Kernel.unpacked(tree / "usr")


def test_an_image_among_the_modules_is_found(tree: Path) -> None:
    """Debian has it there from 7 on."""
    (tree / "boot/vmlinuz-6.12.1-cloud").unlink()
    folder = tree / "usr/lib/modules/7.3.4-cloud"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(BANNER)
    kernel = Kernel.unpacked(tree)
    assert (kernel.release, kernel.image, kernel.modules) == ("7.3.4-cloud", folder / "vmlinuz", folder)


def test_a_kernel_that_the_user_names(tree: Path, tmp_path: Path) -> None:
    given = Kernel.given(tree / "boot/vmlinuz-6.12.1-cloud", native=False)
    assert given.modules == tree / "lib/modules/6.12.1-cloud"
    assert given.headers is None
    with pytest.raises(ProvisionError, match="No such file"):
        Kernel.given(tmp_path / "missing", native=True)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ProvisionError, match="not a Linux kernel"):
        Kernel.given(tmp_path / "text", native=True)


def test_headers_find_each_other_where_they_were_unpacked(tmp_path: Path) -> None:
    makefile = tmp_path / "usr/src/linux-headers-6.1-cloud/Makefile"
    makefile.parent.mkdir(parents=True)
    makefile.write_text("KBUILD_OUTPUT=/usr/src/x\ninclude /usr/src/linux-headers-6.1-common/Makefile\n")
    relocate(tmp_path)
    here = "$(dir $(abspath $(lastword $(MAKEFILE_LIST))))"
    assert makefile.read_text() == f"KBUILD_OUTPUT={here}../x\ninclude {here}../linux-headers-6.1-common/Makefile\n"
