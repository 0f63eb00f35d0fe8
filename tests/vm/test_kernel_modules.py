"""Modules are found by name wherever they lie, and everything that they need comes first."""

from __future__ import annotations

import gzip
import lzma
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.vm.kernel import Kernel
from pyvirtio.vm.kernel_modules import load_order

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def module(needs: str, text: bytes = b"") -> bytes:
    return b"\x7fELF" + text + b"\0license=GPL\0depends=" + needs.encode() + b"\0retpoline=Y\0"


TREE: dict[str, Callable[[], bytes]] = {
    "drivers/virtio/virtio.ko": lambda: module("virtio_ring"),
    "drivers/virtio/virtio_ring.ko.xz": lambda: lzma.compress(module("", b"from xz")),
    "drivers/char/hw_random/virtio-rng.ko.gz": lambda: gzip.compress(module("rng-core,virtio_ring,virtio")),
    "drivers/char/hw_random/rng-core.ko": lambda: module("virtio_dma"),
    "drivers/net/odd.ko.zst": lambda: b"?",
    "drivers/net/lost.ko": lambda: module("gone"),
}


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    for name, data in TREE.items():
        path = tmp_path / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data())
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_dma.ko\n")
    return Kernel(tmp_path, "6.12.1", modules=tmp_path)


@pytest.mark.parametrize("spelling", ["virtio_rng", "virtio-rng"])
def test_what_a_module_needs_is_loaded_before_it(kernel: Kernel, spelling: str) -> None:
    assert [one.name for one in load_order(kernel, [spelling])] == ["rng_core", "virtio_ring", "virtio", "virtio_rng"]


def test_nothing_is_loaded_twice(kernel: Kernel) -> None:
    names = [one.name for one in load_order(kernel, ["virtio", "virtio_rng", "virtio"])]
    assert names == ["virtio_ring", "virtio", "rng_core", "virtio_rng"]


def test_modules_are_unpacked(kernel: Kernel) -> None:
    [ring] = load_order(kernel, ["virtio_ring"])
    assert b"from xz" in ring.data


def test_what_is_built_in_needs_no_loading(kernel: Kernel, tmp_path: Path) -> None:
    assert load_order(kernel, ["virtio_dma"]) == []
    assert load_order(Kernel(tmp_path, "6.1"), ["virtio"]) == []  # no folder: everything is built in


@pytest.mark.parametrize(
    ("name", "words"),
    [("virtio_rnd", ["virtio_rnd", "virtio_rng"]), ("lost", ["gone"]), ("odd", [".zst", ".ko"])],
)
def test_a_module_that_cannot_be_loaded_is_named(kernel: Kernel, name: str, words: list[str]) -> None:
    with pytest.raises(ProvisionError) as error:
        load_order(kernel, [name])
    assert all(word in str(error.value) for word in words)
