"""A device that is traced: what stands around its queues, its notifications and its connection.

It is put in place when a queue starts, and only where somebody records. So a run that is not traced has nothing in its
way, not even a question whether it is traced.
"""

from __future__ import annotations

from pyvirtio.runtime import DeviceRunner
from pyvirtio.trace.messages import Conversation
from pyvirtio.trace.rings import RingFollower, RingReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, ClassVar

    from pyvirtio.errors import RingError
    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring import Chain, Journal, SplitLayout
    from pyvirtio.ring.queue import DeviceQueue
    from pyvirtio.runtime.service import Interrupter
    from pyvirtio.trace.recorder import Sink
    from pyvirtio.transport import DeviceDescription, DeviceHost, Outgoing, QueueSetup, Session


class TracedQueue:
    """The device's side of a queue around that of an engine, whichever it is; a `pyvirtio.ring.queue.DeviceQueue`.

    Requests take the way of chains, one object each: what is faster shows nothing on its way. Where
    ``driver_is_traced``, what the driver does is recorded by the driver, and otherwise as far as it is seen from here.
    ``goes_on`` says that somebody else served the queue before, such as a process that died, so nothing begins anew.
    """

    has_records: ClassVar[bool] = False
    has_streams: ClassVar[bool] = False

    def __init__(
        self,
        inner: DeviceQueue,
        setup: QueueSetup,
        memory: MemoryTable,
        recorder: Sink,
        *,
        driver_is_traced: bool = False,
        goes_on: bool = False,
    ) -> None:
        self._inner = inner
        self.size = inner.size
        self.journal = inner.journal
        self.unfinished = inner.unfinished
        self.memory = memory
        self._index = setup.index
        self._recorder = recorder
        self._sees_driver = not driver_is_traced
        reader = RingReader(memory.read, setup, recorder.snap)
        self._follower = RingFollower(reader, setup.index, at=inner.position)
        begin = self._follower.begin(recorder.now())
        if goes_on:
            begin[0].by, begin[0].what = "device", "resumed"
        if self._sees_driver:
            recorder.record(begin)
        for chain in inner.unfinished:
            self._follower.described(0, chain.head)

    @property
    def position(self) -> int:
        """The available index to go on from."""
        return self._inner.position

    def pop(self, limit: int = 64) -> list[Chain]:
        """Take up to ``limit`` requests, and record what the driver made available and which of it was taken."""
        try:
            chains = self._inner.pop(limit)
        finally:  # what was popped was available before this look, and its memory is the device's by now
            seen = self._follower.look_available(self._recorder.now())
            if self._sees_driver:
                self._recorder.record(seen)
        for chain in chains:
            self._recorder.note("device", "pop", self._index, head=chain.head, sequence=chain.sequence)
        return chains

    def unpop(self, chain: Chain) -> bool:
        """Put the request that was popped last back on the ring."""
        return self._inner.unpop(chain)

    def push(self, chains: Sequence[Chain]) -> None:
        """Return requests to the driver, and record what is written into the used ring."""
        at = self._recorder.now()  # what follows from it, on the driver's side, has a later time
        self._inner.push(chains)
        self._recorder.record(self._follower.look_used(at))

    def needs_interrupt(self) -> bool:
        """Return whether the driver wants an interrupt for what was pushed since the last call."""
        return self._inner.needs_interrupt()

    def disable_kicks(self) -> None:
        """Let the driver know that the device is looking anyway."""
        self._inner.disable_kicks()
        self._recorder.record(self._follower.look_used(self._recorder.now()))

    def enable_kicks(self) -> bool:
        """Ask for a kick at the next request, and return whether one is there already."""
        there = self._inner.enable_kicks()
        self._recorder.record(self._follower.look_used(self._recorder.now()))
        return there

    def has_more(self) -> bool:
        """Return whether there is something to pop."""
        return self._inner.has_more()

    def relocate(self, layout: SplitLayout, memory: MemoryTable) -> None:
        """Go on with the same queue where its areas lie in other memory."""
        self._inner.relocate(layout, memory)
        self.memory = memory
        self._follower.reader.read = memory.read

    def retire(self, error: RingError) -> None:
        """Stop popping for good, and record why."""
        self._recorder.note("device", "damaged", self._index, error=str(error))
        self._inner.retire(error)


class TracedNotifier:
    """Interrupts the driver, and records it first: what the driver does then has a later time."""

    def __init__(self, inner: Interrupter, index: int, recorder: Sink) -> None:
        self._inner = inner
        self._index = index
        self._recorder = recorder

    def notify(self) -> None:
        """Interrupt."""
        self._recorder.note("device", "interrupt", self._index)
        self._inner.notify()


class TracedRunner(DeviceRunner):
    """Runs a device as `DeviceRunner` does, and records what happens on its queues; see there for the arguments."""

    def __init__(self, *arguments: Any, recorder: Sink, driver_is_traced: bool = False, **options: Any) -> None:
        self._recorder = recorder
        self._driver_is_traced = driver_is_traced
        super().__init__(*arguments, **options)

    def kick(self, index: int) -> None:
        """Serve a queue, after a kick that came as a call or a message."""
        self._kicked(index)
        super().kick(index)

    def _deal_with(self, fd: int) -> None:
        if (index := self._kicks.by_fd.get(fd)) is not None:
            self._kicked(index)
        super()._deal_with(fd)

    def _kicked(self, index: int) -> None:
        if not self._driver_is_traced:
            self._recorder.note("driver", "kick", index)

    def _new_queue(self, setup: QueueSetup, memory: MemoryTable, journal: Journal) -> DeviceQueue:
        goes_on = journal.was_used
        inner = super()._new_queue(setup, memory, journal)
        return TracedQueue(
            inner, setup, memory, self._recorder, driver_is_traced=self._driver_is_traced, goes_on=goes_on
        )

    def _new_notifier(self, index: int, fd: int) -> Interrupter:
        return TracedNotifier(super()._new_notifier(index, fd), index, self._recorder)


class TracedSession:
    """The protocol of a connection around another one, whose messages it records; a `pyvirtio.transport.Session`.

    It also records when the configuration space of ``host`` has changed.
    """

    def __init__(self, inner: Session, host: DeviceHost, recorder: Sink, number: int) -> None:
        self._inner = inner
        self._host = host
        self._config = b""  # what was recorded of it last
        self._recorder = recorder
        self._number = number
        self._heard = Conversation()
        recorder.note("front-end", "connected", connection=number)

    @property
    def wake(self) -> Any:
        """What is called when something is to be sent that no input asked for."""
        return self._inner.wake

    @wake.setter
    def wake(self, wake: Any) -> None:
        self._inner.wake = wake

    @property
    def wanted(self) -> int:
        """The most bytes to read before the next call of `receive`."""
        return self._inner.wanted

    def receive(self, data: bytes, fds: Iterable[int] = ()) -> None:
        """Take what came from the connection, and record each message that became whole before it is heeded."""
        fds = list(fds)
        self._recorder.record(self._heard.front_end(self._recorder.now(), data, len(fds)))
        self._inner.receive(data, fds)
        self._look_at_config()

    def _look_at_config(self) -> None:
        if (config := configuration(self._host)) != self._config:
            self._config = config
            self._recorder.note("device", "config", config=config.hex())

    def outgoing(self) -> list[Outgoing]:
        """Return what is to be sent, in order, and record it."""
        self._look_at_config()  # a driver may have been told of it, and reads it next
        sent = self._inner.outgoing()
        for message in sent:
            aside = message.socket is not None
            self._recorder.record(self._heard.back_end(self._recorder.now(), message.data, len(message.fds), aside))
        return sent

    def close(self) -> None:
        """End the connection."""
        self._recorder.note("recorder", "disconnected", connection=self._number, why="the connection was closed")
        self._inner.close()


def configuration(host: DeviceHost) -> bytes:
    """Return the whole configuration space as it is now."""
    return host.read_config(0, len(host.description.config))


def note_device(recorder: Sink, description: DeviceDescription) -> None:
    """Record what a device says of itself."""
    recorder.note(
        "device",
        "device",
        name=description.name,
        id=description.device_id,
        features=description.features,
        sizes=list(description.queue_sizes),
        config=description.config.hex(),
    )
