"""The allocator of a driver's buffers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import LocalError
from pyvirtio.memory.arena import SMALLEST, Arena

BASE = 0x10000
STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 3000)), max_size=200)


def apart(blocks: list[tuple[int, int]]) -> bool:
    """Whether no two of ``(address, length)`` overlap."""
    ordered = sorted(blocks)
    return all(low + length <= high for (low, length), (high, _) in itertools.pairwise(ordered))


def run(arena: Arena, steps: list[tuple[bool, int]]) -> list[tuple[int, int]]:
    """Allocate and free as ``steps`` say; return what is still held."""
    held: list[tuple[int, int]] = []
    for frees, length in steps:
        if frees and held:
            arena.free(*held.pop(length % len(held)))
            continue
        try:
            held.append((arena.allocate(length), length))
        except LocalError:
            continue
        assert apart(held)
    return held


@given(st.integers(SMALLEST, 1 << 16), STEPS)
def test_blocks_are_aligned_inside_and_apart(size, steps):
    for address, length in run(Arena(BASE, size), steps):
        assert address % SMALLEST == 0
        assert address >= BASE
        assert address + length <= BASE + size


@given(st.integers(6, 16), STEPS)
def test_what_was_freed_can_be_allocated_as_one_block(bits, steps):
    arena = Arena(BASE, 1 << bits)
    for block in run(arena, steps):
        arena.free(*block)
    assert arena.allocate(1 << bits) == BASE


@given(st.integers(SMALLEST, 1 << 14), STEPS)
def test_what_was_freed_can_be_allocated_in_the_smallest_blocks(size, steps):
    arena = Arena(BASE, size)
    for block in run(arena, steps):
        arena.free(*block)
    blocks = [(arena.allocate(1), SMALLEST) for _ in range(size // SMALLEST)]
    assert apart(blocks)
    with pytest.raises(LocalError):
        arena.allocate(1)


def test_it_ends_and_names_the_option_for_more():
    arena = Arena(BASE, 256)
    blocks = [arena.allocate(64) for _ in range(4)]
    assert blocks == [BASE, BASE + 64, BASE + 128, BASE + 192]
    with pytest.raises(LocalError, match="memory=BYTES"):
        arena.allocate(1)
    arena.free(blocks[2], 64)
    assert arena.allocate(1) == blocks[2]


def test_a_request_that_is_too_large_changes_nothing():
    arena = Arena(BASE, 256)
    with pytest.raises(LocalError):
        arena.allocate(257)
    assert arena.allocate(256) == BASE


def test_the_same_sizes_over_and_over_take_no_more_memory():
    arena = Arena(BASE, 8192)
    for _ in range(1000):
        held = [(arena.allocate(length), length) for length in (1, 64, 65, 1000, 4096)]
        for address, length in held:
            arena.free(address, length)
