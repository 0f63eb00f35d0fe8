"""A `DeviceHost` that runs nothing, and a front-end's side of a session without a socket."""

from __future__ import annotations

import os
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from pyvirtio.spec import split
from pyvirtio.system.eventfd import signal
from pyvirtio.transport import Completion, DeviceDescription, DeviceHost
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.backend import BackendSession
from pyvirtio.vhost_user.framing import Framer, close_all, encode
from tests.support.vhost import open_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import FileRegion, Outgoing, QueueSetup
    from pyvirtio.vhost_user.framing import Frame

SIZE = 1 << 16
VERSION_1 = 1 << 32
R = m.Request


class FakeHost(DeviceHost):
    """Checks that it is asked only for what can be done, and notes it.

    Where it is ``late``, nothing is done before the test completes what it finds in ``pending``, by its name.
    ``consumed`` are the requests that a queue has taken when it is stopped.
    """

    def __init__(self, *, queues: int = 2, late: bool = False) -> None:
        self.description = DeviceDescription("Fake", 63, VERSION_1, [16] * queues, bytes(16), b"\xff" * 12 + bytes(4))
        self.config = bytearray(16)
        self.running: dict[int, QueueSetup] = {}
        self.regions: list[FileRegion] = []
        self.calls: list[str] = []
        self.consumed: dict[int, int] = {}
        self.late = late
        self.pending: dict[str, tuple[Completion[Any], Any]] = {}

    def _later(self, name: str, result: Any) -> Completion[Any]:
        self.calls.append(name)
        completion = Completion[Any]()
        if self.late:
            assert name not in self.pending
            self.pending[name] = completion, result
        else:
            completion.complete(result)
        return completion

    def complete(self, *names: str) -> None:
        """Complete what is pending, in this order."""
        for name in names:
            completion, result = self.pending.pop(name)
            completion.complete(result)

    def complete_all(self) -> None:
        """Complete what is pending, and what that leads to."""
        while self.pending:
            self.complete(*self.pending)

    def set_memory(self, regions: Sequence[FileRegion]) -> Completion[None]:
        for region in regions:
            assert os.fstat(region.fd).st_size >= region.offset + region.size
        self.regions = list(regions)
        for setup in self.running.values():
            self._check_areas(setup)
        return self._later("memory", None)

    def _check_areas(self, setup: QueueSetup) -> None:
        areas = (
            (setup.descriptor_area, split.table_size(setup.size), split.TABLE_ALIGN),
            (setup.driver_area, split.available_size(setup.size), split.AVAILABLE_ALIGN),
            (setup.device_area, split.used_size(setup.size), split.USED_ALIGN),
        )
        for start, length, align in areas:
            assert not start % align
            assert any(r.base <= start and start + length <= r.base + r.size for r in self.regions)

    def start_queue(self, setup: QueueSetup) -> None:
        assert setup.index not in self.running
        self._check_areas(setup)
        self.running[setup.index] = setup
        self.calls.append(f"start {setup.index}")

    def kick(self, index: int) -> None:
        assert index in self.running

    def set_kick(self, index: int, fd: int) -> None:
        self.running[index].kick_fd = fd
        self.calls.append(f"kick {index}")

    def set_interrupt(self, index: int, fd: int) -> None:
        self.running[index].interrupt_fd = fd
        self.calls.append(f"interrupt {index}")
        signal(fd)

    def stop_queue(self, index: int) -> Completion[int]:
        position = self.running.pop(index).position + self.consumed.get(index, 0)
        return self._later(f"stop {index}", position & 0xFFFF)

    def read_config(self, offset: int, length: int) -> bytes:
        assert offset + length <= 16
        return bytes(self.config[offset : offset + length])

    def config_generation(self) -> int:
        return 0

    def write_config(self, offset: int, data: bytes, *, by_driver: bool = True) -> Completion[None]:
        assert offset + len(data) <= 16
        self.config[offset : offset + len(data)] = data
        return self._later("config", None)

    def reset(self) -> Completion[None]:
        assert not self.running
        return self._later("reset", None)


class Frontend:
    """Speaks to a session of a `FakeHost`. What it opens, `close` closes."""

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host = host or FakeHost()
        self.refused: list[str] = []
        self.session = BackendSession(self.host, self.refused.append)
        self.sent: list[Outgoing] = []
        self._framer = Framer(m.MAXIMUM_PAYLOAD, replies=True)
        self._fds: list[int] = []
        self._names = count()
        self._is_closed = False

    # Messages.

    def send(
        self, request: int, payload: Struct | bytes = b"", fds: Sequence[int] = (), *, flags: int = m.F_NEED_REPLY
    ) -> None:
        """Send a message with copies of ``fds``."""
        data = payload if isinstance(payload, bytes) else payload.pack()
        self.session.receive(encode(request, data, flags), [os.dup(fd) for fd in fds])

    def replies(self) -> list[Frame]:
        """Take what came back on the connection; what goes elsewhere is put into ``sent``."""
        outgoing = self.session.outgoing()
        self.sent += [message for message in outgoing if message.socket is not None]
        frames = [self._framer.feed(message.data, message.fds) for message in outgoing if message.socket is None]
        return [frame for (frame,) in frames]

    def ask(self, request: int, payload: Struct | bytes = b"", fds: Sequence[int] = ()) -> Frame:
        """Send a message and take its reply."""
        self.send(request, payload, fds)
        (frame,) = self.replies()
        assert frame.request == request
        return frame

    def tell(self, request: int, payload: Struct | bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Send a message and return whether it was accepted."""
        return not m.Number.unpack(self.ask(request, payload, fds).payload).value

    def number(self, request: int) -> int:
        """Ask something whose answer is a number."""
        return m.Number.unpack(self.ask(request).payload).value

    # Descriptors.

    def eventfd(self) -> int:
        return self._keep(os.eventfd(0, os.EFD_NONBLOCK))

    def memory(self, size: int = SIZE) -> int:
        fd = os.memfd_create(f"memory-{next(self._names)}", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        return self._keep(fd)

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    # The ordinary sequence.

    def negotiate(self, features: int = VERSION_1 | m.F_PROTOCOL_FEATURES) -> None:
        assert self.tell(R.SET_PROTOCOL_FEATURES, m.Number(sum(m.Protocol)))
        assert self.tell(R.SET_FEATURES, m.Number(features))

    def share(self, fd: int | None = None, *, guest: int = 0, user: int = SIZE) -> int:
        """Share 64 KiB of memory, by default new; return its descriptor."""
        fd = self.memory() if fd is None else fd
        table = m.MemoryHeader(1).pack() + m.MemoryRegion(guest, SIZE, user, 0).pack()
        self.send(R.SET_MEM_TABLE, table, [fd])
        return fd

    def ring(self, index: int = 0, *, at: int = 0, size: int = 16, base: int = 0) -> dict[str, tuple[Any, ...]]:
        """Return the messages that set a ring up at the offset ``at``, by their names, in the order of QEMU."""
        start = SIZE + at
        return {
            "num": (R.SET_VRING_NUM, m.VringState(index, size)),
            "base": (R.SET_VRING_BASE, m.VringState(index, base)),
            "addr": (R.SET_VRING_ADDR, m.VringAddr(index, 0, start, start + 0x600, start + 0x400, 0)),
            "kick": (R.SET_VRING_KICK, m.Number(index), [self.eventfd()]),
            "call": (R.SET_VRING_CALL, m.Number(index), [self.eventfd()]),
            "enable": (R.SET_VRING_ENABLE, m.VringState(index, 1)),
        }

    def start(self, index: int = 0) -> None:
        """Start a ring at an offset of its own."""
        for message in self.ring(index, at=0x1000 * index).values():
            assert self.tell(*message)

    def stop(self, index: int = 0) -> int:
        """Stop a ring; return where it goes on."""
        return m.VringState.unpack(self.ask(R.GET_VRING_BASE, m.VringState(index)).payload).num

    def close(self) -> None:
        """Close the session, and all descriptors; may be called twice."""
        if not self._is_closed:
            self.session.close()
        self._is_closed = True
        self._framer.close()
        close_all(self._fds)
        self._fds.clear()


@contextmanager
def unknown_frontend() -> Iterator[Frontend]:
    """Yield a front-end that has said nothing yet; once it is closed, no file is left open."""
    before = open_files()
    frontend = Frontend()
    yield frontend
    frontend.close()
    assert open_files() == before


@contextmanager
def negotiated_frontend() -> Iterator[Frontend]:
    """Yield a front-end that has negotiated and shared memory; once it is closed, no file is left open."""
    with unknown_frontend() as frontend:
        frontend.negotiate()
        frontend.share()
        frontend.replies()
        yield frontend
