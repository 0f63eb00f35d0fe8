"""Tickets that are awaited, on a device that breaks its queue."""

from __future__ import annotations

import asyncio

from pyvirtio.driver import Driver, Queue
from pyvirtio.errors import DeviceError
from pyvirtio.testing import ScriptedTransport


class Client(Driver):
    device_id = 63
    bytes_ = Queue(size=8)


def test_all_who_wait_learn_that_the_queue_is_broken():
    """Not only the first: the device need not call again, and nobody may wait for ever."""

    async def ask(client: Client) -> list[object]:
        tickets = [client.bytes_.submit(b"x", room=1) for _ in range(3)]
        transport.wait(0, 0)  # no call is pending
        transport.devices[0].add_used((99, 1))

        async def wait(number: int) -> bytes:
            return bytes(await tickets[number])

        waiting = [asyncio.create_task(wait(number)) for number in range(3)]
        done, pending = await asyncio.wait(waiting, timeout=5)
        for task in pending:
            task.cancel()
        assert not pending
        return [task.exception() for task in done]

    transport = ScriptedTransport()
    with Client(transport) as client:
        assert [type(error) for error in asyncio.run(ask(client))] == [DeviceError] * 3


def test_answers_that_are_there_already_need_no_call():
    async def ask(client: Client) -> list[bytes]:
        tickets = [client.bytes_.submit(b"x", room=1) for _ in range(3)]
        transport.wait(0, 0)
        device = transport.devices[0]
        for head in device.heads():
            device.answer(head, b"y")
        return [bytes(await asyncio.wait_for(ticket, 5)) for ticket in tickets]

    transport = ScriptedTransport()
    with Client(transport) as client:
        assert asyncio.run(ask(client)) == [b"y"] * 3
