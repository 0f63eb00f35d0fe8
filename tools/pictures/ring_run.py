"""A request goes through a queue, and the memory of the ring is kept after each step.

Both ends are the package's own: `RawDriver`, with which each of the driver's steps can be taken by itself, and the
device's end that every device runs on. So a picture shows what is in memory, whatever anybody believes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import Journal, SplitDeviceQueue
from pyvirtio.testing import RawDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyvirtio.testing import Descriptor, UsedElement

SIZE, BASE, BYTES = 4, 0x1000, 0x200


@dataclass(frozen=True)
class State:
    """What there is after a step.

    Attributes:
        name: the name of the picture.
        title: the step.
        who: whose step it was, "driver" or "device"; empty for the set-up.
        signal: "kick" or "interrupt", where the step is one.
        descriptors, available, used: the three areas; of the rings, the slots.
        available_idx, used_idx: the two indexes.
        buffers: what the driver's buffers are for, where they lie, what is in them.
        reaped: the used index up to which the driver has looked.
        position: the available index up to which the device has.
    """

    name: str
    title: str
    who: str
    signal: str
    descriptors: tuple[Descriptor, ...]
    available: tuple[int, ...]
    used: tuple[UsedElement, ...]
    available_idx: int
    used_idx: int
    buffers: tuple[tuple[str, int, bytes], ...]
    reaped: int
    position: int
    addresses: tuple[int, int, int]


class _Watched(Journal):
    """A journal that tells when used elements are in the ring and their index is not."""

    elements_written: Callable[[], object] = staticmethod(lambda: None)

    def prepare(self, heads: Sequence[int]) -> None:
        """Note that these are about to be published."""
        super().prepare(heads)
        self.elements_written()


class Stepper:
    """A ring with both of its ends, of which a state can be taken at any moment."""

    def __init__(self, index: int = 0) -> None:
        self.memory = MemoryTable([Region(BASE, bytearray(BYTES))])
        self.driver = RawDriver(self.memory, SIZE, index=index)
        setup = self.driver.setup(0, features=0)
        empty = Journal.private(SIZE)
        self.journal = _Watched(SIZE, *empty.parts)
        self.device = SplitDeviceQueue(setup, self.memory, journal=self.journal)
        self.buffers: list[tuple[str, Descriptor]] = []
        self.reaped = index

    def state(self, name: str, title: str, who: str, signal: str = "") -> State:
        """Return what is in memory, and how far each side has looked."""
        ring = self.driver
        return State(
            name,
            title,
            who,
            signal,
            tuple(ring.descriptor(index) for index in range(SIZE)),
            tuple(ring.avail_ring(slot) for slot in range(SIZE)),
            tuple(ring.used_ring(slot) for slot in range(SIZE)),
            ring.avail_idx,
            ring.used_idx,
            tuple((what, place.address, ring.peek(place.address, place.length)) for what, place in self.buffers),
            self.reaped,
            self.device.position,
            (ring.layout.descriptors, ring.layout.available, ring.layout.used),
        )

    def describe(self, question: bytes, room: int, at: tuple[int, int], number: str = "") -> int:
        """Write a question and the two descriptors of a request, in these entries; return its head."""
        asked, answer = self.driver.readable(question), self.driver.writable(room)
        self.buffers += [(f"question{number}", asked), (f"answer{number}", answer)]
        return self.driver.chain([asked, answer], at=at)


def one_request() -> Iterator[State]:
    """Yield ten states: from a queue that was set up to an answer that was taken."""
    ring = Stepper()
    driver = ring.driver
    yield ring.state("1-areas", "Three areas, all zeros", "")
    head = ring.describe((6).to_bytes(4, "little"), 4, at=(1, 3))
    yield ring.state("2-descriptors", "The driver describes two buffers", "driver")
    driver.set_avail_ring(driver.avail_idx, head)
    yield ring.state("3-head", "It puts the head into the available ring", "driver")
    driver.avail_idx += 1
    yield ring.state("4-available-index", "It moves the available index", "driver")
    yield ring.state("5-kick", "It kicks", "driver", "kick")
    [chain] = ring.device.pop()
    yield ring.state("6-pop", "The device pops the request", "device")
    chain.write((3).to_bytes(4, "little"))
    yield ring.state("7-answer", "It writes the answer", "device")
    between: list[State] = []
    ring.journal.elements_written = lambda: between.append(
        ring.state("8-used-element", "It puts an element into the used ring", "device")
    )
    ring.device.push([chain])
    yield from between
    yield ring.state("9-used-index", "It moves the used index, and interrupts", "device", "interrupt")
    ring.reaped += len(driver.reap())
    yield ring.state("10-reap", "The driver takes the answer", "driver")


def out_of_order() -> State:
    """Return a queue with two requests, of which the second was answered first, at the end of the ring."""
    ring = Stepper(index=SIZE - 1)
    for number, places in ((1, (1, 0)), (2, (3, 2))):
        head = ring.describe((6 * number).to_bytes(4, "little"), 4, places, f" {number}")
        ring.driver.make_available(head)
    _, second = ring.device.pop()
    second.write((11).to_bytes(4, "little"))
    ring.device.push([second])
    return ring.state("out-of-order", "The second request is answered first", "device")
