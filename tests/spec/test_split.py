"""The numbers of a split virtqueue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.spec import split

INDEX = st.integers(0, 0xFFFF)


@pytest.mark.parametrize("size", [1 << power for power in range(16)])
def test_sizes(size: int):
    """VIRTIO 1.4, 2.7: 16, 6 + 2 and 6 + 8 bytes an entry, the event fields included."""
    assert split.is_valid_size(size)
    assert split.table_size(size) == 16 * size
    assert split.available_size(size) == 6 + 2 * size
    assert split.used_size(size) == 6 + 8 * size
    assert 2 * split.used_event_word(size) + 2 == split.available_size(size)
    assert 2 * split.avail_event_word(size) + 2 == split.used_size(size)


@pytest.mark.parametrize("size", [0, -1, -2, 3, 5, 6, 127, 129, 32767, 32769, 65536, 1 << 20])
def test_sizes_that_no_queue_has(size: int):
    assert not split.is_valid_size(size)


@given(event=INDEX, old=INDEX, steps=st.integers(0, 300))
def test_event_passed_is_the_walk_from_old_to_new(event: int, old: int, steps: int):
    """It says whether the element at ``event`` is one of those that were just written."""
    new = (old + steps) & 0xFFFF
    walked = {(old + step) & 0xFFFF for step in range(steps)}
    assert split.event_passed(event, new, old) == (event in walked)


@pytest.mark.parametrize(
    ("event", "new", "old", "passed"),
    [
        (0, 1, 0, True),
        (0xFFFF, 0, 0xFFFF, True),
        (0xFFFF, 5, 0xFFF0, True),
        (0xFFEF, 5, 0xFFF0, False),
        (5, 5, 0xFFF0, False),
        (7, 7, 7, False),
        (6, 7, 7, False),
        (0x8000, 0x8001, 0x8000, True),
        (100, 99, 100, True),  # 65535 elements
    ],
)
def test_event_passed(event: int, new: int, old: int, passed: bool):
    assert split.event_passed(event, new, old) == passed
