"""Guest memory: regions, and addresses checked against them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import LocalError, NotMapped
from pyvirtio.memory import MemoryTable, Region, words
from pyvirtio.memory.table import MAXIMUM_REGIONS
from tests.support.rings import memory_of


def test_regions_are_sorted_and_touching_ones_are_fine():
    table = memory_of((0x3000, 0x1000), (0x1000, 0x1000), (0x2000, 0x1000))
    assert [region.base for region in table.regions] == [0x1000, 0x2000, 0x3000]
    assert [len(view) for view in table.views(0x1FFF, 0x1002)] == [1, 0x1000, 1]


@pytest.mark.parametrize("second", [(0x1FFF, 1), (0x1000, 0x1000), (0x800, 0x801), (0, 0x10000), (0x1800, 8)])
def test_regions_may_not_overlap(second: tuple[int, int]):
    with pytest.raises(LocalError, match="overlap"):
        memory_of((0x1000, 0x1000), second)


def test_an_empty_region_is_refused():
    with pytest.raises(LocalError, match="is empty"):
        memory_of((0x1000, 0x1000), (0x5000, 0))


def test_509_regions_and_not_one_more():
    regions = [Region(0x1000 * number, bytearray(16)) for number in range(MAXIMUM_REGIONS + 1)]
    with pytest.raises(LocalError, match=r"510 memory regions; .* 509"):
        MemoryTable(regions)
    table = MemoryTable(regions[:-1])
    for number in range(MAXIMUM_REGIONS):
        table.write(0x1000 * number + 8, bytes([number & 0xFF]))
    assert [table.read(0x1000 * number + 8, 1)[0] for number in range(MAXIMUM_REGIONS)] == [
        number & 0xFF for number in range(MAXIMUM_REGIONS)
    ]
    for number in range(MAXIMUM_REGIONS + 1):
        with pytest.raises(NotMapped):
            table.view(0x1000 * number + 15, 2)


def test_a_buffer_over_509_regions():
    table = MemoryTable([Region(16 * number, bytearray(16)) for number in range(MAXIMUM_REGIONS)])
    data = bytes(place & 0xFF for place in range(16 * MAXIMUM_REGIONS - 2))
    table.write(1, data)
    assert table.read(1, len(data)) == data
    assert len(table.views(1, len(data))) == MAXIMUM_REGIONS


def test_no_memory_at_all():
    table = MemoryTable()
    for length in (0, 1):
        with pytest.raises(NotMapped):
            table.view(0, length)
    with pytest.raises(NotMapped):
        table.views(0, 1)
    assert table.views(0, 0) == []


def test_it_cannot_be_changed():
    table = memory_of((0, 16))
    assert isinstance(table.regions, tuple)
    with pytest.raises(AttributeError):
        table.more = 1  # type: ignore[attr-defined]


def test_a_replaced_table_leaves_views_alive():
    table = memory_of((0, 16))
    view = table.view(0, 4)
    del table
    view[:] = b"live"
    assert bytes(view) == b"live"


def test_a_write_that_does_not_fit_writes_nothing():
    table = memory_of((0x1000, 16), (0x1010, 16))
    with pytest.raises(NotMapped):
        table.write(0x100E, b"\xff" * 32)
    assert table.read(0x1000, 32) == bytes(32)


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=8)


@given(SPANS, st.integers(0, 500), st.integers(0, 200))
def test_translation_is_that_of_a_dictionary_of_bytes(spans, address, length):
    """Each byte of a buffer is the byte at its address; or there is none, and nothing is given."""
    at, regions, model = 0, [], {}
    for gap, size in spans:
        at += gap
        buffer = bytearray((at + place) & 0xFF for place in range(size))
        regions.append(Region(at, buffer))
        model.update({at + place: (at + place) & 0xFF for place in range(size)})
        at += size
    table = MemoryTable(regions)
    wanted = [model.get(address + place) for place in range(length)]
    if None in wanted:
        with pytest.raises(NotMapped):
            table.views(address, length)
        with pytest.raises(NotMapped):
            table.view(address, length)
        return
    assert list(table.read(address, length)) == wanted
    pieces = table.views(address, length)
    assert b"".join(pieces) == bytes(wanted)
    if len(pieces) == 1 and length:
        assert table.view(address, length) == pieces[0]
    elif length:
        with pytest.raises(NotMapped, match="not in one region"):
            table.view(address, length)


@pytest.mark.parametrize(("address", "length"), [(2**64 - 1, 2), (2**64, 1), (2**64 - 8, 2**32 - 1)])
def test_nothing_wraps_round(address: int, length: int):
    table = memory_of((0, 0x1000), (2**64 - 0x1000, 0x1000))
    for find in (table.view, table.views):
        with pytest.raises(NotMapped):
            find(address, length)
    assert len(table.view(2**64 - 8, 8)) == 8


def test_words_are_the_bytes():
    buffer = bytearray(16)
    view = words(memoryview(buffer), "H")
    view[1] = 0x0100
    assert bytes(buffer[:4]) == b"\0\0\0\1"
    assert words(memoryview(buffer), "Q")[0] == 0x01000000
