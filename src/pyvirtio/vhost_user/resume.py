"""A driver's way to a back-end that may end and be started again: what was under way goes on.

What the new back-end has to know is in the driver's memory, and how it learns that depends on what it speaks:

- with INFLIGHT_SHMFD ("Inflight I/O tracking") the rings stay as they are. The back-end has noted in a region of shared
  memory which requests it had begun; the driver hands that region to the new one.
- Without it the driver takes what was returned and offers everything else again, on rings that begin anew. Only a
  driver that keeps its own books can do that.

Either way a request may be carried out twice, and is answered once.
"""

from __future__ import annotations

import os
import select

from pyvirtio.errors import DeviceError, VirtioError
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.client import MEMORY, WANTED, VhostUserTransport
from pyvirtio.vhost_user.connection import BUSY_TIME, connect
from pyvirtio.vhost_user.reconnect import Reconnector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pyvirtio.transport import QueueSetup

    T = TypeVar("T")

_USED_INDEX = 2
"""Where the used index is in the used ring (VIRTIO 1.4, 2.7.8)."""


class ResumingTransport(VhostUserTransport):
    """Leads a driver to the back-end at ``path``, and to the one that takes its place within ``patience`` seconds.

    Raises:
        LocalError: nobody serves the socket now.
        NoAnswer: the back-end is busy with another front-end, or hangs.
    """

    _protocol_wanted = WANTED | m.Protocol.INFLIGHT_SHMFD

    def __init__(self, path: str, memory: int = MEMORY, *, device: str = "DEVICE", patience: float) -> None:
        sock = connect(path, device)
        self._path = path
        self._device = device
        self._patience = patience
        self._restarts = 0
        self._reconnector: Reconnector | None = None
        self._lost: VirtioError | None = None
        self._setups: list[QueueSetup] = []
        self._region: tuple[m.Inflight, int] | None = None
        self._events = select.epoll()  # one descriptor for event loops, however many connections there are
        super().__init__(sock, memory, first_answer=BUSY_TIME)
        self._events.register(self._connection, select.EPOLLIN)

    @property
    def protocol(self) -> m.Protocol:
        """The protocol features that were negotiated with this back-end."""
        return self._connection.session.protocol

    # The queues are announced together, for their in-flight region comes first.

    def start_queue(self, setup: QueueSetup) -> None:
        """Take note of a queue."""
        self._wire(setup)
        self._setups.append(setup)

    def run(self) -> None:
        """Announce the queues and enable them."""
        if self._has_inflight:
            self._ask_for_region()
        self._start()

    @property
    def _has_inflight(self) -> bool:
        return bool(self.protocol & m.Protocol.INFLIGHT_SHMFD)

    def _ask_for_region(self) -> None:
        question = m.Inflight(0, 0, len(self._setups), max(setup.size for setup in self._setups))
        reply, fds = self._connection.ask_for_fds(m.Request.GET_INFLIGHT_FD, _padded(question))
        if not fds:
            raise DeviceError("the back-end offers to track requests in flight and gives no memory for that")
        self._region = m.Inflight.unpack(reply), fds.pop()

    def _start(self) -> None:
        if self._region is not None and self._has_inflight:
            region, fd = self._region
            self._ask(m.Request.SET_INFLIGHT_FD, _padded(region), [fd])
        for setup in self._setups:
            self._announce(setup)
        super().run()

    # The end of one back-end, and the next one's start.

    def hangup_fd(self) -> int:
        """Return a descriptor that stays the same from one back-end to the next."""
        return -1 if self._events.closed else self._events.fileno()

    def process_events(self) -> None:
        """Answer the back-end's own messages, notice its end, and take up its successor."""
        if self._lost is not None:
            raise self._lost.again()
        try:
            if self._reconnector is None:
                super().process_events()
            elif self._events.poll(0):
                self._return(self._reconnector)
        except DeviceError as error:
            self._leave(error)

    def _leave(self, error: VirtioError) -> None:
        """Begin to look for the successor of a back-end that has closed the connection; nothing else is forgiven."""
        if not self._connection.hung_up:
            self._lost = error  # what made `hangup_fd` readable is left as it is, so that every wait ends
            raise error
        self._connection.close()
        self._forget_reconnector()
        self._reconnector = Reconnector(self._path, self._device, self._patience)
        self._events.register(self._reconnector, select.EPOLLIN)

    def _forget_reconnector(self) -> None:
        if self._reconnector is not None:
            self._reconnector.close()
            self._reconnector = None

    def _return(self, reconnector: Reconnector) -> None:
        self._connection = reconnector.result()
        self._events.register(self._connection, select.EPOLLIN)
        self._restarts += 1
        self._resume()
        self._forget_reconnector()
        for index in self._kicks:
            self._kicks.signal(index)
            self._interrupts.signal(index)  # for what the one that is gone returned

    def _resume(self) -> None:
        """Bring the new back-end to where the old one was."""
        negotiated = self._features
        self._greet()
        if negotiated & ~self._offered or not self.accept_features(negotiated & ~m.F_PROTOCOL_FEATURES):
            raise DeviceError(
                f"another device came back: it refuses the features {negotiated:#x}; open the driver again"
            )
        if self._region is not None and self._has_inflight:
            for setup in self._setups:
                at = setup.device_area + _USED_INDEX
                setup.position = int.from_bytes(self.memory.read(at, 2), "little")
        else:
            self.offer_again()
            for setup in self._setups:
                setup.position = 0
        self._start()

    # Questions wait until somebody can answer.

    def _query(self, request: m.Request, payload: bytes) -> bytes:
        return self._persist(lambda: self._ask(request, payload))

    def config_generation(self) -> int:
        """Count changes of the configuration space; a new back-end may have another one."""
        changes = self._persist(lambda: self._connection.config_changes)
        return self._restarts << 32 | changes

    def _persist(self, ask: Callable[[], T]) -> T:
        while True:
            self.process_events()
            if self._reconnector is None:
                try:
                    return ask()
                except DeviceError as error:
                    if not self._connection.hung_up:
                        raise
                    self._leave(error)
            self._events.poll()

    def close(self) -> None:
        """Close the connection, by which the back-end stops."""
        self._forget_reconnector()
        if self._region is not None:
            os.close(self._region[1])
            self._region = None
        self._setups.clear()
        super().close()
        self._events.close()


def _padded(payload: m.Inflight) -> bytes:
    return payload.pack() + bytes(m.INFLIGHT_PADDING)
