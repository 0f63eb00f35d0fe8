"""A random driver against a random device whose workers die, compared with a dictionary of what is outstanding.

Both suppression methods, all forms of chains, indexes that wrap, answers in any order. Each request is answered once
and rightly; nobody sleeps while there is something to do and nobody has rung.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pyvirtio.errors import LocalError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import RawRing, lay_out
from tests.support.rings import Cut, Durable, Fuse, driver_at, memory_of, rings_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.ring import Chain

BLOCK = 1024  # for one request: a table of at most 16 descriptors, then its buffers
EVENTS = st.sampled_from([Feature.EVENT_IDX, 0])
CUTS = st.none() | st.integers(0, 40)


def answer_to(request: bytes, room: int) -> bytes:
    return bytes((byte + 1) & 0xFF for byte in request)[:room]


class DriverAndDevice(RuleBasedStateMachine):
    @initialize(
        power=st.integers(0, 4),
        index=st.sampled_from([0, 1, 65530, 65535]) | st.integers(0, 0xFFFF),
        events=EVENTS,
    )
    def set_up(self, power: int, index: int, events: int) -> None:
        size = 1 << power
        layout = lay_out(size, 0x1000)
        features = (RING_FEATURES & ~Feature.EVENT_IDX) | events
        # Two regions whose edge lies in the midst of the blocks.
        edge = layout.end + BLOCK * size // 2 + 100
        self.memory = memory_of((0x1000, edge - 0x1000), (edge, BLOCK * size))
        self.blocks = [layout.end + BLOCK * number for number in range(size)]
        self.ring = RawRing(self.memory, layout)
        self.driver = driver_at(rings_at(self.memory, layout), self.memory, features, index)
        self.durable = Durable(self.memory, layout, features)
        self.size = size
        self.token = 0
        self.outstanding: dict[int, tuple[bytes, int, int, int]] = {}
        self.free = size
        self.unpublished = 0
        self.held: list[Chain] = []
        self.device_sleeps = self.driver_sleeps = False
        self.kicked = self.called = False
        self.device = self.durable.worker()
        self.deaths = 0

    # The driver.

    @rule(
        readable=st.lists(st.binary(max_size=12), max_size=6),
        writable=st.lists(st.integers(0, 12), max_size=6),
        form=st.sampled_from([None, 0, 1, 3]),
    )
    def add(self, readable: list[bytes], writable: list[int], form: int | None) -> None:
        number = len(readable) + len(writable)
        needed = number if form is None else form + 1
        if not 0 < number <= self.size or (form is not None and form >= number) or not self.blocks:
            return
        block = self.blocks[-1]
        at, buffers = block + 256, []
        for data in readable:
            self.memory.write(at, data)
            buffers.append((at, len(data)))
            at += len(data)
        place = at
        rooms = []
        for length in writable:
            rooms.append((at, length))
            at += length
        try:
            self.driver.add(buffers, rooms, self.token, indirect=None if form is None else block, direct=form or 0)
        except LocalError:
            assert needed > self.free
            return
        assert needed <= self.free
        self.blocks.pop()
        self.outstanding[self.token] = (b"".join(readable), place, sum(writable), needed)
        self.free -= needed
        self.token += 1
        self.unpublished += 1

    @rule()
    def publish(self) -> None:
        self.driver.publish()
        self.unpublished = 0
        if self.driver.needs_kick():
            self.kicked = True

    @rule()
    def reap(self) -> None:
        self.driver_sleeps = self.called = False
        self.driver.disable_interrupts()
        for token, written in self.driver.reap():
            assert isinstance(token, int)
            request, place, room, needed = self.outstanding.pop(token)  # KeyError: answered twice
            wanted = answer_to(request, room)
            assert written == len(wanted)
            assert self.memory.read(place, written) == wanted
            self.free += needed
            block = (place - self.ring.layout.end) // BLOCK
            self.blocks.append(self.ring.layout.end + BLOCK * block)

    @precondition(lambda self: not self.driver_sleeps)
    @rule()
    def driver_goes_to_sleep(self) -> None:
        self.called = False
        self.driver_sleeps = not self.driver.enable_interrupts()

    # The device.

    def does(self, cut: int | None, work: Callable[[], None]) -> None:
        """Let the worker do something, or die at its store number ``cut`` from here, and start the next one."""
        self.durable.fuse.limit = None if cut is None else self.durable.fuse.stores + cut
        try:
            work()
        except Cut:
            self.restart(None)
        else:
            self.durable.fuse.limit = None

    def restart(self, cut: int | None) -> None:
        self.deaths += 1
        self.held = []
        self.device_sleeps = False
        try:
            self.device = self.durable.worker(Fuse(cut))
        except Cut:
            self.device = self.durable.worker()
        self.durable.fuse.limit = None
        self.held = self.device.unfinished
        self.called = True  # whoever starts again calls in any case

    @rule(limit=st.integers(1, 20), cut=CUTS)
    def pop(self, limit: int, cut: int | None) -> None:
        def work() -> None:
            self.device_sleeps = self.kicked = False
            self.device.disable_kicks()
            chains = self.device.pop(limit)
            assert len(chains) <= limit
            self.held += chains

        self.does(cut, work)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), cut=CUTS)
    def push(self, data: st.DataObject, cut: int | None) -> None:
        order = data.draw(st.permutations(self.held))
        number = data.draw(st.integers(0, len(order)))

        def work() -> None:
            for chain in order[:number]:
                assert chain.error is None
                chain.write(answer_to(chain.read(1 << 16), chain.room))
            self.device.push(order[:number])
            self.held = order[number:]
            if self.device.needs_interrupt():
                self.called = True

        self.does(cut, work)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), cut=CUTS)
    def unpop(self, data: st.DataObject, cut: int | None) -> None:
        chain = data.draw(st.sampled_from(self.held))
        position = self.device.position
        newest = self.ring.avail_ring((position - 1) & 0xFFFF) == chain.head

        def work() -> None:
            assert self.device.unpop(chain) == newest
            if newest:
                self.held.remove(chain)
                self.device_sleeps = False  # it knows that there is a request, and need not be kicked for it
            assert self.device.position == (position - newest) & 0xFFFF

        self.does(cut, work)

    @rule(extra=st.booleans())
    def relocate(self, extra: bool) -> None:
        """Regions come and go, or are mapped again, while requests are in flight."""
        regions = [Region(region.base, region.view) for region in self.memory.regions]
        more = [Region(1 << 40, bytearray(64))] if extra else []
        memory = self.durable.fused_memory(MemoryTable([*regions, *more]))
        self.device.relocate(rings_at(memory, self.ring.layout), memory)

    @precondition(lambda self: not self.device_sleeps)
    @rule(cut=CUTS)
    def device_goes_to_sleep(self, cut: int | None) -> None:
        def work() -> None:
            self.kicked = False
            self.device_sleeps = not self.device.enable_kicks()

        self.does(cut, work)

    @rule(cut=CUTS)
    def die(self, cut: int | None) -> None:
        self.restart(cut)

    # What always holds.

    @invariant()
    def nobody_sleeps_for_ever(self) -> None:
        if not hasattr(self, "device"):
            return
        if self.device_sleeps and self.device.has_more() and not self.kicked:
            # Published and not yet asked whether to kick: only `publish` does that, and it does both.
            raise AssertionError("the device sleeps, there is something to pop, and it was not kicked")
        if self.driver_sleeps and self.driver.pending and not self.called:
            raise AssertionError("the driver sleeps, there is something to reap, and it was not called")

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if not hasattr(self, "device"):
            return
        assert self.driver.free == self.free
        assert self.driver.outstanding == len(self.outstanding)
        assert len(self.held) <= self.size
        assert self.ring.used_idx == (self.device.position - len(self.held)) & 0xFFFF

    def teardown(self) -> None:
        if not hasattr(self, "device"):
            return
        self.publish()
        while self.outstanding:
            before = len(self.outstanding)
            chains, self.held = [*self.held, *self.device.pop(100)], []
            for chain in chains:
                chain.write(answer_to(chain.read(1 << 16), chain.room))
            self.device.push(chains)
            self.reap()
            assert len(self.outstanding) < before
        assert self.driver.free == self.size


@pytest.mark.usefixtures("mortal_engine")
@pytest.mark.long
def test_random_drivers_and_devices_whose_workers_die():
    run_state_machine_as_test(DriverAndDevice, settings=hypothesis.settings(max_examples=150, stateful_step_count=60))
