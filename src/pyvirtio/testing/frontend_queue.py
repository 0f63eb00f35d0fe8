"""A queue of a raw front-end: its rings, its eventfds, and the messages that set it up, one step at a time."""

from __future__ import annotations

import os
import select
import time

from pyvirtio.errors import NoAnswer
from pyvirtio.ring import SplitDriverQueue, SplitLayout
from pyvirtio.spec import split
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyvirtio.testing.frontend import RawFrontend
    from pyvirtio.testing.shared_memory import SharedMemory

PATIENCE = 30.0
"""The seconds after which a back-end that says nothing counts as wedged."""


class RawQueue:
    """A queue of a front-end: its rings in shared memory, its eventfds, and the messages that set it up.

    ``set_*`` send one message each and tell whether it was accepted; keywords replace what would be right.
    ``ring`` is the driver's side, for a script that wants more than `submit`.
    """

    def __init__(self, frontend: RawFrontend, memory: SharedMemory, index: int, size: int) -> None:
        self.frontend = frontend
        self.memory = memory
        self.index = index
        self.size = size
        parts = (split.table_size(size), split.available_size(size), split.used_size(size))
        self.descriptors, self.available, self.used = map(memory.arena.allocate, parts)
        self.rings = SplitLayout(memory.table, size, self.descriptors, self.available, self.used)
        self.ring = SplitDriverQueue(self.rings, memory.table, frontend.features)
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.kick_fd, self.interrupt_fd, self.err_fd = (os.eventfd(0, flags) for _ in range(3))
        self._answers: dict[int, bytes] = {}
        self._submitted = 0
        self._given = 0

    # Setting up.

    def set_num(self, size: int | None = None) -> bool:
        """Send SET_VRING_NUM."""
        return self._state(m.Request.SET_VRING_NUM, self.size if size is None else size)

    def set_base(self, base: int = 0) -> bool:
        """Send SET_VRING_BASE."""
        return self._state(m.Request.SET_VRING_BASE, base)

    def set_addr(self, **changes: int) -> bool:
        """Send SET_VRING_ADDR."""
        user = self.memory.to_user
        address = m.VringAddr(self.index, 0, user(self.descriptors), user(self.used), user(self.available), 0)
        return self.frontend.tell(m.Request.SET_VRING_ADDR, address.replace(**changes))

    def set_kick(self, fd: int | None = None) -> bool:
        """Send SET_VRING_KICK; -1 is the payload's word for no descriptor."""
        return self._event(m.Request.SET_VRING_KICK, self.kick_fd if fd is None else fd)

    def set_call(self, fd: int | None = None) -> bool:
        """Send SET_VRING_CALL; see `set_kick`."""
        return self._event(m.Request.SET_VRING_CALL, self.interrupt_fd if fd is None else fd)

    def set_err(self, fd: int | None = None) -> bool:
        """Send SET_VRING_ERR; see `set_kick`."""
        return self._event(m.Request.SET_VRING_ERR, self.err_fd if fd is None else fd)

    def enable(self, value: int = 1) -> bool:
        """Send SET_VRING_ENABLE."""
        return self._state(m.Request.SET_VRING_ENABLE, value)

    def set_up(self, *, base: int = 0) -> None:
        """Send all but SET_VRING_ENABLE, in the order in which QEMU does."""
        self.set_num()
        self.set_base(base)
        self.set_addr()
        self.set_err()
        self.set_kick()
        self.set_call()

    def start(self, *, base: int = 0) -> None:
        """Set up and enable the queue, and say that the driver is ready."""
        self.set_up(base=base)
        if self.frontend.features & m.F_PROTOCOL_FEATURES:
            self.enable()
        self.frontend.driver_ok()

    def stop(self) -> int:
        """Stop the queue with GET_VRING_BASE; return the available index that comes back."""
        frame = self.frontend.ask(m.Request.GET_VRING_BASE, m.VringState(self.index, 0))
        return m.VringState.unpack(frame.payload).num

    def _state(self, request: m.Request, value: int) -> bool:
        return self.frontend.tell(request, m.VringState(self.index, value))

    def _event(self, request: m.Request, fd: int) -> bool:
        payload = self.index | (m.NO_FD if fd < 0 else 0)
        return self.frontend.tell(request, m.Number(payload), [fd] if fd >= 0 else [])

    # Driving.

    def submit(self, *requests: bytes, room: int = 4, indirect: bool = False) -> None:
        """Put requests on the ring and publish them; `kick` tells the device."""
        for data in requests:
            length = 32 + len(data) + room
            table = self.memory.arena.allocate(length)
            at = table + 32
            self.memory.table.write(at, data)
            token = (self._submitted, at + len(data), table, length)
            self.ring.add(
                [(at, len(data))] if data else [],
                [(at + len(data), room)] if room else [],
                token,
                indirect=table if indirect else None,
            )
            self._submitted += 1
        self.ring.publish()

    def kick(self) -> None:
        """Write the kick eventfd, wanted or not."""
        os.eventfd_write(self.kick_fd, 1)

    def answers(self, number: int, timeout: float = PATIENCE) -> list[bytes]:
        """Wait for the answers to the next ``number`` requests, and return them in the order of submission.

        Raises:
            NoAnswer: they are not all there in time.
            DeviceError: the device broke a rule of the ring.
        """
        wanted = range(self._given, self._given + number)
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.interrupt_fd, select.POLLIN)
        while True:
            self._reap()
            if all(place in self._answers for place in wanted):
                self._given += number
                return [self._answers.pop(place) for place in wanted]
            if self.ring.enable_interrupts():
                continue
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise NoAnswer(f"{number} answers were awaited. The ring:\n{self.ring.describe()}")
            drain(self.interrupt_fd)

    def _reap(self) -> None:
        done: Iterable[tuple[Any, int]] = self.ring.reap()
        for (place, at, base, length), written in done:
            self._answers[place] = self.memory.table.read(at, written)
            self.memory.arena.free(base, length)

    def ask(self, *requests: bytes, room: int = 4, indirect: bool = False) -> list[bytes]:
        """Submit requests, kick, and wait for the answers."""
        self.submit(*requests, room=room, indirect=indirect)
        self.kick()
        return self.answers(len(requests))

    def close(self) -> None:
        """Close the eventfds and let go of the rings."""
        if self.kick_fd >= 0:
            del self.rings, self.ring
        close_all(fd for fd in (self.kick_fd, self.interrupt_fd, self.err_fd) if fd >= 0)
        self.kick_fd = self.interrupt_fd = self.err_fd = -1


def drain(fd: int) -> int:
    """Read an eventfd without waiting; return what it had counted."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def wait_readable(fd: int, timeout: float = PATIENCE) -> bool:
    """Wait until a descriptor can be read; return False when ``timeout`` seconds are over."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
