"""What is printed for QEMU and for other machine monitors names the sockets, the kernel and the queues."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from pyvirtio.errors import LocalError
from pyvirtio.vm import VhostUserDevice
from pyvirtio.vm.command_lines import COMMAND_LINES, serving_hints
from pyvirtio.vm.running import Wires

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.vm.launch import LaunchConfig

WIRES = Wires("/cache/initramfs.cpio", Path())
ENTROPY = VhostUserDevice(Path("/tmp/a b.sock"), id=4, queues=2, size=8, config_size=0)


@pytest.fixture
def config(fake_setup: Callable[[str], LaunchConfig]) -> LaunchConfig:
    return replace(fake_setup("exit 0"), devices=[ENTROPY])


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ("qemu", ["socket,id=device0-socket,path=/tmp/a b.sock", "mon:stdio", "memory-backend=mem"]),
        ("cloud-hypervisor", ['socket="/tmp/a b.sock",device_type=4,queue_sizes=[8, 8]', "size=256M,shared=on"]),
        ("crosvm", ["rng,socket=/tmp/a b.sock", "256"]),
    ],
)
def test_a_command_line_can_be_given_to_a_shell(config: LaunchConfig, monitor: str, words: list[str]) -> None:
    printed = shlex.split(COMMAND_LINES[monitor](config, WIRES).replace("\\\n", " "))
    assert {*words, str(config.kernel), "/cache/initramfs.cpio"} <= set(printed)
    assert [word for word in printed if word.startswith("console=ttyS0")]
    assert not [word for word in printed if "fd=" in word or "pyvirtio=" in word], "nothing of a process that runs it"


def test_a_domain_of_libvirt_is_xml(config: LaunchConfig) -> None:
    domain = ElementTree.fromstring(COMMAND_LINES["libvirt"](config, WIRES))
    assert domain.findtext("os/initrd") == "/cache/initramfs.cpio"
    assert [access.get("mode") for access in domain.iterfind("memoryBacking/access")] == ["shared"]
    words = [argument.get("value", "") for argument in domain.iter() if argument.tag.endswith("}arg")]
    assert "socket,id=device0-socket,path=/tmp/a b.sock" in words
    assert [word for word in words if word.endswith(",bus=pcie.0,addr=0x10")], "a place of its own, beside libvirt's"
    assert not [word for word in words if word.startswith("pcie-root-port")]
    assert domain.find("features/acpi") is not None


def test_a_type_that_crosvm_does_not_take(config: LaunchConfig) -> None:
    with pytest.raises(LocalError, match=r"parameter server.*rng"):
        COMMAND_LINES["crosvm"](replace(config, devices=[replace(ENTROPY, id=38)]), WIRES)


@pytest.mark.parametrize("wrong", [{"size": 3}, {"queues": 0}, {"config_size": 1 << 20}], ids=str)
def test_a_device_that_no_qemu_takes(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalError):
        replace(ENTROPY, **wrong)


def test_how_to_serve_is_said_first() -> None:
    hints = serving_hints([("disk.py:Disk,path=a b", "/tmp/s")])
    assert hints.splitlines()[-1] == "#   pyvirtio serve 'disk.py:Disk,path=a b' --socket /tmp/s"
    assert serving_hints([]) == ""
