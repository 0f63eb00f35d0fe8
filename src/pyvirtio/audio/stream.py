"""A PCM stream: what its driver may ask when, and how its buffers pass, one after the other, as time passes.

The states and what leads from one to the next are those of VIRTIO 1.4, 5.14.6.6.1.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from enum import Enum

from pyvirtio.audio.samples import Samples

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class State(Enum):
    """Where a stream stands."""

    NEW = "new"
    SET = "set"  # its parameters are known
    PREPARED = "prepared"
    RUNNING = "running"
    STOPPED = "stopped"
    RELEASED = "released"


class Command(Enum):
    """What a driver asks of a stream."""

    SET_PARAMS = "set parameters"
    PREPARE = "prepare"
    START = "start"
    STOP = "stop"
    RELEASE = "release"


TRANSITIONS: dict[Command, tuple[set[State], State]] = {
    Command.SET_PARAMS: ({State.NEW, State.SET, State.PREPARED, State.RELEASED}, State.SET),
    Command.PREPARE: ({State.SET, State.PREPARED, State.RELEASED}, State.PREPARED),
    Command.START: ({State.PREPARED, State.STOPPED}, State.RUNNING),
    Command.STOP: ({State.RUNNING}, State.STOPPED),
    Command.RELEASE: ({State.PREPARED, State.STOPPED}, State.RELEASED),
}
"""For each command the states in which it is allowed, and the state that it leads to."""

_WAITING = {State.PREPARED, State.STOPPED}
"""The states in which buffers wait for the stream to run."""


class Stream:
    """One stream, and the line of its buffers."""

    def __init__(self) -> None:
        self.state = State.NEW
        self.samples = Samples(2, 2, 48000)
        self.buffer = 0
        """The bytes of the driver's ring of periods: the most that one buffer may have."""
        self._line = asyncio.Lock()
        self._pending = 0
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._heard_until = 0.0

    def command(self, command: Command) -> bool:
        """Go where ``command`` leads; return False where it is not allowed now."""
        allowed, state = TRANSITIONS[command]
        if self.state not in allowed:
            return False
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    async def drain(self) -> None:
        """Wait until every buffer has been passed back (5.14.6.6.5.1)."""
        await asyncio.sleep(0)  # those that lie on the ring already come in this round of the loop
        while self._pending:
            await self._drained.wait()

    @asynccontextmanager
    async def turn(self, number: int) -> AsyncIterator[bool]:
        """Wait until a buffer of ``number`` bytes has its turn, and when it was used, for as long as it sounds.

        The value is False where the stream is not there any more: the buffer is passed back unused.
        """
        self._pending += 1
        try:
            async with self._line:
                while self.state in _WAITING:
                    await self._changed.wait()
                is_running = self.state is State.RUNNING
                yield is_running
                if is_running:
                    await self._sound(number)
        finally:
            self._pending -= 1
            self._drained.set()
            self._drained = asyncio.Event()

    async def _sound(self, number: int) -> None:
        """Wait until ``number`` bytes have sounded, unless the stream stops first."""
        now = asyncio.get_running_loop().time()
        self._heard_until = max(self._heard_until, now) + self.samples.seconds(number)
        try:
            async with asyncio.timeout_at(self._heard_until):
                while self.state is State.RUNNING:
                    await self._changed.wait()
        except TimeoutError:
            return
        self._heard_until = 0.0
