"""The in-flight region: memory of the front-end's in which a back-end's successor finds what was under way."""

from __future__ import annotations

import os

from pyvirtio.errors import ProtocolError
from pyvirtio.memory.files import check_sealed, map_file, shared_file
from pyvirtio.ring.journal import region_size
from pyvirtio.spec import split
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.handlers import Answer, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.vhost_user.framing import Frame
    from pyvirtio.vhost_user.handlers import Handlers, Steps
    from pyvirtio.vhost_user.rings import Rings


class InflightMessages:
    """Handles GET_INFLIGHT_FD and SET_INFLIGHT_FD ("Inflight I/O tracking")."""

    def __init__(self, rings: Rings) -> None:
        self._rings = rings

    def handlers(self) -> Handlers:
        """Return what handles each message."""
        return {
            m.Request.GET_INFLIGHT_FD: on(m.Inflight, self._get_fd),
            m.Request.SET_INFLIGHT_FD: on(m.Inflight, self._set_fd),
        }

    def _get_fd(self, payload: m.Inflight, frame: Frame) -> Answer:
        self._check(payload)
        size = payload.queues * region_size(payload.queue_size)
        reply = m.Inflight(size, 0, payload.queues, payload.queue_size).pack()
        return Answer(reply.ljust(len(frame.payload), b"\0"), [shared_file("pyvirtio-inflight", size)])

    def _set_fd(self, payload: m.Inflight, frame: Frame) -> Steps[None]:
        self._check(payload)
        needed = payload.queues * region_size(payload.queue_size)
        if payload.size < needed:
            raise ProtocolError(f"an in-flight region of {payload.size} bytes; {needed} are needed for its queues")
        map_file(frame.fds[0], payload.offset, payload.size)  # a trial
        check_sealed(frame.fds[0])
        rings = self._rings
        yield from rings.change(rings.vrings, lambda: rings.set_inflight(InflightRegion(frame.fds.pop(), payload)))

    def _check(self, payload: m.Inflight) -> None:
        queues = len(self._rings.vrings)
        if not 0 < payload.queues <= queues or not split.is_valid_size(payload.queue_size):
            raise ProtocolError(
                f"an in-flight region for {payload.queues} queues of {payload.queue_size} entries; "
                f"the device has {queues} queues"
            )


class InflightRegion:
    """The region that a front-end sent; owns its descriptor."""

    def __init__(self, fd: int, sent: m.Inflight) -> None:
        self._fd = fd
        self._sent = sent

    def part_of(self, index: int, size: int) -> tuple[int, int, int] | None:
        """Return the part of a queue with ``size`` entries as ``(fd, offset, bytes)``, None where it has none.

        Raises:
            ProtocolError: the region has parts for smaller queues.
        """
        if index >= self._sent.queues:
            return None
        if size > self._sent.queue_size:
            raise ProtocolError(
                f"the in-flight region tracks {self._sent.queue_size} entries of a queue; queue {index} has {size}"
            )
        length = region_size(self._sent.queue_size)
        return self._fd, self._sent.offset + index * length, length

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
