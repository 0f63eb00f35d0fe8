"""A driver that is traced: its rings, and the messages that it exchanges with a back-end.

`traced` makes it from any `Driver`::

    with Recorder("run.jsonl") as recorder:
        with traced(DoubleDriver, recorder)(traced_transport(Double(), recorder)) as driver:
            driver.requests.call(Number(21))
"""

from __future__ import annotations

from functools import partial

from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.device import Device
from pyvirtio.ring import SplitDriverQueue
from pyvirtio.trace.messages import message
from pyvirtio.trace.rings import RingFollower, RingReader
from pyvirtio.trace.traced_device import TracedRunner, note_device
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.client import VhostUserTransport
from pyvirtio.vhost_user.connection import BUSY_TIME, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any, TypeVar

    from pyvirtio.driver import Driver
    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring import SplitLayout
    from pyvirtio.spec.struct import Struct
    from pyvirtio.trace.recorder import Recorder
    from pyvirtio.transport import DriverTransport, QueueSetup

    D = TypeVar("D", bound=Driver)


class TracedDriverQueue(SplitDriverQueue):
    """The driver's end of a queue, which records what it does; where not ``device_is_traced``, the device's part, too.

    What the other side may act upon is recorded before it is done, so that causes come before their effects.
    """

    def __init__(
        self,
        rings: SplitLayout,
        memory: MemoryTable,
        setup: QueueSetup,
        recorder: Recorder,
        *,
        device_is_traced: bool,
    ) -> None:
        super().__init__(rings, memory, setup.features)
        self._index = setup.index
        self._recorder = recorder
        self._sees_device = not device_is_traced
        self._follower = RingFollower(RingReader(memory.read, setup, recorder.snap), setup.index)
        self._published = 0
        self._added: list[int] = []
        recorder.record(self._follower.begin(recorder.now()))

    def add(self, *arguments: Any, **options: Any) -> int:
        """Put a request on the ring, and record its descriptors."""
        head = super().add(*arguments, **options)
        self._added.append(head)
        self._recorder.record([self._follower.described(self._recorder.now(), head)])
        return head

    def publish(self) -> None:
        """Let the device see what was added."""
        if self._added:
            heads, self._added = self._added, []
            self._recorder.note("driver", "available", self._index, index=self._available_index, heads=heads)
        super().publish()

    def needs_kick(self) -> bool:
        """Return whether the device wants a kick, which the driver then sends."""
        needs = super().needs_kick()
        if needs:
            self._recorder.note("driver", "kick", self._index)
        return needs

    def disable_interrupts(self) -> None:
        """Let the device know that the driver is looking anyway."""
        super().disable_interrupts()
        self._recorder.record(self._follower.look_wish(self._recorder.now()))

    def enable_interrupts(self) -> bool:
        """Ask for an interrupt at the next used buffer; return whether one is there already."""
        there = super().enable_interrupts()
        self._recorder.record(self._follower.look_wish(self._recorder.now()))
        return there

    def reap(self) -> list[tuple[object, int]]:
        """Return what the device gave back."""
        before = self._used_index
        if self._sees_device:
            self._recorder.record(self._follower.look_used(self._recorder.now()))
        done = super().reap()
        for place in range((self._used_index - before) & 0xFFFF):
            slot = 2 * ((before + place) & (self.size - 1))
            head, written = self._pairs[slot], self._pairs[slot + 1]
            self._recorder.note("driver", "reap", self._index, head=head, written=written)
        return done


def traced(driver: type[D], recorder: Recorder, *, device_is_traced: bool = True) -> type[D]:
    """Return a driver like ``driver`` that records what it does.

    ``device_is_traced`` says that the device records what it does itself, as one of `traced_transport` does where it
    is in this process.
    """

    class Traced(driver):  # type: ignore[valid-type,misc]  # a class that is chosen at run time
        def _new_ring(self, setup: QueueSetup, rings: SplitLayout) -> SplitDriverQueue:
            return TracedDriverQueue(rings, self.transport.memory, setup, recorder, device_is_traced=device_is_traced)

    Traced.__name__ = Traced.__qualname__ = driver.__name__
    return Traced


class TracedTransport(VhostUserTransport):
    """A driver's way to a back-end that records the messages on it."""

    def __init__(self, sock: socket.socket, recorder: Recorder, **options: Any) -> None:
        self._recorder = recorder
        super().__init__(sock, **options)

    def _ask(self, request: m.Request, payload: Struct | bytes = b"", fds: Sequence[int] = ()) -> bytes:
        replies = m.TABLE[request].reply is not None
        acknowledged = not replies and bool(self._connection.session.protocol & m.Protocol.REPLY_ACK)
        flags = m.VERSION | (m.F_NEED_REPLY if acknowledged else 0)
        data = payload if isinstance(payload, bytes) else payload.pack()
        now = self._recorder.now
        self._recorder.record([message(now(), "front-end", request, flags, data, len(fds))])
        answer = super()._ask(request, payload, fds)
        if replies or acknowledged:
            self._recorder.record([message(now(), "back-end", request, m.VERSION | m.F_REPLY, answer, 0)])
        return answer


def traced_transport(device: Device | str, recorder: Recorder) -> DriverTransport:
    """Open the way to a device and record it: an object of this process, or the path of a back-end's socket.

    Raises:
        LocalError, NoAnswer: as `pyvirtio.open_driver`.
    """
    if isinstance(device, Device):
        note_device(recorder, device.description())
        runner = partial(TracedRunner, recorder=recorder, driver_is_traced=True)
        return InProcessTransport(device, new_runner=runner)
    return TracedTransport(connect(device, "DEVICE"), recorder, first_answer=BUSY_TIME)
