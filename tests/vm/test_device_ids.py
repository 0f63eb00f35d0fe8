"""QEMU is asked, stopped and without a guest, whether it creates a device; another id is used where it does not."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import GuestError, LocalError
from pyvirtio.provision.cache import Cache
from pyvirtio.spec.ids import DEFAULT_ID, QEMU_FORWARDS
from pyvirtio.vm.device_ids import DeviceProbe, refusal
from pyvirtio.vm.drivers import OWN_IDS
from pyvirtio.vm.frontends import FRONTENDS, GENERIC, ConfigSource
from pyvirtio.vm.machine import Boot, VhostUserDevice, find_machine
from pyvirtio.vm.qemu import Qemu
from pyvirtio.vm.rootfs import DRIVER_SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable

MACHINE = find_machine("x86_64")
DEVICE = VhostUserDevice(Path("/nowhere"), id=45, queues=1, size=128, config_size=16)
# Speaks on the socket that it is given if the id is one of those in the file; each start is logged.
FORWARDS = """
echo started >>{folder}/starts
for word in "$@"; do
    case $word in
    socket,*) socket=${{word##*path=}} ;;
    *virtio-id=*) id=${{word##*virtio-id=}}; id=${{id%%,*}} ;;
    esac
done
if grep -qx "$id" {folder}/ids; then exec {python} -c "{speak}" "$socket"; fi
echo "unknown id $id" >&2
kill -ABRT $$
"""
SPEAK = (
    "import signal, socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    "s.send(b'1'); signal.pause()"
)


@pytest.fixture
def probe(fake_qemu: Callable[..., Path], tmp_path: Path) -> Callable[..., DeviceProbe]:
    """Make a probe of a QEMU that forwards some ids."""

    def make(*ids: int) -> DeviceProbe:
        (tmp_path / "ids").write_text("".join(f"{number}\n" for number in ids))
        qemu = Qemu((str(fake_qemu(FORWARDS.format(folder=tmp_path, python=sys.executable, speak=SPEAK))),))
        return DeviceProbe(qemu, MACHINE, Cache(tmp_path / "cache"))

    return make


def test_a_device_keeps_an_id_that_qemu_takes(probe: Callable[..., DeviceProbe]) -> None:
    assert probe(38, 45).accepted(DEVICE) == DEVICE


def test_another_id_that_the_driver_knows_is_used_where_qemu_refuses_the_first(
    probe: Callable[..., DeviceProbe],
) -> None:
    device = replace(DEVICE, driver_ids=(45, 38, 63), bus="port0", name="mine")
    assert probe(4, 38, 63).accepted(device) == replace(device, id=38)


def test_a_refused_id_is_an_error_that_says_which_are_taken(probe: Callable[..., DeviceProbe]) -> None:
    with pytest.raises(LocalError, match=r"id 45 .*unknown id 45.* 1 to 4, 21, 38") as error:
        probe(1, 2, 3, 4, 21, 38).accepted(DEVICE)
    assert f"--device-id {DEFAULT_ID}" in str(error.value)


def test_a_qemu_that_takes_nothing_is_an_error(probe: Callable[..., DeviceProbe]) -> None:
    with pytest.raises(LocalError, match=GENERIC.pci):
        probe().accepted(DEVICE)


def test_the_answer_is_kept_for_the_same_qemu_and_device(probe: Callable[..., DeviceProbe], tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    for _ in range(2):
        probe(45).accepted(DEVICE)
    assert starts.read_text().count("started") == 2, "the stand-in was written again, which makes it another QEMU"
    one = probe(45)
    starts.write_text("")
    for _ in range(2):
        one.accepted(replace(DEVICE, socket=tmp_path, name="other"))
    assert starts.read_text().count("started") == 1
    one.accepted(replace(DEVICE, queues=2))
    assert starts.read_text().count("started") == 2


def test_a_qemu_that_neither_speaks_nor_ends_is_ended(fake_qemu: Callable[..., Path]) -> None:
    qemu = Qemu((str(fake_qemu("exec tail -f /dev/null")),))
    with pytest.raises(GuestError):
        refusal(qemu, MACHINE, DEVICE, limit=0.2)


@pytest.mark.parametrize(
    ("queues", "size", "config_size", "wrong"),
    [
        (0, 128, 0, "0"),
        (1025, 128, 0, "1025"),
        (1, 0, 0, "0"),
        (1, 100, 0, "100"),
        (1, 2048, 0, "2048"),
        (1, 8, 257, "257"),
    ],
)
def test_numbers_on_which_qemu_aborts_are_refused_before_it_starts(
    queues: int, size: int, config_size: int, wrong: str
) -> None:
    with pytest.raises(LocalError, match=wrong):
        VhostUserDevice(Path("/nowhere"), 45, queues, size, config_size)


def test_the_drivers_ids_are_those_of_its_source() -> None:
    source = (DRIVER_SOURCES / "virtio_test.c").read_text()
    defined = dict(re.findall(r"#define (VIRTIO_ID_TEST\w*)\s+(\d+)", (DRIVER_SOURCES / "virtio_test.h").read_text()))
    bound = [int(defined[name]) for name in re.findall(r"{ (VIRTIO_ID_TEST\w*), VIRTIO_DEV_ANY_ID }", source)]
    assert tuple(bound) == OWN_IDS


# The table of front-ends.


@pytest.mark.parametrize("device_id", FRONTENDS)
@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_a_frontend_gets_the_character_device(device_id: int, transport: str) -> None:
    frontend = FRONTENDS[device_id]
    device = replace(DEVICE, id=device_id, queues=8, frontend=frontend, name="one", bus="port0")
    words = list(device.arguments(transport))
    assert words[:2] == ["-chardev", "socket,id=one-socket,path=/nowhere"]
    assert sum("chardev=one-socket" in word for word in words) == 1
    assert words[-1].startswith(f"{frontend.model(transport)},id=one,")
    assert words[-1].endswith(",bus=port0")
    assert "virtio-id" not in words[-1]


@pytest.mark.parametrize(
    ("device_id", "queues", "options"),
    [
        (1, 5, "queues=2"),  # two pairs and a control queue
        (2, 4, "num-queues=4,queue-size=128"),
        (8, 5, "num_queues=3,virtqueue_size=128"),
        (26, 2, "num-request-queues=1,queue-size=128"),
        (20, 3, "queues=2"),
    ],
)
def test_only_the_repeated_queues_are_counted(device_id: int, queues: int, options: str) -> None:
    device = replace(DEVICE, id=device_id, queues=queues, frontend=FRONTENDS[device_id])
    assert options in " ".join(device.arguments("pci"))


def test_every_type_with_a_frontend_of_its_own_is_forwarded_by_the_generic_one() -> None:
    assert set(FRONTENDS) <= QEMU_FORWARDS["11.1"]
    assert {ConfigSource.BACKEND, ConfigSource.QEMU, ConfigSource.NONE} == {one.config for one in FRONTENDS.values()}


def test_a_frontend_is_used_where_this_qemu_has_it(fake_qemu: Callable[..., Path], tmp_path: Path) -> None:
    probe = DeviceProbe(Qemu((str(fake_qemu()),)), MACHINE, Cache(tmp_path))
    assert probe.frontend(4) is FRONTENDS[4]
    assert probe.frontend(DEFAULT_ID) is GENERIC
    older = DeviceProbe(Qemu((str(fake_qemu(probe="exit 0")),)), MACHINE, Cache(tmp_path))
    assert older.frontend(4) is GENERIC


def test_devices_without_a_name_are_numbered() -> None:
    devices = [DEVICE, replace(DEVICE, name="mine"), DEVICE]
    line = " ".join(MACHINE.arguments(Boot(Path("/kernel"), devices=devices)))
    assert re.findall(r"socket,id=(\w+)-socket", line) == ["device0", "mine", "device2"]
