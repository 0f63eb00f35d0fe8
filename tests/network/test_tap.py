"""A TAP device, and behind it the kernel of this machine, in a network of the test's own."""

from __future__ import annotations

import pytest

from pyvirtio.errors import LocalError
from pyvirtio.network import TapEnd
from tests.support import namespace


@pytest.mark.parametrize(("offloads", "left"), [("offloads", 3), ("none", 0)])
def test_datagrams_come_and_go_and_checksums_are_left_to_whoever_can(offloads: str, left: int) -> None:
    said = namespace.run("tests.support.tap_echo", offloads)
    assert said == f"3 datagrams, {left} checksums left to us\n"


@pytest.mark.parametrize("name", ["", "a-name-that-is-too-long"])
def test_a_name_that_no_device_can_have_is_refused(name: str) -> None:
    with pytest.raises(LocalError):
        TapEnd(name)


def test_a_machine_without_tap_devices_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvirtio.network.tap.DEVICE", "/nowhere")
    with pytest.raises(LocalError, match="module tun"):
        TapEnd("tap0")
