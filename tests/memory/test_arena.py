"""The allocator of a driver's buffers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import LocalError
from pyvirtio.memory.arena import Arena

BASE = 0x10000


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3000)), max_size=100))
def test_blocks_do_not_overlap_and_are_aligned(steps):
    arena = Arena(BASE, 1 << 20)
    held: list[tuple[int, int]] = []
    for add_used, length in steps:
        if add_used and held:
            arena.free(*held.pop(length % len(held)))
            continue
        address = arena.allocate(length)
        assert address % 64 == 0
        assert address >= BASE
        assert address + length <= BASE + (1 << 20)
        for other, size in held:
            assert address + length <= other or other + size <= address
        held.append((address, length))


def test_it_ends():
    arena = Arena(BASE, 256)
    blocks = [arena.allocate(64) for _ in range(4)]
    assert blocks == [BASE, BASE + 64, BASE + 128, BASE + 192]
    with pytest.raises(LocalError, match="no 1 bytes are left"):
        arena.allocate(1)
    arena.free(blocks[2], 64)
    assert arena.allocate(1) == blocks[2]


def test_too_much_at_once_leaves_the_rest_to_be_had():
    arena = Arena(BASE, 256)
    with pytest.raises(LocalError, match="no 257 bytes"):
        arena.allocate(257)
    assert arena.allocate(256) == BASE


def test_the_same_sizes_over_and_over_take_no_more_memory():
    arena = Arena(BASE, 8192)
    for _ in range(1000):
        held = [(arena.allocate(length), length) for length in (1, 64, 65, 1000, 4096)]
        for address, length in held:
            arena.free(address, length)
