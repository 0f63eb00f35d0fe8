"""Guests that are ready to start, and what they must not say."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.launch import GuestOptions, default_builder
from pyvirtio.vm.machine import VhostUserDevice
from pyvirtio.vm.rootfs import DRIVER_SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvirtio.vm.guest import Guest, LaunchConfig

PROGRAMS = Path(__file__).parent / "programs"
TROUBLE = ("Oops", "BUG:", "WARNING:", "Call Trace", "refcount", "kmemleak", "is not a head", "leaked")


@pytest.fixture(scope="session")
def prepared() -> Callable[..., LaunchConfig]:
    """A guest that is ready to start, with the check of the driver in it."""
    builder = default_builder()

    def prepare(arch: str = "x86_64", transport: str = "") -> LaunchConfig:
        overlay = Initramfs()
        overlay.file("bin/driver_check", (PROGRAMS / "driver_check.py").read_bytes(), mode=0o755)
        try:
            setup = builder.prepare(GuestOptions(arch=arch, transport=transport, accel="tcg"), sources=DRIVER_SOURCES)
        except ProvisionError as error:
            pytest.skip(f"nothing can be provisioned here: {error}")
        return replace(setup, overlay=overlay)

    return prepare


@pytest.fixture
def device_at() -> Callable[..., VhostUserDevice]:
    def device_at(path: object, **changes: Any) -> VhostUserDevice:
        return replace(VhostUserDevice(Path(str(path)), id=45, queues=1, size=128, config_size=16), **changes)

    return device_at


@pytest.fixture(scope="session")
def tutorial_driver() -> Callable[[str], bytes]:
    """Return the module of a driver that does what the tutorial's does, built for an architecture."""
    builder = default_builder()

    def build(arch: str) -> bytes:
        guest_options = GuestOptions(arch=arch)
        [module] = builder.drivers(guest_options, builder.kernel(guest_options), PROGRAMS / "tutorial")
        return module.read_bytes()

    return build


def ask_as_the_tutorial(guest: Guest, numbers: dict[int, int]) -> None:
    """Have the tutorial's driver ask for numbers; what it prints for each is the value, as a signed number."""
    for n, value in numbers.items():
        octal = "".join(f"\\{byte:03o}" for byte in n.to_bytes(4, "little"))
        asked = guest.run(f"printf '{octal}' >/dev/virtio_misc && dmesg | grep 'tutorial: virtio response'")
        assert asked.status == 0, asked.output
        assert asked.lines[-1].endswith(f"ret is {value}"), asked.output


@contextlib.contextmanager
def unremarkable(guest: Guest, *, allowed: tuple[str, ...] = ()) -> Iterator[None]:
    """Fail if what runs in the block makes the guest's kernel complain."""
    yield
    log = guest.run("dmesg").lines
    found = [line for line in log if any(sign in line for sign in TROUBLE if sign not in allowed)]
    assert not found, "\n".join(log[-60:])
