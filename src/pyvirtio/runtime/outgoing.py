"""Runs a queue on which the device speaks: it takes a buffer of the driver when there is something to put into it."""

from __future__ import annotations

from pyvirtio.errors import LocalError, RingError
from pyvirtio.runtime.service import QueueService, QueueState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.device.outgoing import OutgoingPort
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

    def deliver(self, data: bytes, *, whole: bool) -> int | None:
        """Write ``data``, or as much as there is room for, into the driver's next buffer and give that back.

        Return the bytes written, or None where the driver has provided no buffer; then it is asked to kick.

        Raises:
            LocalError: ``whole`` data does not fit; the buffer stays the driver's.
        """
        queue = self.queue
        try:
            while self.state is QueueState.SERVING:
                if not (chains := queue.pop(1)):
                    if not queue.enable_kicks():
                        return None
                    continue
                chain = chains[0]
                room: int = chain.room
                if chain.error or (not room and data):
                    self.report_once(f"a buffer that cannot be used is returned empty: {chain.error or 'no room'}")
                    self._push(chains)
                    continue
                if whole and len(data) > room:
                    if not queue.unpop(chain):
                        self._push(chains)
                    raise LocalError(
                        f"a message of {len(data)} bytes does not fit into the driver's buffer of {room}; "
                        "send less at once, or use write, which splits"
                    )
                chain.write(data[:room])
                self._push(chains)
                return min(len(data), room)
        except RingError as error:
            self._break(error)
        return None

    def _serve(self, now: int, deadline: int) -> None:  # noqa: ARG002  # it takes no time
        self._port.refilled()

    def has_more(self) -> bool:
        """Return False: a turn does nothing but wake whoever waits."""
        return False  # buffers wait on the ring for as long as there is nothing to say

    def _give_back(self, *, fail_suspects: bool) -> None:  # noqa: ARG002  # there are none
        self._port.connect(None)

    def _is_drained(self) -> bool:
        return True
