"""Tickets that are awaited: who is cancelled, times out, outlives the device or the driver, or finds no room."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, LocalError, NoAnswer
from pyvirtio.spec import split
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import RawDevice, ScriptedTransport

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine
    from typing import Any

    from pyvirtio.driver import Ticket

LIMIT = 20.0
ALWAYS_KICKED = RING_FEATURES & ~Feature.EVENT_IDX


class Client(Driver):
    device_id = 63
    bytes_ = RequestQueue(size=8)
    others = RequestQueue(size=8)


class Mortal(ScriptedTransport):
    """A transport whose device can go away."""

    def __init__(self) -> None:
        super().__init__(features=ALWAYS_KICKED, queue_sizes=[8, 8])
        self._hangup = os.eventfd(0, os.EFD_NONBLOCK)

    def hang_up(self) -> None:
        os.eventfd_write(self._hangup, 1)

    def hangup_fd(self) -> int:
        return self._hangup

    def process_events(self) -> None:
        raise DeviceError("it is gone")

    def close(self) -> None:
        if not self.closed:
            os.close(self._hangup)
        super().close()


@pytest.fixture
def transport() -> Mortal:
    return Mortal()


@pytest.fixture
def client(transport: Mortal):
    with Client(transport) as client:
        yield client


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a test's coroutine in an event loop, which has the readers afterwards that it had before."""

    async def watched() -> Any:
        before = readers()
        result = await asyncio.wait_for(main, LIMIT)
        assert readers() == before
        return result

    return asyncio.run(watched())


def readers() -> set[int]:
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]  # there is no public way to ask
    return set(selector.get_map())


def echo(device: RawDevice, *, backwards: bool = False) -> None:
    """Answer what is there with what was asked."""
    heads = device.heads()
    for head in reversed(heads) if backwards else heads:
        device.answer(head, device.read(head))


async def begun(*tickets: Ticket) -> list[asyncio.Task[bytes]]:
    """Start a task for each ticket that awaits it, and return when all wait."""

    async def wait(ticket: Ticket) -> bytes:
        return bytes(await ticket)

    tasks = [asyncio.create_task(wait(ticket)) for ticket in tickets]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: list[asyncio.Task[bytes]]) -> list[object]:
    """Return the results, or the classes of the errors."""
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(one) if isinstance(one, BaseException) else one for one in done]


# One waiter and the others.


def test_a_cancelled_waiter_takes_nobody_along(client: Client, transport: Mortal):
    async def main() -> list[object]:
        tickets = client.bytes_.submit_all([b"a", b"b", b"c"], room=1)
        tasks = await begun(*tickets)
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert [task.done() for task in tasks] == [False, True, False]
        echo(transport.devices[0])
        transport.call()
        assert await tickets[1] == b"b"  # its request was not cancelled
        return await outcomes(tasks)

    assert run(main()) == [b"a", asyncio.CancelledError, b"c"]


def test_a_time_out_on_a_ticket_does_not_end_another_wait_for_it(client: Client, transport: Mortal):
    async def main() -> list[object]:
        ticket = client.bytes_.submit(b"a", room=1)
        (patient,) = await begun(ticket)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ticket, 0.02)
        assert not patient.done()
        echo(transport.devices[0])
        transport.call()
        return await outcomes([patient])

    assert run(main()) == [b"a"]


def test_answers_in_any_order_on_two_queues(client: Client, transport: Mortal):
    async def main() -> list[object]:
        tickets = [
            *client.bytes_.submit_all([b"a", b"b", b"c"], room=1),
            *client.others.submit_all([b"d", b"e", b"f"], room=1),
        ]
        tasks = await begun(*tickets)
        echo(transport.devices[1], backwards=True)
        transport.call(1)
        assert await outcomes(tasks[3:]) == [b"d", b"e", b"f"]
        echo(transport.devices[0], backwards=True)
        transport.call(0)
        return await outcomes(tasks)

    assert run(main()) == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_answers_that_are_there_already_need_no_interrupt(client: Client, transport: Mortal):
    async def main() -> list[object]:
        tickets = client.bytes_.submit_all([b"a", b"b", b"c"], room=1)
        transport.wait((0,), 0)  # no interrupt is pending
        echo(transport.devices[0])
        return await outcomes(await begun(*tickets))

    assert run(main()) == [b"a", b"b", b"c"]


# The end.


def test_all_who_wait_learn_that_the_queue_is_broken(client: Client, transport: Mortal):
    """Not only the first: the device need not interrupt again, and nobody may wait for ever."""

    async def main() -> list[object]:
        tasks = await begun(*client.bytes_.submit_all([b"a", b"b", b"c"], room=1))
        transport.devices[0].add_used((99, 1))
        transport.call()
        return await outcomes(tasks)

    assert run(main()) == [DeviceError] * 3


def test_the_devices_end_ends_every_wait_on_every_queue(client: Client, transport: Mortal):
    async def main() -> list[object]:
        tasks = await begun(client.bytes_.submit(b"a", room=1), client.others.submit(b"b", room=1))
        transport.hang_up()
        return await outcomes(tasks)

    assert run(main()) == [DeviceError] * 2
    with pytest.raises(DeviceError) as caught:
        client.bytes_.submit(b"c", room=1)
    assert caught.value.__cause__ is not None


def test_an_answer_that_came_before_the_devices_end_counts(client: Client, transport: Mortal):
    async def main() -> list[object]:
        tasks = await begun(*client.bytes_.submit_all([b"a", b"b"], room=1))
        (first, _) = transport.devices[0].heads()
        transport.devices[0].answer(first, b"!")
        transport.hang_up()  # without an interrupt
        return await outcomes(tasks)

    assert run(main()) == [b"!", DeviceError]


def test_closing_the_driver_ends_every_wait(client: Client):
    async def main() -> list[object]:
        tasks = await begun(client.bytes_.submit(b"a", room=1), client.others.submit(b"b", room=1))
        client.close()
        return await outcomes(tasks)

    assert run(main()) == [LocalError] * 2


def test_a_closed_driver_keeps_what_it_got_and_takes_nothing_more(client: Client, transport: Mortal):
    done, waiting = client.bytes_.submit_all([b"a", b"b"], room=1)
    transport.devices[0].answer(transport.devices[0].heads()[0], b"!")
    client.close()
    client.close()
    assert done.result() == b"!"
    with pytest.raises(LocalError):
        waiting.result()
    with pytest.raises(LocalError):
        client.bytes_.submit(b"c", room=1)


# Event loops.


def test_several_event_loops_one_after_the_other(client: Client, transport: Mortal):
    async def main(request: bytes) -> list[object]:
        ticket = client.bytes_.submit(request, room=1)
        tasks = await begun(ticket)
        echo(transport.devices[0])
        transport.call()
        return await outcomes(tasks)

    assert [run(main(request)) for request in (b"a", b"b", b"c")] == [[b"a"], [b"b"], [b"c"]]


def test_a_loop_that_was_closed_in_the_middle_of_a_wait_harms_no_other(client: Client, transport: Mortal):
    ticket = client.bytes_.submit(b"a", room=1)
    abandoned = asyncio.new_event_loop()
    task = abandoned.create_task(begun(ticket))
    waiting = abandoned.run_until_complete(task)
    abandoned.close()

    async def main() -> list[object]:
        tasks = await begun(ticket)
        echo(transport.devices[0])
        transport.call()
        return await outcomes(tasks)

    assert run(main()) == [b"a"]
    for one in waiting:
        one._log_destroy_pending = False  # type: ignore[attr-defined]  # it is abandoned on purpose


def test_waiting_spins_in_no_event_loop(client: Client, transport: Mortal):
    """A waiter that has gone leaves no reader behind: a descriptor that stays readable would wake the loop again."""

    async def main() -> int:
        first, second = client.bytes_.submit_all([b"a", b"b"], room=1)
        other = client.others.submit(b"c", room=1)
        (cancelled,) = await begun(first)
        cancelled.cancel()
        transport.call(0)
        rounds = count_rounds()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other, 0.1)
        transport.call(0)  # it interrupts, and has nothing
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second, 0.1)
        return rounds()

    assert run(main()) < 20


def count_rounds() -> Callable[[], int]:
    """Count how often the running event loop looks for events from now on."""
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]  # there is no public way to ask
    rounds = 0
    select = selector.select

    def counted(timeout: float | None = None) -> Any:
        nonlocal rounds
        rounds += 1
        return select(timeout)

    selector.select = counted
    return lambda: rounds


def answer_one(transport: ScriptedTransport, heads: list[int]) -> None:
    """Answer one request, and interrupt only if the driver asked for it (VIRTIO 1.4, 2.7.7.2)."""
    device = transport.devices[0]
    heads += device.heads()
    before = device.used_idx
    device.answer(heads.pop(0), b"!")
    if split.event_passed(device.used_event, device.used_idx, before):
        transport.call(0)


@pytest.mark.parametrize("awaited", [True, False])
def test_an_interrupt_is_asked_for_whenever_something_may_come(awaited: bool):
    """Whether somebody waits for an answer, or a request for room on the ring."""

    async def main(client: Client, transport: ScriptedTransport) -> None:
        heads: list[int] = []
        client.bytes_.submit(b"x", room=1)
        answer_one(transport, heads)
        client.bytes_.reap()  # which asks for no interrupt
        transport.wait((0,), 0)
        tickets = client.bytes_.submit_all([b"x"] * 30, room=1)
        tasks = await begun(*tickets) if awaited else []
        for _ in tickets:
            for _ in range(3):  # whatever an interrupt brings about happens before the next answer
                await asyncio.sleep(0)
            answer_one(transport, heads)
        assert await outcomes(tasks) == [b"!"] * len(tasks)

    transport = ScriptedTransport(features=RING_FEATURES, queue_sizes=[8, 8])
    with Client(transport) as client:
        run(main(client, transport))


# A full queue.


def test_a_full_queue_blocks_no_event_loop(client: Client, transport: Mortal):
    async def main() -> list[bytes]:
        tickets = [client.bytes_.submit(bytes([number]), room=1) for number in range(100)]
        assert client.bytes_.ring.free == 0
        transport.on_kick(echo)
        echo(transport.devices[0])
        transport.call()
        return [bytes(await ticket) for ticket in reversed(tickets)]

    assert run(main()) == [bytes([number]) for number in reversed(range(100))]


def test_what_found_no_room_goes_on_the_ring_though_nobody_awaits_it(client: Client, transport: Mortal):
    served = []

    def serve(device: RawDevice) -> None:
        for head in device.heads():
            served.append(device.read(head))
            device.answer(head)

    async def main() -> None:
        everything = [bytes([number]) for number in range(30)]
        client.bytes_.submit_all(everything, room=1)
        transport.on_kick(serve)
        serve(transport.devices[0])
        transport.call()
        while len(served) < len(everything):
            await asyncio.sleep(0)
        assert served == everything

    run(main())


def test_a_caller_may_change_its_buffer_after_it_submitted(client: Client, transport: Mortal):
    async def main() -> list[bytes]:
        buffer, tickets = bytearray(1), []
        for number in range(12):
            buffer[0] = number
            tickets.append(client.bytes_.submit(buffer, room=1))
        transport.on_kick(echo)
        echo(transport.devices[0])
        transport.call()
        return [bytes(await ticket) for ticket in tickets]

    assert run(main()) == [bytes([number]) for number in range(12)]


def test_a_late_request_that_finds_no_memory_fails_alone(client: Client, transport: Mortal):
    async def main() -> list[object]:
        tickets = client.bytes_.submit_all([b"a"] * 8, room=1)
        tickets += [client.bytes_.submit(b"b", room=1 << 22), client.bytes_.submit(b"c", room=1)]
        tasks = await begun(*tickets)
        transport.on_kick(echo)
        echo(transport.devices[0])
        transport.call()
        return (await outcomes(tasks))[8:]

    assert run(main()) == [LocalError, b"c"]


def test_closing_the_driver_ends_what_found_no_room(client: Client):
    async def main() -> list[object]:
        tasks = await begun(*client.bytes_.submit_all([b"a"] * 9, room=1))
        client.close()
        return await outcomes(tasks)

    assert run(main()) == [LocalError] * 9


def test_outside_an_event_loop_a_full_queue_is_waited_for(client: Client):
    client.bytes_.submit_all([b"a"] * 8, room=1)
    with pytest.raises(NoAnswer):
        client.bytes_.submit(b"b", room=1)


@pytest.mark.parametrize("features", [RING_FEATURES, ALWAYS_KICKED, ALWAYS_KICKED & ~Feature.INDIRECT_DESC])
def test_ten_thousand_waiters_and_a_device_that_answers_in_any_order(features: int, rng: random.Random):
    number = 10_000

    async def serve(device: RawDevice, transport: ScriptedTransport) -> None:
        """Answer some of what there is, in any order, again and again."""
        left, held = number, []
        while left:
            held += device.heads()
            rng.shuffle(held)
            answered = [held.pop() for _ in range(rng.randint(0, len(held)))]
            for head in answered:
                device.answer(head, device.read(head))
            if answered:
                left -= len(answered)
                transport.call()
            await asyncio.sleep(0)

    async def main(client: Client, transport: ScriptedTransport) -> list[int]:
        async def ask(value: int) -> int:
            return int.from_bytes(await client.bytes_.submit(value.to_bytes(4, "little"), room=4), "little")

        device = asyncio.create_task(serve(transport.devices[0], transport))
        answers = await asyncio.gather(*map(ask, range(number)))
        await device
        return answers

    transport = ScriptedTransport(features=features, queue_sizes=[8, 8])
    with Client(transport) as client:
        assert run(main(client, transport)) == list(range(number))
        assert client.bytes_.ring.free == 8
