"""Structures of real devices, declared as their authors would, and compared byte by byte with VIRTIO 1.4's text."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from pyvirtio.spec.struct import Struct, array, be16, be32, chars, le16, le32, le64, nested, raw, u8

# 5.2.4, struct virtio_blk_config


class Writeback(IntEnum):
    WRITETHROUGH = 0
    WRITEBACK = 1


class ZonedModel(IntEnum):
    NONE = 0
    HOST_MANAGED = 1
    HOST_AWARE = 2


class Geometry(Struct):
    cylinders: int = le16()
    heads: int = u8()
    sectors: int = u8()


class Topology(Struct):
    physical_block_exp: int = u8()
    alignment_offset: int = u8()
    min_io_size: int = le16()
    opt_io_size: int = le32()


class Zoned(Struct):
    zone_sectors: int = le32()
    max_open_zones: int = le32()
    max_active_zones: int = le32()
    max_append_sectors: int = le32()
    write_granularity: int = le32()
    model: ZonedModel = u8(kind=ZonedModel)
    unused2: tuple[int, ...] = array(u8(), 3)


class BlockConfig(Struct):
    capacity: int = le64()
    size_max: int = le32()
    seg_max: int = le32()
    geometry: Geometry = nested(Geometry)
    blk_size: int = le32()
    topology: Topology = nested(Topology)
    writeback: Writeback = u8(kind=Writeback, writable=True)
    unused0: int = u8()
    num_queues: int = le16()
    max_discard_sectors: int = le32()
    max_discard_seg: int = le32()
    discard_sector_alignment: int = le32()
    max_write_zeroes_sectors: int = le32()
    max_write_zeroes_seg: int = le32()
    write_zeroes_may_unmap: int = u8()
    unused1: tuple[int, ...] = array(u8(), 3)
    max_secure_erase_sectors: int = le32()
    max_secure_erase_seg: int = le32()
    secure_erase_sector_alignment: int = le32()
    zoned: Zoned = nested(Zoned)


BLOCK = """
capacity 8, size_max 4, seg_max 4,
geometry.cylinders 2, geometry.heads 1, geometry.sectors 1,
blk_size 4,
topology.physical_block_exp 1, topology.alignment_offset 1, topology.min_io_size 2, topology.opt_io_size 4,
writeback 1, unused0 1, num_queues 2,
max_discard_sectors 4, max_discard_seg 4, discard_sector_alignment 4,
max_write_zeroes_sectors 4, max_write_zeroes_seg 4, write_zeroes_may_unmap 1, unused1 3,
max_secure_erase_sectors 4, max_secure_erase_seg 4, secure_erase_sector_alignment 4,
zoned.zone_sectors 4, zoned.max_open_zones 4, zoned.max_active_zones 4, zoned.max_append_sectors 4,
zoned.write_granularity 4, zoned.model 1, zoned.unused2 3
"""


# 5.1.4, struct virtio_net_config


class NetConfig(Struct):
    mac: bytes = raw(6)
    status: int = le16()
    max_virtqueue_pairs: int = le16()
    mtu: int = le16()
    speed: int = le32()
    duplex: int = u8()
    rss_max_key_size: int = u8()
    rss_max_indirection_table_length: int = le16()
    supported_hash_types: int = le32()
    supported_tunnel_types: int = le32()


NET = """
mac 6, status 2, max_virtqueue_pairs 2, mtu 2, speed 4, duplex 1, rss_max_key_size 1,
rss_max_indirection_table_length 2, supported_hash_types 4, supported_tunnel_types 4
"""


# 5.8.4, struct virtio_input_config


class InputSelect(IntEnum):
    UNSET = 0x00
    ID_NAME = 0x01
    ID_SERIAL = 0x02
    ID_DEVIDS = 0x03
    PROP_BITS = 0x10
    EV_BITS = 0x11
    ABS_INFO = 0x12


class AbsInfo(Struct):
    min: int = le32()
    max: int = le32()
    fuzz: int = le32()
    flat: int = le32()
    res: int = le32()


class DevIds(Struct):
    bustype: int = le16()
    vendor: int = le16()
    product: int = le16()
    version: int = le16()


class Name(Struct):
    string: str = chars(128)


class InputConfig(Struct):
    select: InputSelect = u8(kind=InputSelect, writable=True)
    subsel: int = u8(writable=True)
    size: int = u8()
    reserved: bytes = raw(5)
    u: bytes = raw(128)


INPUT = "select 1, subsel 1, size 1, reserved 5, u 128"


# 5.12.5.1, struct virtio_rpmb_frame


class RpmbFrame(Struct):
    stuff: bytes = raw(196)
    key_mac: bytes = raw(32)
    data: bytes = raw(256)
    nonce: bytes = raw(16)
    write_counter: int = be32()
    address: int = be16()
    block_count: int = be16()
    result: int = be16()
    req_resp: int = be16()


RPMB = """
stuff 196, key_mac 32, data 256, nonce 16, write_counter 4, address 2, block_count 2, result 2, req_resp 2
"""


def value_at(structure: Struct, path: str) -> Any:
    for name in path.split("."):
        structure = getattr(structure, name)
    return structure


@pytest.mark.parametrize(
    ("kind", "text", "nbytes", "order"),
    [
        (BlockConfig, BLOCK, 96, "little"),
        (NetConfig, NET, 28, "little"),
        (InputConfig, INPUT, 136, "little"),
        (RpmbFrame, RPMB, 512, "big"),
    ],
)
def test_every_byte_is_where_the_text_has_it(kind: type[Struct], text: str, nbytes: int, order: Any):
    data = bytes(5 * at % 251 for at in range(nbytes))
    structure, offset = kind.unpack(data), 0
    for path, size in (field.split() for field in text.split(",")):
        assert (kind.offset_of(path), kind.size_of(path)) == (offset, int(size))
        part, value = data[offset : offset + int(size)], value_at(structure, path)
        assert value == (int.from_bytes(part, order) if isinstance(value, int) else type(value)(part))
        offset += int(size)
    assert offset == kind.nbytes == nbytes
    assert structure.pack() == data
    assert len(structure.describe().splitlines()) >= len(text.split(","))


def test_what_a_driver_may_write():
    assert BlockConfig.writable_mask() == bytes(32) + b"\xff" + bytes(63)  # 5.2.5.1
    assert NetConfig.writable_mask() == bytes(28)
    assert InputConfig.writable_mask() == b"\xff\xff" + bytes(134)  # 5.8.5.1


def test_a_block_device_of_8_MiB():
    config = BlockConfig(
        capacity=16384,
        geometry=Geometry(16, 16, 63),
        blk_size=512,
        topology=Topology(3, 0, 8, 128),
        writeback=Writeback.WRITEBACK,
        num_queues=2,
        zoned=Zoned(0x1000, model=ZonedModel.HOST_MANAGED),
    )
    assert config.pack() == bytes.fromhex(
        "0040000000000000 00000000 00000000 1000 10 3f 00020000 03 00 0800 80000000 01 00 0200"
        "00000000 00000000 00000000 00000000 00000000 00 000000 00000000 00000000 00000000"
        "00100000 00000000 00000000 00000000 00000000 01 000000"
    )


def test_a_union_is_bytes_that_other_structures_read():
    config = InputConfig(InputSelect.ABS_INFO, 0, AbsInfo.nbytes, u=AbsInfo(0, 32767, res=40).pack())
    assert config.pack()[:28] == bytes.fromhex("12 00 14 0000000000 00000000 ff7f0000 00000000 00000000 28000000")
    assert AbsInfo.unpack(config.u) == AbsInfo(0, 32767, 0, 0, 40)
    assert DevIds.unpack(config.u) == DevIds(0, 0, 0x7FFF, 0)
    assert Name.unpack(InputConfig(InputSelect.ID_NAME, size=8, u=b"keyboard").u).string == "keyboard"
