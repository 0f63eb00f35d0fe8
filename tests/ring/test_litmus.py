"""Memory ordering between two processes: lost wake-ups, indexes that are torn, and the fence itself.

On x86, with one processor for each process, in plain Python: of a load right behind a store to another address, one
in a thousand overtook it; with the fence between them, none. A call of an empty Python function between them was
enough to hide it, so that a ring without its fences loses no wake-up that could be seen; that the fences are where
they have to be is shown by the order of the ring's accesses (test_split.py).
"""

from __future__ import annotations

import time

import pytest

from pyvirtio.memory import full_fence, words
from pyvirtio.ring import Journal, SplitDeviceQueue, SplitDriverQueue
from pyvirtio.testing import lay_out
from tests.support.litmus import PATIENCE, Notifier, meet, other_process, shared_memory
from tests.support.rings import SUPPRESSIONS, rings_at, setup_at

REQUESTS = 30_000


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("features", SUPPRESSIONS.values(), ids=SUPPRESSIONS)
def test_no_wake_up_is_lost(features: int, depth: int):
    """Driver and device sleep whenever they may, and each is woken whenever it must be."""
    layout = lay_out(8, 0)
    memory = shared_memory(0x4000)
    kick, call = Notifier(), Notifier()

    def device() -> None:
        queue = SplitDeviceQueue(setup_at(layout, features), memory, journal=Journal.private(8))
        left = REQUESTS
        while left:
            queue.disable_kicks()
            while True:
                chains = queue.pop()
                if chains:
                    left -= len(chains)
                    for chain in chains:
                        chain.write(chain.read(4))
                    queue.push(chains)
                    if queue.needs_interrupt():
                        call.ring()
                elif not queue.enable_kicks():
                    break
            if left:
                kick.wait(queue.has_more)

    queue = SplitDriverQueue(rings_at(memory, layout), memory, features)
    sent = received = 0
    try:
        with other_process(device) as join:
            while received < REQUESTS:
                while sent < REQUESTS and sent - received < depth:
                    place = layout.end + 64 * (sent % 8)
                    memory.write(place, sent.to_bytes(4, "little"))
                    queue.add([(place, 4)], [(place + 32, 4)], sent)
                    sent += 1
                queue.publish()
                if queue.needs_kick():
                    kick.ring()
                queue.disable_interrupts()
                while not (done := queue.reap()):
                    if not queue.enable_interrupts():
                        call.wait(lambda: queue.pending)
                for token, written in done:
                    assert (token, written) == (received, 4)
                    place = layout.end + 64 * (received % 8) + 32
                    assert memory.read(place, 4) == received.to_bytes(4, "little")
                    received += 1
            join()
    finally:
        kick.close()
        call.close()


@pytest.mark.parametrize("pattern", [(0x00FF, 0x0100), (0xFFFF, 0x0000), (0x7FFF, 0x8000, 0x1234)])
def test_an_index_is_never_torn(pattern: tuple[int, ...]):
    """The other side sees only what was stored: no half of one value and half of another, and no zero between."""
    memory = shared_memory(0x1000)
    index = words(memory.view(64, 16), "H")
    flag = words(memory.view(0, 8), "Q")
    index[1] = pattern[0]

    def store() -> None:
        while not flag[0]:
            for _ in range(1000):
                for value in pattern:
                    index[1] = value

    seen: dict[int, int] = dict.fromkeys(pattern, 0)
    deadline = time.monotonic() + PATIENCE
    with other_process(store) as join:
        looks = 0
        while looks < 200_000 or (min(seen.values()) < 100 and time.monotonic() < deadline):
            for _ in range(1000):
                value = index[1]
                seen[value] = seen.get(value, 0) + 1
            looks += 1000
        flag[0] = 1
        join()
    assert set(seen) == set(pattern)


ROUNDS = 200_000


def overtaken(*, fenced: bool) -> int:
    """Let two processes store a number each and then look at the other's; return how often neither saw the other's.

    A wake-up hangs on that: one publishes and looks whether the other sleeps, while the other goes to sleep and looks
    whether something was published.
    """
    memory = shared_memory(1 << 22)
    buffers = memory.view(1 << 16, 1 << 16)
    results = [words(memory.view((1 + me) << 20, 4 * (ROUNDS + 1)), "I") for me in (0, 1)]
    cells = [words(memory.view(128 * me, 4), "I") for me in (0, 1)]
    ready = [words(memory.view(1024 + 128 * me, 4), "I") for me in (0, 1)]

    def work(me: int) -> None:
        mine, theirs, result = cells[me], cells[1 - me], results[me]
        data, at = bytes(256), 0
        meet(ready[me], ready[1 - me])
        if fenced:
            for number in range(1, ROUNDS + 1):
                at = (at + 4032) & 0xFEFF
                buffers[at : at + 256] = data  # as an answer before its index: it keeps the processor storing
                mine[0] = number
                full_fence()
                result[number] = theirs[0]
        else:
            for number in range(1, ROUNDS + 1):
                at = (at + 4032) & 0xFEFF
                buffers[at : at + 256] = data
                mine[0] = number
                result[number] = theirs[0]

    with other_process(lambda: work(1)) as join:
        work(0)
        join()
    first, second = (list(result) for result in results)
    # I stored n and saw theirs at m: so when they had stored m + 1, they must have seen at least my n.
    seen = (second[first[number] + 1] >= number for number in range(1, ROUNDS + 1) if first[number] < ROUNDS)
    return sum(not each for each in seen)


def test_a_full_fence_orders_a_store_before_a_load():
    assert overtaken(fenced=True) == 0
    if not any(overtaken(fenced=False) for _ in range(5)):
        pytest.skip("without a fence nothing was overtaken either: here and now this shows nothing")
