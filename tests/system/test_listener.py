"""Listening sockets: nobody's is taken away, none is left behind, and one may be inherited."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import LocalError
from pyvirtio.system import listener
from pyvirtio.system.listener import inherited, listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
def live(path: str) -> Iterator[socket.socket]:
    """A socket of somebody else's at the path."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(1)
        yield sock
    os.unlink(path)


def leave_dead_socket(path: str) -> int:
    """Leave a socket as a process does that was killed; return its inode."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        return os.stat(path).st_ino


def connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


def test_it_is_there_while_it_listens_and_for_this_user_only(path: str):
    with listen(path):
        assert connects(path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not os.path.exists(path)


def test_it_is_removed_when_the_block_fails(path: str):
    with pytest.raises(KeyError), listen(path):
        raise KeyError
    assert not os.path.exists(path)


def test_the_process_s_mask_is_as_before(path: str):
    mask = os.umask(0o022)
    try:
        with listen(path):
            pass
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(mask)


def test_what_a_dead_process_left_is_replaced(path: str):
    leave_dead_socket(path)
    with listen(path):
        assert connects(path)


def test_a_live_socket_is_never_taken_away(path: str, live: socket.socket):
    before = os.stat(path).st_ino
    with pytest.raises(LocalError), listen(path):
        pass
    assert os.stat(path).st_ino == before
    assert connects(path)


def test_a_live_socket_that_is_too_busy_to_accept_is_never_taken_away(path: str, live: socket.socket):
    """As many front-ends wait as can: the next one's connection does not come through."""
    before = os.stat(path).st_ino
    waiting = []
    try:
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            if waiting[-1].connect_ex(path):
                break
        with pytest.raises(LocalError), listen(path):
            pass
        assert os.stat(path).st_ino == before
    finally:
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize("what", ["file", "folder", "link to a file", "dangling link"])
def test_anything_else_is_left_alone(path: str, tmp_path: Path, what: str):
    target = tmp_path / "target"
    if what == "file":
        (tmp_path / "s").write_text("precious")
    elif what == "folder":
        os.mkdir(path)
    else:
        if what == "link to a file":
            target.write_text("precious")
        os.symlink(target, path)
    before = os.lstat(path).st_ino
    with pytest.raises(LocalError), listen(path):
        pass
    assert os.lstat(path).st_ino == before
    assert target.exists() == (what == "link to a file")


@pytest.mark.parametrize("path", ["", "/nowhere/at/all/s", "/tmp/" + "x" * 108], ids=["empty", "no folder", "too long"])
def test_an_impossible_path_is_refused(path: str):
    with pytest.raises(LocalError), listen(path):
        pass


def test_a_socket_that_somebody_made_just_before_is_not_removed(path: str, monkeypatch: pytest.MonkeyPatch):
    """Two start at the same path of a dead third: the slower one must not remove what the faster one made."""
    leave_dead_socket(path)
    is_dead = listener._is_dead
    with socket.socket(socket.AF_UNIX) as faster:

        def is_dead_and_replaced(at: str) -> bool:
            dead = is_dead(at)
            os.rename(at, at + ".old")  # so that its inode is not used again
            faster.bind(at)
            faster.listen()
            return dead

        monkeypatch.setattr(listener, "_is_dead", is_dead_and_replaced)
        with pytest.raises(LocalError), listen(path):
            pass
        assert connects(path)
        os.unlink(path)
        os.unlink(path + ".old")


class Racer:
    """A process that listens at a path when it is told to, says y or n for whether it does, and ends when told to."""

    def __init__(self, path: str) -> None:
        self.ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid:
            theirs.close()
            return
        self.ours.close()
        try:
            theirs.recv(1)
            with listen(path):
                theirs.send(b"y")
                theirs.recv(1)
        except LocalError:
            theirs.send(b"n")
        finally:
            os._exit(0)

    def end(self) -> None:
        self.ours.close()
        os.waitpid(self.pid, 0)


@pytest.mark.long
def test_of_those_who_race_for_the_path_of_a_dead_one_one_gets_it(path: str):
    for _ in range(150):
        leave_dead_socket(path)
        racers = [Racer(path) for _ in range(3)]
        for racer in racers:
            racer.ours.send(b"!")
        heard = [racer.ours.recv(1) for racer in racers]
        found = connects(path)
        for racer in reversed(racers):  # the later ones hold the sockets of those before
            racer.end()
        assert sorted(heard) == [b"n", b"n", b"y"]
        assert found
        assert not os.path.exists(path)


def test_a_lock_that_somebody_else_holds_on_the_folder_delays_and_does_not_hinder(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listener, "LOCK_TIME", 0.05)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with listen(path):
        assert connects(path)
    os.close(folder)


def test_a_socket_that_somebody_put_in_its_place_is_not_removed_in_the_end(path: str):
    with listen(path):
        os.rename(path, path + ".moved")
        leave_dead_socket(path)
    assert os.path.exists(path)
    os.unlink(path)
    os.unlink(path + ".moved")


def test_one_that_is_gone_in_the_end_is_no_error(path: str):
    with listen(path):
        os.unlink(path)


# Inherited.


def test_a_listening_socket_and_a_connected_one_are_told_apart(path: str):
    with listen(path) as ours:
        fd = os.dup(ours.fileno())
        os.set_inheritable(fd, True)
        found, listens = inherited(fd)
        with found:
            assert listens
            assert not os.get_inheritable(fd)
    one, other = socket.socketpair()
    with other:
        found, listens = inherited(one.detach())
        with found:
            assert not listens


def test_what_is_no_unix_stream_socket_is_refused_and_left_open():
    reading, writing = os.pipe()
    with socket.socket(socket.AF_INET) as internet, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        for fd in (reading, internet.fileno(), datagrams.fileno()):
            with pytest.raises(LocalError):
                inherited(fd)
            os.fstat(fd)
    os.close(reading)
    os.close(writing)


def test_a_descriptor_that_is_not_open_is_refused():
    with pytest.raises(LocalError):
        inherited(987)
