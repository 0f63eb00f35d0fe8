"""What the guests of these tests are given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio.vm.launch import GuestOptions, default_builder

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.vm import Guest

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def tutorial_driver() -> Callable[[str], bytes]:
    """Return the module of a driver that does what the tutorial's does, built for an architecture."""
    builder = default_builder()

    def build(arch: str) -> bytes:
        options = GuestOptions(arch=arch)
        [module] = builder.drivers(options, builder.kernel(options), PROGRAMS / "tutorial")
        return module.read_bytes()

    return build


def ask_as_the_tutorial(guest: Guest, numbers: dict[int, int]) -> None:
    """Have the tutorial's driver ask for numbers; what it prints for each is the value, as a signed number."""
    for n, value in numbers.items():
        octal = "".join(f"\\{byte:03o}" for byte in n.to_bytes(4, "little"))
        asked = guest.run(f"printf '{octal}' >/dev/virtio_misc && dmesg | grep 'tutorial: virtio response'")
        assert asked.returncode == 0, asked.stderr
        assert asked.lines[-1].endswith(f"ret is {value}"), asked.stdout
