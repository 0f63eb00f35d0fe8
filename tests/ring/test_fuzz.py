"""Whatever bytes are in a ring: pop gives chains or raises RingError, and stays within memory."""

from __future__ import annotations

import ctypes
from random import Random
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import RingError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import RawDriver, RingFuzzer, lay_out
from tests.support.rings import Echo, RawQueue, device_queue

if TYPE_CHECKING:
    from pyvirtio.ring import Chain

FEATURES = [
    RING_FEATURES,
    RING_FEATURES & ~Feature.INDIRECT_DESC,
    RING_FEATURES & ~Feature.EVENT_IDX,
]
SIZES = [1, 2, 4, 8, 16, 64]


class Scene:
    """Memory in three regions, two of which touch; its regions' places in this process; a ring in the first."""

    def __init__(self, size: int) -> None:
        self.buffers = [bytearray(0x1000), bytearray(0x800), bytearray(0x800)]
        bases = (0x1000, 0x2000, 0x3000)
        self.memory = MemoryTable(Region(base, held) for base, held in zip(bases, self.buffers, strict=True))
        self.places = []
        for held in self.buffers:
            start = ctypes.addressof(ctypes.c_char.from_buffer(held))
            self.places.append((start, start + len(held)))
        self.layout = lay_out(size, 0x1000)

    def driver(self, index: int) -> RawDriver:
        for held in self.buffers:
            held[:] = bytes(len(held))
        return RawDriver(self.memory, layout=self.layout, index=index)

    def content(self) -> bytes:
        return b"".join(self.buffers)

    def holds(self, view: memoryview) -> bool:
        if not len(view):
            return True
        start = ctypes.addressof(ctypes.c_char.from_buffer(view))
        return any(low <= start and start + len(view) <= high for low, high in self.places)


def check_chain(chain: Chain, scene: Scene, size: int) -> str:
    assert 0 <= chain.head < size
    if chain.error:
        assert not chain.readable
        assert not chain.writable
        return "unusable"
    views = [*chain.readable, *chain.writable]
    assert all(scene.holds(view) for view in views)
    assert len(views) <= 3 * size  # each buffer at most in three pieces, for there are three regions
    assert chain.length + chain.room <= 1 << 32
    return "good"


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("size", SIZES)
def test_any_ring_gives_chains_or_a_ring_error(size: int, features: int, rng: Random):
    scene = Scene(size)
    outcomes = dict.fromkeys(("good", "unusable", "broken"), 0)
    for _ in range(1000 if size < 64 else 300):
        seed = rng.getrandbits(64)
        ring_fuzzer = RingFuzzer(scene.driver(rng.getrandbits(16)), Random(seed))
        raw = ring_fuzzer.driver
        queue = device_queue(raw, features)
        ring_fuzzer.scramble()
        before = scene.content()
        try:
            for _ in range(size + 1):
                chains = queue.pop(rng.randint(1, size))
                for chain in chains:
                    outcomes[check_chain(chain, scene, size)] += 1
                if not chains:
                    break
        except RingError:
            outcomes["broken"] += 1
        # To look changes nothing.
        assert scene.content() == before, f"scrambled with {seed}"
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize("features", FEATURES)
def test_noise_gives_chains_or_a_ring_error(features: int, rng: Random):
    """Every byte at random, and only the index made plausible: nearly always broken, never anything else."""
    scene = Scene(8)
    broken = 0
    for _ in range(3000):
        raw = scene.driver(rng.getrandbits(16))
        queue = device_queue(raw, features)
        at = raw.avail_idx
        raw.poke(0x1000, rng.randbytes(scene.layout.end - 0x1000))
        raw.avail_idx = at + rng.randint(0, 8)
        for slot in range(8):
            raw.set_avail_ring(slot, rng.choice((slot, rng.randrange(9))))
        try:
            while chains := queue.pop():
                for chain in chains:
                    check_chain(chain, scene, 8)
        except RingError:
            broken += 1
    assert broken > 1000


@pytest.mark.parametrize("features", FEATURES)
def test_a_served_device_survives_any_ring(features: int, rng: Random):
    """As the ring is scrambled while requests are answered, too: the device writes over it, whatever it hits."""
    scene = Scene(8)
    retired = answered = 0
    for _ in range(600):
        ring_fuzzer = RingFuzzer(scene.driver(rng.getrandbits(16)), Random(rng.getrandbits(64)))
        raw = ring_fuzzer.driver
        served = RawQueue(raw, Echo(), features)
        for _ in range(10):
            ring_fuzzer.scramble()
            for _ in range(100):
                if not served.turn():
                    break
            retired += served.is_broken
            if served.is_broken:
                break
        answered += served.queue.journal.answered
        assert all("the device's method failed" not in fault for fault in served.faults)
        # What is in flight is what was never returned: at most the chain that broke the ring.
        assert len(served.queue.journal.in_flight()) <= 1
    assert retired > 100
    assert answered > 100


def test_the_same_seed_gives_the_same_ring():
    scene = Scene(16)
    contents = []
    for _ in range(2):
        ring_fuzzer = RingFuzzer(scene.driver(0), Random(5))
        ring_fuzzer.scramble()
        contents.append(scene.content())
    assert contents[0] == contents[1]
