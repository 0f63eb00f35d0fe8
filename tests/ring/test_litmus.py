"""Memory ordering between two processes: lost wake-ups, and indexes that are torn.

Without the full fence, or with indexes stored by ``struct.pack_into``, these fail on an ordinary x86 machine with
two processors; what was seen stands with each test.
"""

from __future__ import annotations

import os
import time

import pytest

from pyvirtio.memory import full_fence, words
from pyvirtio.ring import SplitDeviceQueue, SplitDriverQueue
from pyvirtio.testing import lay_out
from tests.support.litmus import PATIENCE, Bell, Lockstep, other_process, shared_memory
from tests.support.rings import SUPPRESSIONS, rings_at

REQUESTS = 30_000


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("features", SUPPRESSIONS.values(), ids=SUPPRESSIONS)
def test_no_wake_up_is_lost(features: int, depth: int):
    """Driver and device sleep whenever they may, and each is woken whenever it must be."""
    layout = lay_out(8, 0)
    memory = shared_memory(0x4000)
    kick, call = Bell(), Bell()

    def device() -> None:
        queue = SplitDeviceQueue(rings_at(memory, layout), memory, features)
        left = REQUESTS
        while left:
            queue.suppress_kicks()
            while True:
                chains = queue.pop()
                if chains:
                    left -= len(chains)
                    for chain in chains:
                        chain.write(chain.read(4))
                    queue.push(chains)
                    if queue.call_wanted():
                        call.ring()
                elif not queue.allow_kicks():
                    break
            if left:
                kick.wait(lambda: queue.pending)

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
                if queue.kick_wanted():
                    kick.ring()
                queue.suppress_calls()
                while not (done := queue.reap()):
                    if not queue.allow_calls():
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


def test_a_full_fence_orders_a_store_before_a_load():
    """Each process stores to its own cell and then looks at the other's: at least one of them sees the other's store.

    It is what a wake-up hangs on: one publishes and looks whether the other sleeps, one goes to sleep and looks
    whether the other published.
    """
    rounds = 50_000
    memory = shared_memory(8192 + 4 * rounds)
    counters = memory.view(0, 128)
    results = [memory.view(8192 + me * rounds, rounds) for me in (0, 1)]
    cells = words(memory.view(4096, 128), "H")

    def work(me: int) -> None:
        mine, theirs = 32 * me, 32 * (1 - me)
        lockstep, result = Lockstep(counters, me), results[me]
        for number in range(rounds):
            lockstep.meet(number + 1)
            value = (number + 1) & 0xFFFF
            cells[mine] = value
            full_fence()
            result[number] = cells[theirs] == value

    with other_process(lambda: work(1)) as join:
        work(0)
        join()
    neither = sum(not first and not second for first, second in zip(*results, strict=True))
    assert neither == 0
    assert os.sched_getaffinity(0)
