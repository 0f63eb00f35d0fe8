"""Connections without a protocol: who is served, who waits, and what ends a connection."""

from __future__ import annotations

import array
import os
import resource
import select
import socket
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProtocolError
from pyvirtio.server import Server, server
from pyvirtio.system import log
from pyvirtio.system.listener import listen
from pyvirtio.transport import Outgoing
from tests.support.hosts import FakeHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


class Session:
    """Echoes what comes; ``late`` makes it wait for its test first, ``wrong`` is what it refuses."""

    def __init__(self) -> None:
        self.wake: Callable[[], object] = lambda: None
        self.late = False
        self.waits = False
        self.closed = False
        self.fds: list[int] = []
        self.received: list[bytes] = []
        self.fails_later = False
        self._outgoing: list[Outgoing] = []

    @property
    def wanted(self) -> int:
        return 0 if self.waits else 64

    def receive(self, data: bytes, fds: Iterable[int]) -> None:
        assert not self.waits
        self.fds += fds
        if data == b"wrong":
            raise ProtocolError("that is wrong")
        self.received.append(data)
        self.waits = self.late
        if not self.waits:
            self.say(data)

    def say(self, data: bytes, fds: Iterable[int] = (), **options: object) -> None:
        self._outgoing.append(Outgoing(data, list(fds), **options))  # type: ignore[arg-type]

    def done(self) -> None:
        """End the wait."""
        self.waits = False
        self.say(self.received[-1])
        self.wake()

    def outgoing(self) -> list[Outgoing]:
        if self.fails_later:
            raise ProtocolError("it cannot be answered")
        messages, self._outgoing = self._outgoing, []
        return messages

    def close(self) -> None:
        self.closed = True
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class Bench:
    """A server on a socket, stepped by a test."""

    def __init__(self, path: str, listener: socket.socket, *, late: bool = False) -> None:
        self.path = path
        self.host = FakeHost(late=late)
        self.sessions: list[Session] = []
        self.server = Server(self.host, self._new_session, listener=listener)
        self.clients: list[socket.socket] = []

    def _new_session(self, _host: object) -> Session:
        self.sessions.append(Session())
        return self.sessions[-1]

    @property
    def session(self) -> Session:
        return self.sessions[-1]

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.clients.append(client)
        client.connect(self.path)
        client.settimeout(10)
        return client

    def connected(self) -> socket.socket:
        client = self.connect()
        self.step()
        return client

    @property
    def is_ready(self) -> bool:
        poll = select.poll()
        poll.register(self.server.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def step(self) -> None:
        """Step for as long as a descriptor says that there is something to do, which must end."""
        for _ in range(20):
            if not self.is_ready:
                return
            self.server.step()
        raise AssertionError("it never has nothing to do")

    def ask(self, client: socket.socket, data: bytes) -> bytes:
        client.sendall(data)
        self.step()
        return client.recv(100)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    path = str(tmp_path / "s")
    with listen(path) as listener:
        bench = Bench(path, listener)
        yield bench
        bench.server.close()
        for client in bench.clients:
            client.close()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is logged as a warning."""
    found: list[str] = []
    monkeypatch.setattr(log, "warning", lambda event, *_: found.append(event))
    return found


def test_what_comes_is_answered(bench: Bench):
    client = bench.connected()
    assert bench.ask(client, b"hello") == b"hello"
    assert bench.ask(client, b"again") == b"again"
    assert bench.session.received == [b"hello", b"again"]


def test_one_front_end_at_a_time_and_the_next_when_the_device_has_forgotten_it(bench: Bench):
    bench.host.late = True
    first, second = bench.connected(), bench.connected()
    assert len(bench.sessions) == 1
    second.sendall(b"me, too")
    first.close()
    bench.step()
    assert bench.sessions[0].closed
    assert len(bench.sessions) == 1  # the device is still being reset
    bench.host.complete("reset")
    bench.step()
    assert len(bench.sessions) == 2
    assert second.recv(100) == b"me, too"
    bench.host.late = False


def test_descriptors_go_to_the_session(bench: Bench):
    client = bench.connected()
    with open(os.devnull) as file:
        client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()] * 3))])
    bench.step()
    assert len(bench.session.fds) == 3


def test_more_descriptors_than_are_read_end_the_connection_and_are_closed(bench: Bench, events: list[str]):
    client = bench.connected()
    number = server.MAX_FDS + 1
    with open(os.devnull) as file:
        client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()] * number))])
    bench.step()
    assert bench.session.closed
    assert events == ["connection-closed"]


def test_what_makes_no_sense_ends_the_connection_and_the_next_one_is_served(bench: Bench, events: list[str]):
    client = bench.connected()
    client.sendall(b"wrong")
    bench.step()
    assert client.recv(10) == b""
    assert events == ["connection-closed"]
    assert bench.ask(bench.connected(), b"right") == b"right"


def test_a_session_that_waits_is_given_no_input_until_it_goes_on(bench: Bench):
    client = bench.connected()
    bench.session.late = True
    client.sendall(b"first")
    bench.step()
    client.sendall(b"second")
    bench.step()
    assert bench.session.received == [b"first"]
    bench.session.late = False
    bench.session.done()
    assert client.recv(100) == b"first"
    bench.step()
    assert client.recv(100) == b"second"


def test_a_front_end_that_hangs_up_while_its_session_waits_is_noticed(bench: Bench):
    client = bench.connected()
    bench.session.late = True
    client.sendall(b"first")
    bench.step()
    client.sendall(b"unread")
    client.close()
    bench.step()
    assert bench.session.closed
    bench.sessions[0].done()  # what it waited for: it is late, and nobody is there
    assert bench.ask(bench.connected(), b"next") == b"next"


def test_a_session_that_fails_after_it_has_waited_ends_the_connection(bench: Bench, events: list[str]):
    client = bench.connected()
    bench.session.late = True
    client.sendall(b"first")
    bench.step()
    bench.session.fails_later = True
    bench.session.done()
    assert client.recv(10) == b""
    assert bench.session.closed
    assert events == ["connection-closed"]


def test_descriptors_that_were_sent_are_closed(bench: Bench):
    client = bench.connected()
    reading, writing = os.pipe()
    bench.session.say(b"here", [reading, writing])
    bench.server.flush()
    data, ancillary, _, _ = client.recvmsg(10, 100)
    assert data == b"here"
    received = array.array("i", ancillary[0][2])
    for fd in (reading, writing):
        if fd not in received:
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(fd)
    for fd in received:
        os.close(fd)


@pytest.mark.parametrize("number", [1, 3])
def test_descriptors_that_nobody_takes_are_closed(bench: Bench, events: list[str], number: int):
    """The front-end is gone: neither the message that fails nor those behind it leave descriptors open."""
    client = bench.connected()
    client.close()
    for _ in range(number):
        bench.session.say(b"x", os.pipe())
    bench.server.flush()
    assert bench.session.closed
    assert events == ["connection-closed"]


def test_a_front_end_that_does_not_read_is_gone_after_a_while(
    bench: Bench, events: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "REPLY_TIME", 0.05)
    bench.connected()
    for _ in range(100):
        bench.session.say(bytes(100_000))
    bench.server.flush()
    assert bench.session.closed
    assert events == ["connection-closed"]


def test_a_channel_beside_the_connection_drops_what_nobody_reads(bench: Bench, events: list[str]):
    client = bench.connected()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(5000):
            bench.session.say(b"x" * 100, socket=theirs.fileno(), lossy=True)
        bench.server.flush()
        assert events == []
        bench.session.say(b"x" * 100, socket=theirs.fileno())
        bench.server.flush()
        assert events == ["channel-full"]
    assert bench.ask(client, b"still here") == b"still here"


def test_without_descriptors_a_front_end_waits_and_nobody_spins(
    bench: Bench, events: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "ACCEPT_INTERVAL", 0.05)
    client = bench.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(client.fileno())
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        for _ in range(3):
            bench.server.step()
            seconds = bench.server.timeout()
            assert seconds is not None
            assert 0 <= seconds <= 0.05
            select.select([], [], [], seconds)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert events == ["connection-failed"]
    bench.server.step()
    bench.step()
    assert len(bench.sessions) == 1
    assert bench.server.timeout() is None
    assert bench.ask(client, b"hello") == b"hello"


def test_a_connected_socket_is_served_and_then_it_has_ended():
    ours, theirs = socket.socketpair()
    sessions: list[Session] = []

    def new_session(_host: object) -> Session:
        sessions.append(Session())
        return sessions[-1]

    served = Server(FakeHost(), new_session, connection=theirs)
    with ours:
        ours.sendall(b"hello")
        served.step()
        assert ours.recv(10) == b"hello"
        assert not served.ended
    served.step()
    assert served.ended
    served.close()


def test_closing_ends_the_connection_and_may_be_followed_by_what_is_late(bench: Bench):
    bench.host.late = True
    client = bench.connected()
    bench.server.close()
    assert client.recv(10) == b""
    assert bench.session.closed
    bench.host.complete("reset")
    bench.session.wake()
    bench.host.late = False


def test_the_device_is_reset_once_its_front_end_is_gone(bench: Bench):
    client = bench.connected()
    assert bench.host.calls == []
    client.close()
    bench.step()
    assert bench.host.calls == ["reset"]


def test_the_completion_of_an_old_session_does_not_disturb_the_new_one(bench: Bench):
    bench.connected().close()
    bench.step()
    client = bench.connected()
    bench.sessions[0].wake()
    assert bench.ask(client, b"hello") == b"hello"
