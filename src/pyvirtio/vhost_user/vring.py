"""One ring as the back-end knows it: its states, what the front-end said of it, and its descriptors."""

from __future__ import annotations

import os
from enum import Enum, auto

from pyvirtio.errors import ProtocolError
from pyvirtio.spec import split
from pyvirtio.system.eventfd import signal
from pyvirtio.transport import QueueSetup
from pyvirtio.vhost_user.memory import guest_address, read_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.vhost_user.memory import SharedRegion
    from pyvirtio.vhost_user.messages import VringAddr

QEMU_MMIO_SIZE = 1024
"""The size that QEMU's virtio-mmio sets for every queue, whatever the device declares."""


class RingState(Enum):
    """The state that the protocol gives a ring: stopped or started, and disabled or enabled ("Ring states")."""

    STOPPED_DISABLED = auto()
    STOPPED_ENABLED = auto()
    STARTED_DISABLED = auto()
    STARTED_ENABLED = auto()

    @property
    def started(self) -> bool:
        """Whether the ring is started, be it enabled or not."""
        return self in {RingState.STARTED_DISABLED, RingState.STARTED_ENABLED}


class RingEvent(Enum):
    """What changes a ring's state.

    START is SET_VRING_KICK. The letter says that a ring starts when a kick arrives on that descriptor, but front-ends
    expect it to go on with what was available before, without another kick; so it is served from this message on.
    Until it has taken a request, nobody can tell the difference, and it can still be set up otherwise (`Rings.change`).
    """

    START = auto()
    STOP = auto()
    ENABLE = auto()
    DISABLE = auto()


_S, _E = RingState, RingEvent
TRANSITIONS = {
    _S.STOPPED_DISABLED: {
        _E.START: _S.STARTED_DISABLED,
        _E.STOP: _S.STOPPED_DISABLED,
        _E.ENABLE: _S.STOPPED_ENABLED,
        _E.DISABLE: _S.STOPPED_DISABLED,
    },
    _S.STOPPED_ENABLED: {
        _E.START: _S.STARTED_ENABLED,
        _E.STOP: _S.STOPPED_ENABLED,
        _E.ENABLE: _S.STOPPED_ENABLED,
        _E.DISABLE: _S.STOPPED_DISABLED,
    },
    _S.STARTED_DISABLED: {
        _E.START: _S.STARTED_DISABLED,
        _E.STOP: _S.STOPPED_DISABLED,
        _E.ENABLE: _S.STARTED_ENABLED,
        _E.DISABLE: _S.STARTED_DISABLED,
    },
    _S.STARTED_ENABLED: {
        _E.START: _S.STARTED_ENABLED,
        _E.STOP: _S.STOPPED_ENABLED,
        _E.ENABLE: _S.STARTED_ENABLED,
        _E.DISABLE: _S.STARTED_DISABLED,
    },
}
"""The state after an event. Only a ring that is STARTED_ENABLED is served."""


class Service(Enum):
    """What the host does with a ring: nothing, serve it, nothing because it is broken, or end serving it."""

    IDLE = auto()
    RUNNING = auto()
    BROKEN = auto()
    STOPPING = auto()


class Vring:
    """One ring: what SET_VRING_* said of it. Owns its event descriptors.

    ``size`` is in entries, ``base`` the available index to go on from. ``address`` is None before SET_VRING_ADDR;
    ``address_is_old`` says that it was sent before the ring was last stopped; ``was_used`` that the ring has taken
    requests since it was started.
    """

    def __init__(self, index: int, declared_size: int) -> None:
        self.index = index
        self.declared_size = declared_size
        self.size = declared_size
        self.base = 0
        self.address: VringAddr | None = None
        self.address_is_old = False
        self.was_used = False
        self.state = RingState.STOPPED_DISABLED
        self.service = Service.IDLE
        self._fds = {"kick": -1, "call": -1, "err": -1}

    def apply(self, event: RingEvent) -> None:
        """Change the ring's state."""
        self.state = TRANSITIONS[self.state][event]

    @property
    def is_held(self) -> bool:
        """Whether the host has the ring's set-up, served or broken."""
        return self.service in {Service.RUNNING, Service.BROKEN}

    def check_size(self, size: int) -> None:
        """Refuse a size that the ring cannot have.

        The size that the device declares is not enforced, because QEMU's virtio-mmio always sets 1024: it is a limit
        on what is in flight, which whoever runs the queue observes.

        Raises:
            ProtocolError: it is not a power of two, or neither the device nor QEMU asks for as many entries.
        """
        most = max(self.declared_size, QEMU_MMIO_SIZE)
        if size > most or not split.is_valid_size(size):
            raise ProtocolError(
                f"queue {self.index} cannot have {size} entries: use a power of two from 1 to {most}", section="2.7"
            )

    def locate(self, address: VringAddr, regions: list[SharedRegion]) -> tuple[int, int, int]:
        """Return the guest addresses of descriptor table, available ring and used ring.

        Raises:
            ProtocolError: one is misaligned, or does not lie wholly in one region.
        """
        parts = (
            (address.descriptors, split.table_size(self.size), split.TABLE_ALIGN),
            (address.available, split.available_size(self.size), split.AVAILABLE_ALIGN),
            (address.used, split.used_size(self.size), split.USED_ALIGN),
        )
        found = [guest_address(regions, user, length) for user, length, _ in parts]
        for guest, (_, _, align) in zip(found, parts, strict=True):
            if guest % align:
                raise ProtocolError(
                    f"a part of queue {self.index} at {guest:#x} is not aligned to {align} bytes", section="2.7"
                )
        return found[0], found[1], found[2]

    def places(self, regions: list[SharedRegion]) -> tuple[int, int, int] | None:
        """Return where the ring lies in ``regions`` as `locate` does, None where it is not in them."""
        try:
            return self.locate(self.address, regions) if self.address else None
        except ProtocolError:
            return None

    def set_address(self, address: VringAddr | None) -> None:
        """Take note of where the ring lies now."""
        self.address = address
        self.address_is_old = False

    def can_resume(self, regions: list[SharedRegion]) -> bool:
        """Return whether a ring lies at an old address that goes on from where the last one stopped.

        The driver may have put something else there since, and SET_VRING_ADDR may be still to come.
        """
        if not (places := self.places(regions)):
            return False
        try:
            published = int.from_bytes(read_memory(regions, places[1] + 2 * split.IDX, 2), "little")
        except (ProtocolError, OSError):
            return False
        return (published - self.base) & 0xFFFF <= self.size

    def setup(self, regions: list[SharedRegion], features: int, inflight: tuple[int, int, int] | None) -> QueueSetup:
        """Return what the host needs to run the queue; raises as `locate` does."""
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

    def replace_fd(self, name: str, fd: int) -> int:
        """Take over the ``kick``, ``call`` or ``err`` descriptor, or none (-1); return the one before, to be closed."""
        old, self._fds[name] = self._fds[name], fd
        return old

    def signal(self, name: str) -> None:
        """Send an event through the ``call`` or ``err`` descriptor, if the front-end gave one."""
        signal(self._fds[name])

    def reset(self) -> None:
        """Forget what the driver set up; the descriptors for interrupts and errors are the front-end's and stay."""
        self.size = self.declared_size
        self.base = 0
        self.set_address(None)
        self.apply(RingEvent.STOP)
        self.close_fd("kick")

    def close_fd(self, name: str) -> None:
        """Close a descriptor, if there is one."""
        old = self.replace_fd(name, -1)
        if old >= 0:
            os.close(old)

    def close(self) -> None:
        """Close the event descriptors."""
        for name in self._fds:
            self.close_fd(name)
