"""A device that answers what a recorded device answered: it plays a recording to a driver.

Serve it with ``pyvirtio trace FILE --serve SOCKET``, and a guest meets the recorded device once more.
"""

from __future__ import annotations

from collections import defaultdict, deque
from functools import partial
from pathlib import Path  # noqa: TC003  # the type of an option is looked up

from pyvirtio.device import Device, OutgoingQueue, Queue, Reader, Writer
from pyvirtio.spec.features import DEVICE_FEATURES
from pyvirtio.spec.ids import DEFAULT_ID
from pyvirtio.spec.struct import Struct, array, u8
from pyvirtio.trace.recorder import load
from pyvirtio.trace.replay import set_up_of
from pyvirtio.trace.requests import requests
from pyvirtio.vhost_user import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.device.queue import AnyQueue
    from pyvirtio.trace.events import Recording
    from pyvirtio.trace.requests import Request

LONGEST_PAUSE = 1.0
"""The seconds between two messages that the device sends by itself, at most, however long the recorded pause was."""


class Recorded(Device):
    """Answers each request as the recorded device answered the same bytes on the same queue, in the recorded order.

    A request that was asked more often than it was recorded gets its last answer again. One that was never recorded
    fails, which the log says. What the recorded device sent by itself is sent again, at the recorded pace.
    """

    def __init__(self, recording: Path) -> None:
        recorded = load(str(recording))
        sizes, features = set_up_of(recorded.events)
        self.device_id = recorded.device_id() or DEFAULT_ID
        self.features = features & DEVICE_FEATURES
        if content := configuration(recorded):
            self.config = _structure(len(content))(tuple(content))
        self._answers: list[dict[bytes, deque[bytes]]] = [defaultdict(deque) for _ in sizes]
        self._outgoing: list[list[Request]] = [[] for _ in sizes]
        for request in requests(recorded.events):
            if request.answer is None or not request.is_whole or len(request.answer) < request.written:
                continue  # one that was seen late is most likely right, and better than none
            if request.parts:
                self._answers[request.queue][request.data].append(request.answer)
            else:
                self._outgoing[request.queue].append(request)
        self.queues = tuple(self._declared(index, size) for index, size in enumerate(sizes))

    def _declared(self, index: int, size: int) -> AnyQueue:
        if self._outgoing[index] and not self._answers[index]:
            outgoing = OutgoingQueue(size=size)
            outgoing.name = f"queue{index}"
            return outgoing
        queue = _AnsweredQueue(size=size)
        queue.name = f"queue{index}"
        method = f"answer{index}"
        setattr(self, method, partial(self._answer, index))
        queue.methods["stream"] = method
        return queue

    def _answer(self, index: int, reader: Reader, writer: Writer) -> None:
        asked = reader.read(reader.left)
        answers = self._answers[index].get(asked)
        if not answers:
            raise LookupError(f"a request that the recording does not have: {asked[:32].hex()} on queue {index}")
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        writer.write(answer[: writer.room])

    @property
    def speaks_first(self) -> bool:
        """Whether the recorded device sent something by itself."""
        return any(isinstance(queue, OutgoingQueue) for queue in self.queues)

    async def run(self) -> None:
        """Send what the recorded device sent by itself."""
        import asyncio

        sent = [
            request
            for index, queue in enumerate(self.queues)
            if isinstance(queue, OutgoingQueue)
            for request in self._outgoing[index]
        ]
        before: int | None = None
        for request in sorted(sent, key=lambda request: request.answered or 0):
            pause = ((request.answered or 0) - (before or request.answered or 0)) / 1e9
            await asyncio.sleep(min(LONGEST_PAUSE, pause))
            before = request.answered
            queue = self.queues[request.queue]
            assert isinstance(queue, OutgoingQueue)
            await self.ports(queue)[0].write(request.answer or b"")


class _AnsweredQueue(Queue):
    """A queue that a method of the instance answers: how many there are, only the recording knows."""

    def check(self, device: type) -> None:
        """Accept it: its method was made together with it."""


def _structure(size: int) -> type[Struct]:
    """Return the structure of a configuration space that is known as bytes alone."""
    return type("Config", (Struct,), {"content": array(u8(), size)})


def configuration(recording: Recording) -> bytes:
    """Return the configuration space as far as the recording knows it: from the device, or from what drivers read."""
    content = bytearray()
    for event in recording.events:
        if event.what in ("device", "config") and event["config"]:
            content[:] = bytes.fromhex(event["config"])
        elif event.what == "message" and event["request"] == m.Request.GET_CONFIG and event["flags"] & m.F_REPLY:
            payload = bytes.fromhex(event["payload"])
            if event.get("channel") or len(payload) <= m.ConfigHeader.nbytes:
                continue
            header = m.ConfigHeader.unpack(payload[: m.ConfigHeader.nbytes])
            data = payload[m.ConfigHeader.nbytes :][: header.size]
            if header.offset + len(data) <= m.MAXIMUM_CONFIG:
                content.extend(bytes(max(0, header.offset + len(data) - len(content))))
                content[header.offset : header.offset + len(data)] = data
    return bytes(content)
