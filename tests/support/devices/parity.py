"""A device of which a test can say what it answers, and which is started again with another mind."""

from __future__ import annotations

import asyncio

from pyvirtio import Device, OutgoingQueue, Queue, Struct, le32


class Number(Struct):
    """A request, or its answer."""

    value: int = le32()


class Config(Struct):
    """The configuration space."""

    answers: int = le32()


class Parity(Device):
    """Answers each number with itself and 1000 more; while it is ``stubborn``, it answers odd ones only."""

    device_id = 63
    patience = None
    requests = Queue(Number, Number, size=32)
    news = OutgoingQueue(size=4)

    def __init__(self, *, stubborn: bool = False, further: bool = True) -> None:
        self._stubborn = stubborn
        self.config = Config(2 - stubborn)
        self.features = 1 | 2 * further

    async def run(self) -> None:
        """Send what a driver should get from each life of the device."""
        await self.news.send(Number(2 - self._stubborn).pack())

    @requests.each
    async def answer(self, number: Number) -> Number:
        """Answer, or never."""
        if self._stubborn and number.value % 2 == 0:
            await asyncio.Event().wait()
        return Number(number.value + 1000)
