"""Runs a queue on which the device speaks: it takes a buffer of the driver when there is something to put into it."""

from __future__ import annotations

from pyvirtio.errors import LocalError, RingError
from pyvirtio.runtime.service import QueueService, QueueState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.device.outgoing import Header, Make, OutgoingPort
    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import DeviceQueue
    from pyvirtio.runtime.service import Interrupter, Surroundings


class OutgoingService(QueueService):
    """Serves one outgoing queue: `deliver` does the work, a turn only wakes whoever waits for buffers."""

    def __init__(
        self, index: int, queue: DeviceQueue, notifier: Interrupter, around: Surroundings, port: OutgoingPort
    ) -> None:
        super().__init__(index, queue, notifier, around)
        self._port = port
        # Kept are buffers for a message that takes more than there are, here those that a worker had in its hand when
        # it died: what it wanted to say is lost, they are not.
        self._kept, queue.unfinished = queue.unfinished, []
        self._give_up([])
        port.connect(self)

    def deliver(self, data: bytes | Make, *, whole: bool, least: int = 0) -> int | None:
        """Write ``data``, or as much as there is room for, into the driver's next buffer and give that back.

        Return the bytes written, or None where the driver has provided no buffer of ``least`` bytes; then it is asked
        to kick. ``data`` may be made for the buffer; where it then is empty, the buffer stays the driver's.

        Raises:
            LocalError: ``whole`` data does not fit; the buffer stays the driver's.
        """
        chain = self._take(max(least, 1 if data else 0))
        if chain is None:
            return None
        room: int = chain.room
        message = self._made(data, chain) if callable(data) else data
        if callable(data) and not message:
            self._give_up([chain])
            return 0
        if whole and len(message) > room:
            self._give_up([chain])
            raise LocalError(
                f"a message of {len(message)} bytes does not fit into the driver's buffer of {room}; "
                "send less at once, or use write, which splits"
            )
        chain.write(message[:room])
        self._push([chain])
        return min(len(message), room)

    def deliver_spread(self, data: bytes, header: Header) -> int | None:
        """Write ``header`` and ``data`` into as many buffers as they take, and give these back at once.

        Return the bytes of ``data``, or None where the driver has not provided enough. Then those that are there are
        kept: given back to the ring, they would have the driver kick for what has been seen, and not for what comes.

        Raises:
            LocalError: it does not fit into as many buffers as the queue can hold; they stay the driver's.
        """
        start = header(1)
        chains = self._take_several(len(start), len(start) + len(data))
        if chains is None:
            return None
        chains[0].write(start if len(chains) == 1 else header(len(chains)))
        rest = memoryview(data)
        for chain in chains:
            free = chain.room - chain.written
            chain.write(rest[:free])  # type: ignore[arg-type]  # any buffer of bytes
            rest = rest[free:]
        self._push(chains)
        return len(data)

    # The driver's buffers.

    def _take_several(self, least: int, wanted: int) -> list[Chain] | None:
        """Take buffers with room for ``wanted`` bytes, the first for ``least``; where there are not enough, keep them.

        Raises:
            LocalError: as many as the queue can hold have less room.
        """
        chains: list[Chain] = []
        room = 0
        while not chains or room < wanted:
            if len(chains) == self.queue.size:
                self._give_up(chains)
                raise LocalError(
                    f"a message of {wanted} bytes does not fit into all {len(chains)} buffers of the driver; "
                    "send less at once"
                )
            chain = self._take(1 if chains else least)
            if chain is None:
                self._kept = chains
                return None
            chains.append(chain)
            room += chain.room
        return chains

    def _take(self, least: int) -> Chain | None:
        """Take a buffer with room for ``least`` bytes; None where the driver has provided none, or the queue stops.

        The driver is then asked to kick.
        """
        try:
            while (chain := self._next_buffer()) is not None:
                if not chain.error and chain.room >= least:
                    return chain
                self.report_once(
                    "buffer-refused",
                    f"a buffer that cannot be used is returned empty: {chain.error or f'{chain.room} bytes of room'}",
                )
                self._push([chain])
        except RingError as error:
            self._break(error)
        return None

    def _next_buffer(self) -> Chain | None:
        """Return the oldest buffer that was kept, or else the driver's next."""
        while self.state is QueueState.SERVING:
            if chains := [self._kept.pop(0)] if self._kept else self.queue.pop(1):
                return chains[0]
            if not self.queue.enable_kicks():
                break
        return None

    def _made(self, make: Make, chain: Chain) -> bytes:
        """Return the message for a buffer; where it cannot be made, the buffer stays the driver's."""
        try:
            return make(chain.room)
        except BaseException:
            self._give_up([chain])
            raise

    def _give_up(self, chains: list[Chain]) -> None:
        """Let the driver's next buffers be these again, and those that were kept; where the ring does not, return them.

        They are older than those that were kept.
        """
        chains = [*chains, *self._kept]
        self._kept = []
        while chains and self.queue.unpop(chains[-1]):
            chains.pop()
        if chains:
            self._push(chains)

    # What a service does.

    def _serve(self, now: int, deadline: int) -> None:  # noqa: ARG002  # it takes no time
        self._port.refilled()

    def has_more(self) -> bool:
        """Return False: a turn does nothing but wake whoever waits."""
        return False  # buffers wait on the ring for as long as there is nothing to say

    def _drop(self) -> None:
        self._kept = []
        self._port.connect(None)

    def _give_back(self, *, fail_suspects: bool) -> None:  # noqa: ARG002  # there are none
        self._give_up([])
        self._port.connect(None)

    def _is_drained(self) -> bool:
        return True
