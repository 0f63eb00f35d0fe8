"""Descriptors over a socket: too many of them, and no room for them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProtocolError
from pyvirtio.system.fd_passing import receive, send
from tests.support.vhost import no_more_descriptors, open_files

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_more_descriptors_than_are_wanted_are_refused_and_closed(pair: tuple[socket.socket, socket.socket]):
    send(pair[0], b"x", [0] * 9)
    before = open_files()
    with pytest.raises(ProtocolError):
        receive(pair[1], 100, 8)
    assert open_files() == before


def test_descriptors_that_this_process_may_not_open_are_left_out(pair: tuple[socket.socket, socket.socket]):
    send(pair[0], b"message", [0] * 8)
    with no_more_descriptors(spare=3):
        data, fds = receive(pair[1], 100, 8)
        for fd in fds:
            os.close(fd)
    assert (data, len(fds)) == (b"message", 3)
