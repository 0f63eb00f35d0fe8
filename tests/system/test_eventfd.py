"""Event descriptors: eventfds, pipes and sockets, as a hostile peer sends them."""

from __future__ import annotations

import contextlib
import os
import signal as signals
import socket
from typing import TYPE_CHECKING

import pytest

from pyvirtio.system.eventfd import Notifier, can_be_awaited, can_be_signalled, drain, is_eventfd, signal
from pyvirtio.testing.frontend import wait_readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ["eventfd", "pipe", "stream socket", "datagram socket"]


@contextlib.contextmanager
def event_fds(kind: str) -> Iterator[tuple[int, int]]:
    """Yield a descriptor to await events on, and one to signal."""
    if kind == "eventfd":
        fds = (os.eventfd(0, os.EFD_NONBLOCK),) * 2
    elif kind == "pipe":
        fds = os.pipe()
    else:
        pair = socket.socketpair(type=socket.SOCK_STREAM if kind == "stream socket" else socket.SOCK_DGRAM)
        fds = (pair[0].detach(), pair[1].detach())
    try:
        yield fds
    finally:
        for fd in set(fds):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def sigpipe_kills() -> Iterator[None]:
    """Let SIGPIPE do what it does in a program that did not ask Python to leave it ignored."""
    old = signals.signal(signals.SIGPIPE, signals.SIG_DFL)
    yield
    signals.signal(signals.SIGPIPE, old)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_arrives_and_is_taken(kind: str):
    with event_fds(kind) as (awaited, signalled):
        assert can_be_awaited(awaited)
        assert can_be_signalled(signalled)
        notifier = Notifier(signalled)
        for _ in range(3):
            assert not wait_readable(awaited, 0)
            notifier.notify()
            notifier.notify()
            assert wait_readable(awaited, 0)
            assert drain(awaited)
        assert not wait_readable(awaited, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocking", [False, True], ids=["nonblocking", "made blocking by the peer"])
def test_no_room_for_another_event_counts_as_delivered(kind: str, blocking: bool):
    with event_fds(kind) as (awaited, signalled):
        os.set_blocking(signalled, False)
        with contextlib.suppress(BlockingIOError):
            if kind == "eventfd":
                os.eventfd_write(signalled, (1 << 64) - 2)
            while kind != "eventfd":
                os.write(signalled, bytes(8))
        os.set_blocking(signalled, blocking)
        notifier = Notifier(signalled)
        for _ in range(10):
            notifier.notify()
        assert wait_readable(awaited, 0)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_signalling_a_peer_that_is_gone_harms_nobody(sigpipe_kills: None, kind: str):
    with event_fds(kind) as (awaited, signalled):
        notifier = Notifier(signalled)
        os.close(awaited)
        for _ in range(3):
            notifier.notify()
            signal(signalled)


@pytest.mark.parametrize("kind", ["pipe", "stream socket"])
def test_drain_says_when_nothing_can_arrive_any_more(kind: str):
    with event_fds(kind) as (awaited, signalled):
        signal(signalled)
        os.close(signalled)
        assert not drain(awaited)
        assert not drain(awaited)


@pytest.mark.parametrize("kind", KINDS)
def test_drain_does_not_wait(kind: str):
    with event_fds(kind) as (awaited, _):
        os.set_blocking(awaited, True)
        assert drain(awaited)


def test_drain_is_bounded_where_the_peer_writes_without_end():
    with event_fds("pipe") as (awaited, signalled):
        os.set_blocking(signalled, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(signalled, bytes(4096))
        assert drain(awaited)
    semaphore = os.eventfd(1000, os.EFD_SEMAPHORE)
    assert drain(semaphore)
    assert wait_readable(semaphore, 0)
    os.close(semaphore)


def test_nobody_wants_to_know():
    Notifier(-1).notify()
    signal(-1)


def test_wrong_ends_and_what_carries_no_events(tmp_path: Path):
    reading, writing = os.pipe()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(bytes(8))
    others = [
        os.open(tmp_path / "file", os.O_RDWR),
        os.open(tmp_path, os.O_RDONLY),
        os.open(tmp_path / "fifo", os.O_PATH),
        os.open("/dev/null", os.O_RDWR),
        os.memfd_create("[eventfd]"),
    ]
    assert not can_be_signalled(reading)
    assert not can_be_awaited(writing)
    for fd in others:
        assert not can_be_signalled(fd)
        assert not can_be_awaited(fd)
        assert not is_eventfd(fd)
    for fd in (reading, writing, *others):
        os.close(fd)
