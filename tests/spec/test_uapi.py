"""What we say of ids, features and the protocol's numbers, and what Linux says; and that a difference is found."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

import pytest

from pyvirtio.spec.features import Feature, Status
from pyvirtio.spec.struct import Struct, array, le16, le32, u8

if TYPE_CHECKING:
    from tests.support.uapi import Uapi

pytestmark = pytest.mark.guest  # it needs what is provisioned for guests


class Packet(Struct):
    """The beginning of struct virtio_net_hdr_v1, and a field of which nobody heard."""

    flags: int = u8()
    gso_type: int = u8()
    hdr_len: int = le16()
    gso_size: int = le16()
    csum_start: int = le16()
    csum_offset: int = le16()
    num_buffers: int = le16()
    hash_value_: int = le32()


class Control(Struct):
    class_: int = u8()
    cmd: int = u8()


class Swapped(Struct):
    cmd: int = u8()
    class_: int = u8()


class Mac(Struct):
    mac: tuple[int, ...] = array(u8(), 4)


class Link(IntFlag):
    LINK_UP = 1
    ANNOUNCE = 2


class Command(IntEnum):
    PROMISC = 0
    ALLMULTI = 2


def test_feature_and_status_bits_are_those_of_linux(uapi: Uapi) -> None:
    reserved = {f"VIRTIO_F_{name}": getattr(Feature, name) for name in ("VERSION_1", "RING_PACKED", "IN_ORDER")}
    status = {f"VIRTIO_CONFIG_S_{(one.name or '').removeprefix('DEVICE_')}": one for one in Status}
    assert not uapi.differences("linux/virtio_config.h", bits=reserved, numbers=status)
    ring = {f"VIRTIO_RING_F_{name}": getattr(Feature, name) for name in ("INDIRECT_DESC", "EVENT_IDX")}
    assert not uapi.differences("linux/virtio_ring.h", bits=ring)


def test_what_agrees_is_no_difference(uapi: Uapi) -> None:
    assert not uapi.differences(
        "linux/virtio_net.h",
        structs={Packet: "virtio_net_hdr_v1", Control: "virtio_net_ctrl_hdr"},
        bits={"VIRTIO_NET_F_MQ": 1 << 22},
        numbers={"VIRTIO_NET_S_": Link, "VIRTIO_NET_CTRL_MQ": 4},
        newer={"hash_value"},
    )


def test_a_field_elsewhere_is_a_difference(uapi: Uapi) -> None:
    found = uapi.differences("linux/virtio_net.h", structs={Swapped: "virtio_net_ctrl_hdr"})
    assert [line.split(" is ")[0].split(", ")[-1] for line in found] == ["cmd)", "class)"]


def test_a_field_and_a_structure_of_another_size_are_differences(uapi: Uapi) -> None:
    assert len(uapi.differences("linux/virtio_net.h", structs={Mac: "virtio_net_config"})) == 2


def test_another_bit_and_another_number_are_differences(uapi: Uapi) -> None:
    found = uapi.differences(
        "linux/virtio_net.h", bits={"VIRTIO_NET_F_MQ": 22}, numbers={"VIRTIO_NET_CTRL_RX_": Command}
    )
    assert [line.split(" is ")[0] for line in found] == ["1ull << VIRTIO_NET_F_MQ", "VIRTIO_NET_CTRL_RX_ALLMULTI"]


def test_what_linux_does_not_have_is_an_error(uapi: Uapi) -> None:
    with pytest.raises(ValueError, match="VIRTIO_NET_NO_SUCH_THING"):
        uapi.differences("linux/virtio_net.h", numbers={"VIRTIO_NET_NO_SUCH_THING": 1})
