"""Runs a queue on which the device speaks: it takes a buffer of the driver when there is something to put into it."""

from __future__ import annotations

from pyvirtio.errors import LocalError, RingError
from pyvirtio.runtime.service import QueueService, QueueState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.device.outgoing import Make, OutgoingPort
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
        # A worker died with a buffer in its hand: what it wanted to say is lost, the buffer is not.
        unfinished, queue.unfinished = queue.unfinished, []
        while unfinished and queue.unpop(unfinished[-1]):
            unfinished.pop()
        if unfinished:
            self._push(unfinished)
        port.connect(self)

    def deliver(self, data: bytes | Make, *, whole: bool, least: int = 0) -> int | None:
        """Write ``data``, or as much as there is room for, into the driver's next buffer and give that back.

        Return the bytes written, or None where the driver has provided no buffer of ``least`` bytes; then it is asked
        to kick. ``data`` may be made for the buffer; where it then is empty, the buffer stays the driver's.

        Raises:
            LocalError: ``whole`` data does not fit; the buffer stays the driver's.
        """
        try:
            while (chain := self._next_buffer()) is not None:
                room: int = chain.room
                if chain.error or room < least or (not room and data):
                    self.report_once(
                        "buffer-refused",
                        f"a buffer that cannot be used is returned empty: {chain.error or f'{room} bytes of room'}",
                    )
                    self._push([chain])
                    continue
                message = self._made(data, chain) if callable(data) else data
                if callable(data) and not message:
                    self._keep(chain)
                    return 0
                if whole and len(message) > room:
                    self._keep(chain)
                    raise LocalError(
                        f"a message of {len(message)} bytes does not fit into the driver's buffer of {room}; "
                        "send less at once, or use write, which splits"
                    )
                chain.write(message[:room])
                self._push([chain])
                return min(len(message), room)
        except RingError as error:
            self._break(error)
        return None

    def _next_buffer(self) -> Chain | None:
        """Return the driver's next buffer, or None where there is none; then it is asked to kick."""
        while self.state is QueueState.SERVING:
            if chains := self.queue.pop(1):
                return chains[0]
            if not self.queue.enable_kicks():
                break
        return None

    def _made(self, make: Make, chain: Chain) -> bytes:
        """Return the message for a buffer; where it cannot be made, the buffer stays the driver's."""
        try:
            return make(chain.room)
        except BaseException:
            self._keep(chain)
            raise

    def _keep(self, chain: Chain) -> None:
        """Let the driver's next buffer be this one again."""
        if not self.queue.unpop(chain):
            self._push([chain])

    def _serve(self, now: int, deadline: int) -> None:  # noqa: ARG002  # it takes no time
        self._port.refilled()

    def has_more(self) -> bool:
        """Return False: a turn does nothing but wake whoever waits."""
        return False  # buffers wait on the ring for as long as there is nothing to say

    def _drop(self) -> None:
        self._port.connect(None)

    def _give_back(self, *, fail_suspects: bool) -> None:  # noqa: ARG002  # there are none
        self._port.connect(None)

    def _is_drained(self) -> bool:
        return True
