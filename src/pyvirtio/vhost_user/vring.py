"""What a back-end knows of one queue before and while it runs."""

from __future__ import annotations

import os

from pyvirtio.errors import ProtocolError
from pyvirtio.spec import split
from pyvirtio.system.eventfd import is_eventfd, signal
from pyvirtio.transport import QueueSetup
from pyvirtio.vhost_user.memory import guest_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.vhost_user.memory import SharedRegion
    from pyvirtio.vhost_user.messages import VringAddr


class Vring:
    """One queue: what SET_VRING_* said of it. Owns its eventfds."""

    def __init__(self, index: int, size: int) -> None:
        self.index = index
        self.size = size
        self.base = 0
        self.address: VringAddr | None = None
        self.kicked = False
        self.enabled = False
        self.running = False
        self._fds = {"kick": -1, "call": -1, "err": -1}

    def set_fd(self, name: str, fd: int) -> None:
        """Take over an eventfd, or none (-1), in place of the one before.

        Raises:
            ProtocolError: it is no eventfd; it is closed then.
        """
        if fd >= 0 and not is_eventfd(fd):
            os.close(fd)
            raise ProtocolError(f"the {name} descriptor of queue {self.index} is no eventfd")
        if fd >= 0:
            # Shared with the peer, who would otherwise make us wait in a write to a full counter.
            os.set_blocking(fd, False)
        old, self._fds[name] = self._fds[name], fd
        if old >= 0:
            os.close(old)

    def locate(self, address: VringAddr, regions: list[SharedRegion]) -> tuple[int, int, int]:
        """Give the guest addresses of descriptor table, available ring and used ring.

        Raises:
            ProtocolError: one is misaligned, or is not wholly in one region.
        """
        parts = (
            (address.descriptors, split.table_size(self.size), split.TABLE_ALIGN),
            (address.available, split.available_size(self.size), split.AVAILABLE_ALIGN),
            (address.used, split.used_size(self.size), split.USED_ALIGN),
        )
        found = [guest_address(regions, user, length) for user, length, _ in parts]
        for guest, (_, _, align) in zip(found, parts, strict=True):
            if guest % align:
                raise ProtocolError(f"a part of the queue at {guest:#x} is not aligned to {align} bytes")
        return found[0], found[1], found[2]

    def setup(self, regions: list[SharedRegion], features: int, inflight: tuple[int, int, int] | None) -> QueueSetup:
        """Give what the host needs to run the queue; raises as `locate` does."""
        assert self.address is not None
        descriptors, available, used = self.locate(self.address, regions)
        return QueueSetup(
            self.index,
            self.size,
            descriptors,
            available,
            used,
            features,
            position=self.base,
            kick_fd=self._fds["kick"],
            interrupt_fd=self._fds["call"],
            inflight=inflight,
        )

    def signal_error(self) -> None:
        """Tell the front-end that the queue is broken, if it wants to know."""
        signal(self._fds["err"])

    def forget(self) -> None:
        """Go back to the state before SET_VRING_KICK, as after a reset of the device."""
        self.kicked = False
        self.address = None
        self.base = 0
        self.set_fd("kick", -1)

    def close(self) -> None:
        """Close the eventfds."""
        for name in self._fds:
            self.set_fd(name, -1)
