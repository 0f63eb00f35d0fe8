"""The ids of device types, and the warning about those that QEMU does not forward."""

from __future__ import annotations

import pytest

from pyvirtio.spec.ids import DEFAULT_ID, DEVICE_NAMES, LARGEST_PCI_ID, QEMU_FORWARDS, device_name, id_trouble


@pytest.mark.parametrize(("device_id", "word"), [(1, "network"), (26, "file system"), (45, "SPI"), (14, "14")])
def test_a_device_type_has_the_name_of_the_specification(device_id, word):
    assert word in device_name(device_id)


@pytest.mark.parametrize("device_id", [1, 13, 16, 38, 41])
def test_no_trouble_with_what_every_qemu_forwards(device_id):
    assert id_trouble(device_id) is None


@pytest.mark.parametrize(
    ("device_id", "versions"), [(45, ["10.2"]), (14, ["10.2", "11.1"]), (42, ["10.2", "11.1"]), (63, ["10.2", "11.1"])]
)
def test_trouble_names_the_versions_of_qemu_and_an_id_that_works(device_id, versions):
    text = id_trouble(device_id)
    assert text is not None
    assert [version for version in QEMU_FORWARDS if version in text] == versions
    assert str(DEFAULT_ID) in text


@pytest.mark.parametrize("device_id", [-1, 0, LARGEST_PCI_ID + 1, 70])
def test_an_id_that_pci_does_not_have_is_trouble(device_id):
    assert str(LARGEST_PCI_ID) in (id_trouble(device_id) or "")


def test_the_default_id_is_assigned_and_forwarded_by_every_qemu():
    assert DEFAULT_ID in DEVICE_NAMES
    assert all(DEFAULT_ID in ids for ids in QEMU_FORWARDS.values())
