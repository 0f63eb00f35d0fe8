"""A vhost-user back-end whose device does what a test tells it to: to try a guest's driver against it.

::

    def wrong_id(device, head):
        device.add_used((head ^ 1, 4))

    with HostileBackend("/tmp/h.sock", description, wrong_id) as backend:
        ...                                    # the guest asks, and the device answers so
        backend.behave = another

The protocol is spoken as it should be; only what goes into the rings is hostile.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from copy import copy

from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.files import map_file
from pyvirtio.server import Server
from pyvirtio.spec.features import Feature
from pyvirtio.system.eventfd import drain, signal
from pyvirtio.system.listener import listen
from pyvirtio.testing.raw_device import RawDevice
from pyvirtio.transport import Completion, DeviceHost
from pyvirtio.vhost_user.backend import BackendSession

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from pyvirtio.transport import DeviceDescription, FileRegion, QueueSetup

    Behaviour = Callable[[RawDevice, int], None]


class HostileBackend(DeviceHost):
    """Serves one front-end after the other on the socket ``path``, in a thread.

    ``behave`` is called with the raw device and the head of each request; an interrupt follows in any case. It may
    be replaced at any time.
    """

    def __init__(self, path: str, description: DeviceDescription, behave: Behaviour) -> None:
        self.description = copy(description)
        # A raw device does not say at which index it wants the next kick, so it gets them all.
        self.description.features &= ~Feature.EVENT_IDX
        self.behave = behave
        self.refused: list[str] = []
        """The messages of the front-end that were refused."""
        self.requests = 0
        """How many requests came."""
        self._path = path
        self._memory = MemoryTable()
        self._queues: dict[int, tuple[QueueSetup, RawDevice]] = {}
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as exits:
            listener = exits.enter_context(listen(self._path))
            server = Server(self, lambda host: BackendSession(host, self.refused.append), listener=listener)
            exits.callback(server.close)
            ours, theirs = socket.socketpair()
            exits.enter_context(theirs)
            thread = threading.Thread(target=self._run, args=(server, theirs), name="hostile-back-end", daemon=True)
            exits.callback(thread.join)
            exits.enter_context(ours)
            thread.start()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()
        self._memory = MemoryTable()  # a mapping holds a descriptor of its file

    # The thread.

    def _run(self, server: Server, end: socket.socket) -> None:
        """Serve the connection and its kicks until the other side of ``end`` is closed."""
        while True:
            kicks = {setup.kick_fd: index for index, (setup, _) in self._queues.items()}
            poll = select.poll()
            for fd in (server.fileno(), end.fileno(), *kicks):
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            if end.fileno() in ready:
                return
            for fd in ready & kicks.keys():
                drain(fd)
                self._serve(*self._queues[kicks[fd]])
            server.step()

    def _serve(self, setup: QueueSetup, device: RawDevice) -> None:
        for head in device.heads():
            self.requests += 1
            self.behave(device, head)
        signal(setup.interrupt_fd)

    # What the session asks.

    def set_memory(self, regions: Sequence[FileRegion]) -> Completion[None]:
        """Map the guest's memory."""
        self._memory = MemoryTable(Region(r.base, map_file(r.fd, r.offset, r.size)) for r in regions)
        return Completion.of(None)

    def start_queue(self, setup: QueueSetup) -> None:
        """Take a queue up, or go on under a changed setup."""
        known = self._queues.get(setup.index)
        device = known[1] if known else RawDevice.of(self._memory, setup)
        self._queues[setup.index] = (setup, device)

    def stop_queue(self, index: int) -> Completion[int]:
        """Let go of a queue."""
        used: int = self._queues.pop(index)[1].used_idx
        return Completion.of(used)

    def kick(self, index: int) -> None:
        """Serve the queue."""
        self._serve(*self._queues[index])

    def set_kick(self, index: int, fd: int) -> None:
        """Take note of another kick eventfd."""
        self._queues[index][0].kick_fd = fd

    def set_interrupt(self, index: int, fd: int) -> None:
        """Take note of another interrupt eventfd."""
        self._queues[index][0].interrupt_fd = fd

    def config_generation(self) -> int:
        """Return 0: it never changes."""
        return 0

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the description's configuration space."""
        return self.description.config[offset : offset + length]

    def write_config(self, *_: object, by_driver: bool = True) -> Completion[None]:  # noqa: ARG002  # ignored
        """Ignore what is written."""
        return Completion.of(None)

    def reset(self) -> Completion[None]:
        """There is nothing to reset."""
        return Completion.of(None)
