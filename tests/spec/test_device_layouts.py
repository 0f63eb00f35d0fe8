"""Structures of real devices, compared byte by byte with VIRTIO 1.4's text."""

from __future__ import annotations

from typing import Any

import pytest

from pyvirtio.devices import block, input, net  # noqa: A004  # the device's name
from pyvirtio.spec.struct import Struct, be16, be32, chars, le16, le32, raw, u8

# 5.2.4, struct virtio_blk_config


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


class NetConfig(net.Config):
    """All of it: the device declares as much as it has."""

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


class Name(Struct):
    string: str = chars(128)


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
        (block.Config, BLOCK, 96, "little"),
        (NetConfig, NET, 28, "little"),
        (input.Config, INPUT, 136, "little"),
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
    assert block.Config.writable_mask() == bytes(96)  # it does not offer the one field that may be: 5.2.5.1
    assert NetConfig.writable_mask() == bytes(28)
    assert input.Config.writable_mask() == b"\xff\xff" + bytes(134)  # 5.8.5.1


def test_a_block_device_of_8_MiB():
    config = block.Config(
        capacity=16384,
        geometry=block.Geometry(16, 16, 63),
        blk_size=512,
        topology=block.Topology(3, 0, 8, 128),
        writeback=1,
        num_queues=2,
        zoned=block.Zoned(0x1000, model=1),
    )
    assert config.pack() == bytes.fromhex(
        "0040000000000000 00000000 00000000 1000 10 3f 00020000 03 00 0800 80000000 01 00 0200"
        "00000000 00000000 00000000 00000000 00000000 00 000000 00000000 00000000 00000000"
        "00100000 00000000 00000000 00000000 00000000 01 000000"
    )


def test_a_union_is_bytes_that_other_structures_read():
    config = input.Config(input.Select.ABS_INFO, 0, input.AbsInfo.nbytes, u=input.AbsInfo(0, 32767, res=40).pack())
    assert config.pack()[:28] == bytes.fromhex("12 00 14 0000000000 00000000 ff7f0000 00000000 00000000 28000000")
    assert input.AbsInfo.unpack(config.u) == input.AbsInfo(0, 32767, 0, 0, 40)
    assert input.DevIds.unpack(config.u) == input.DevIds(0, 0, 0x7FFF, 0)
    assert Name.unpack(input.Config(input.Select.ID_NAME, size=8, u=b"keyboard").u).string == "keyboard"
