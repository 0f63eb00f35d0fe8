"""Sits between a front-end and a back-end, passes everything on, and records it.

The tap takes the back-end's place on one socket and the front-end's on another. Memory goes through it as descriptors,
so requests are as fast as without it; kicks and interrupts take one more step, for the tap puts eventfds of its own in
between and looks at the ring before it passes a notification on.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time

from pyvirtio.errors import VirtioError
from pyvirtio.system import log
from pyvirtio.system.eventfd import Notifier, can_be_awaited, can_be_signalled, drain, is_eventfd
from pyvirtio.system.poll_set import PollSet
from pyvirtio.trace.overheard import Overheard
from pyvirtio.trace.relay import Relay
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.connection import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.trace.events import Event
    from pyvirtio.trace.recorder import Recorder
    from pyvirtio.vhost_user.framing import Frame

LOOK_INTERVAL = 0.001
"""The seconds between two looks at queues that were busy lately: a side that polls is not notified."""

LOOK_ON = 0.05
"""The seconds for which queues count as busy after something happened."""

_BROKEN = (VirtioError, OSError)
_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


class Wire:
    """A notification's way through the tap: what arrives at ``incoming`` goes out through ``outgoing``; owns both.

    ``ours`` is the one of them that the tap made. It stays when the front-end brings another descriptor, so nothing
    that is under way is lost.
    """

    def __init__(self, ours: int, arrived: Callable[[int], list[Event]], *, is_kick: bool) -> None:
        self.ours = self.incoming = self.outgoing = ours
        self.arrived = arrived
        self._is_kick = is_kick

    def connect(self, theirs: int) -> None:
        """Take the front-end's end of it, in place of the one before."""
        if self._is_kick:
            old, self.incoming = self.incoming, theirs
        else:
            old, self.outgoing = self.outgoing, theirs
        if old != self.ours:
            os.close(old)
        self.is_eventfd = is_eventfd(self.incoming)
        self._notifier = Notifier(self.outgoing)
        if old != self.ours:
            self._notifier.notify()  # what the old one brought last may not have been seen; one too many harms nobody

    def pass_on(self) -> bool:
        """Pass a notification on; return whether more can come."""
        # An eventfd is not read: its owner could read it at the same time, and a blocking one would stop us.
        more = self.is_eventfd or drain(self.incoming)
        self._notifier.notify()
        return more

    def close(self) -> None:
        """Close both ends."""
        for fd in {self.incoming, self.outgoing}:
            os.close(fd)


class Connection:
    """One front-end and its own connection to the back-end.

    ``poll`` says what is to be waited for; ``record`` takes events.
    """

    def __init__(self, front: socket.socket, back: socket.socket, recorder: Recorder, epoll: select.epoll) -> None:
        self._sockets = [front, back]
        self._recorder = recorder
        self._epoll = epoll
        self._heard = Overheard(recorder.snap)
        self._relays = [
            Relay(front, back, self._from_front, replies=False),
            Relay(back, front, self._from_back, replies=True),
        ]
        self._wires: dict[tuple[int, int], Wire] = {}
        self._by_fd: dict[int, Wire] = {}
        self._polled = PollSet(epoll)
        self.busy_until = 0.0
        self.poll()

    # Messages.

    def _from_front(self, frame: Frame) -> None:
        self._recorder.record(self._heard.front_end(frame, self._recorder.now()))
        if frame.request in _NOTIFICATIONS and len(frame.payload) == m.Number.nbytes:
            self._interpose(frame)
        elif frame.request == m.Request.SET_BACKEND_REQ_FD and frame.fds:
            self._listen_to_channel(frame)

    def _from_back(self, frame: Frame) -> None:
        self._recorder.record(self._heard.back_end(frame, self._recorder.now()))

    def _interpose(self, frame: Frame) -> None:
        """Put an eventfd of ours between the two sides, in place of the one that came."""
        index = m.Number.unpack(frame.payload).value & m.VRING_INDEX
        key = (frame.request, index)
        is_kick = frame.request == m.Request.SET_VRING_KICK
        if not frame.fds:
            if old := self._wires.pop(key, None):
                self._forget(old)
            return
        if not (can_be_awaited if is_kick else can_be_signalled)(frame.fds[0]):
            return  # the back-end will say so
        wire = self._wires.get(key)
        if wire is None:
            what = getattr(self._heard, _NOTIFICATIONS[frame.request])
            ours = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            wire = self._wires[key] = Wire(ours, lambda at: what(index, at), is_kick=is_kick)
        self._unwatch(wire)
        theirs, frame.fds[0] = frame.fds[0], os.dup(wire.ours)
        wire.connect(theirs)
        self._epoll.register(wire.incoming, select.EPOLLIN | (select.EPOLLET if wire.is_eventfd else 0))
        self._by_fd[wire.incoming] = wire

    def _listen_to_channel(self, frame: Frame) -> None:
        """Stand between both sides on the back-end's own channel, too."""
        if not stat.S_ISSOCK(os.fstat(frame.fds[0]).st_mode):
            return
        self._drop_channel()
        front = socket.socket(fileno=frame.fds[0])
        back, theirs = socket.socketpair()
        frame.fds[0] = theirs.detach()
        self._sockets += [front, back]
        self._relays += [
            Relay(back, front, self._from_channel, replies=False),
            Relay(front, back, self._to_channel, replies=True),
        ]

    def _from_channel(self, frame: Frame) -> None:
        self._recorder.record(self._heard.back_end(frame, self._recorder.now(), channel=True))

    def _to_channel(self, frame: Frame) -> None:
        self._recorder.record(self._heard.front_end(frame, self._recorder.now(), channel=True))

    # The loop is the tap's.

    def poll(self) -> None:
        """Wait for each socket to be readable, and writable where something is to be sent."""
        wanted: dict[int, int] = {}
        for relay in self._relays:
            source, target = relay.source.fileno(), relay.target.fileno()
            wanted[source] = wanted.get(source, 0) | (0 if relay.waits else select.EPOLLIN)
            wanted[target] = wanted.get(target, 0) | (select.EPOLLOUT if relay.waits else 0)
        self._polled.want(wanted)

    def deal_with(self, fd: int, events: int) -> str:
        """Do what a descriptor is ready for; return why the connection is over, if it is."""
        if wire := self._by_fd.get(fd):
            self._recorder.record(wire.arrived(self._recorder.now()))
            self.busy_until = time.monotonic() + LOOK_ON
            if not wire.pass_on():
                self._epoll.unregister(fd)
            return ""
        for relay in list(self._relays):
            if relay.target.fileno() == fd:
                try:
                    relay.write()
                except OSError as error:
                    return f"{self._name(fd)} is gone: {error.strerror}"
            if relay.source.fileno() == fd and events & _READABLE and (why := self._read(relay, fd)):
                return why
        return ""

    def _read(self, relay: Relay, fd: int) -> str:
        if relay.waits:  # nothing is read before the other side has room, and this one is gone
            return f"{self._name(fd)} ended it"
        try:
            ended = not relay.read()
        except _BROKEN as error:
            return f"at {self._name(fd)}: {error}"
        if ended and relay in self._relays[:2]:
            return f"{self._name(fd)} ended it"
        if ended:
            self._drop_channel()
        return ""

    def _drop_channel(self) -> None:
        for sock in self._sockets[2:]:
            self._polled.forget(sock.fileno())
        for relay in self._relays[2:]:
            relay.close()
        for sock in self._sockets[2:]:
            sock.close()
        del self._sockets[2:], self._relays[2:]

    def _name(self, fd: int) -> str:
        return "the front-end" if fd == self._sockets[0].fileno() else "the back-end"

    def look(self) -> None:
        """Look at every queue, for what nobody was notified of."""
        now = self._recorder.now()
        events = [event for index in self._heard.rings for event in self._heard.look(index, now, announced=False)]
        if events:
            self.busy_until = time.monotonic() + LOOK_ON
            self._recorder.record(events)

    def _unwatch(self, wire: Wire) -> None:
        if self._by_fd.pop(wire.incoming, None):
            with contextlib.suppress(FileNotFoundError):  # it had ended
                self._epoll.unregister(wire.incoming)

    def _forget(self, wire: Wire) -> None:
        self._unwatch(wire)
        wire.close()

    def close(self) -> None:
        """End the connection on both sides."""
        self.look()  # what it finds at the second time is told as late
        self.look()
        for wire in self._wires.values():
            self._forget(wire)
        self._polled.want({})
        for relay in self._relays:
            relay.close()
        for sock in self._sockets:
            sock.close()
        self._heard.close()


_NOTIFICATIONS = {
    m.Request.SET_VRING_KICK.value: "kicked",
    m.Request.SET_VRING_CALL.value: "interrupted",
    m.Request.SET_VRING_ERR.value: "broke",
}
"""The messages that bring a descriptor for notifications, and what one of those means."""


class Tap:
    """Accepts front-ends at ``listener``, one at a time, and connects each to the back-end at the path ``back``.

    It outlives both: where one of them ends, so does the connection of the other, and the next front-end is accepted.
    Whoever has a loop runs it: `fileno` is readable, or `timeout` is over, when `step` has something to do.
    """

    def __init__(self, listener: socket.socket, back: str, recorder: Recorder) -> None:
        self._listener = listener
        self._back = back
        self._recorder = recorder
        self._epoll = select.epoll()
        self._connection: Connection | None = None
        self.connections = 0
        """How many front-ends have come."""
        listener.setblocking(False)
        self._epoll.register(listener, select.EPOLLIN)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to do."""
        return self._epoll.fileno()

    def timeout(self) -> float | None:
        """Return the seconds until `step` has something to do by itself, None where it has not."""
        if self._connection is None or time.monotonic() >= self._connection.busy_until:
            return None
        return LOOK_INTERVAL

    def step(self) -> None:
        """Pass on and record what there is."""
        if self._connection is not None and self.timeout() is not None:
            self._connection.look()
        for fd, events in self._epoll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif self._connection is not None and (why := self._connection.deal_with(fd, events)):
                self._hang_up(why)
                return
        if self._connection is not None:
            self._connection.poll()

    def _accept(self) -> None:
        try:
            front, _ = self._listener.accept()
        except OSError:  # it went away, or there are no descriptors left: it comes again
            return
        self.connections += 1
        self._recorder.note("front-end", "connected", connection=self.connections)
        try:
            back = connect(self._back, "DEVICE")
        except VirtioError as error:
            front.close()
            self._say_over(str(error))
            return
        log.info("connected", "a front-end is connected")
        self._epoll.unregister(self._listener)
        self._connection = Connection(front, back, self._recorder, self._epoll)

    def _hang_up(self, why: str) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection = None
        self._say_over(why)
        self._epoll.register(self._listener, select.EPOLLIN)

    def _say_over(self, why: str) -> None:
        self._recorder.note("recorder", "disconnected", connection=self.connections, why=why)
        log.info("disconnected", f"connection {self.connections} is over: {why}")

    def close(self) -> None:
        """End the connection, if there is one, and stop polling; the listener is the caller's."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._say_over("the tap ended")
        self._epoll.close()
