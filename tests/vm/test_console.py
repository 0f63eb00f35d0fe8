"""The console is read without a pause, kept in bounds, and waited for without a poll."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pyvirtio.vm.console import HISTORY, LONGEST_LINE, Console, printable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pipe() -> Iterator[tuple[Console, int]]:
    reading, writing = os.pipe()
    console = Console(reading)
    yield console, writing
    if not console.ended:
        os.close(writing)
    assert console.wait_for_end(10)


def end(console: Console, writing: int) -> None:
    os.close(writing)
    assert console.wait_for_end(10)


def test_lines_arrive_in_pieces(pipe: tuple[Console, int]) -> None:
    console, writing = pipe
    for piece in (b"a", b"b\r\nc", b"d\n"):
        os.write(writing, piece)
    assert console.wait_for(lambda line: line == "cd", 10) == ["ab", "cd"]


def test_waiting_goes_on_where_it_stopped(pipe: tuple[Console, int]) -> None:
    console, writing = pipe
    os.write(writing, b"one\ntwo\nthree\n")
    assert console.wait_for(lambda line: line == "two", 10) == ["one", "two"]
    assert console.wait_for(lambda line: line == "three", 10) == ["three"]
    assert console.wait_for(lambda line: line == "one", 0.01) is None


def test_the_end_ends_the_wait(pipe: tuple[Console, int]) -> None:
    console, writing = pipe
    os.write(writing, b"last words")
    end(console, writing)
    assert console.wait_for(lambda _: False, 60) is None
    assert console.last_lines() == ["last words"]
    assert console.ended


def test_history_and_lines_are_bounded(pipe: tuple[Console, int]) -> None:
    console, writing = pipe
    os.write(writing, b"".join(b"%d\n" % i for i in range(1000)))
    data = b"x" * (LONGEST_LINE + 10)
    while data:
        data = data[os.write(writing, data) :]
    end(console, writing)
    assert len(console.last_lines()) == HISTORY
    assert max(map(len, console.last_lines())) <= LONGEST_LINE


def test_a_panic_is_noticed(pipe: tuple[Console, int]) -> None:
    console, writing = pipe
    os.write(writing, b"[ 1.0] Kernel panic - not syncing: VFS\n[ 1.1] Kernel panic again\n")
    end(console, writing)
    assert console.panic == "[ 1.0] Kernel panic - not syncing: VFS"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain\r", "plain"),
        (b"\x1b[2J\x1b[01;01Hfirmware", "firmware"),
        (b"\x1b[1;32mcolour\x1b[0m", "colour"),
        (b"bell\x07 and null\x00", "bell and null"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"tab\tstays", "tab\tstays"),
    ],
)
def test_control_characters_of_a_guest_never_reach_a_terminal(raw: bytes, text: str) -> None:
    assert printable(raw) == text
