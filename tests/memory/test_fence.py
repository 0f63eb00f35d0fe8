"""The fence: whoever calls it, and whatever interrupts it."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio.memory import full_fence, read_barrier, write_barrier

if TYPE_CHECKING:
    from collections.abc import Callable


def in_a_thread(function: Callable[[], object]) -> list[BaseException]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001  # whatever it was, the test sees it
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive()
    return raised


def at_each_step(step: Callable[[], object]) -> None:
    """Run a fence, with ``step`` between each two things that it does."""
    inside = False

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal inside
        if event == "c_return" and not inside:
            inside = True
            try:
                step()
            finally:
                inside = False

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        full_fence()
    finally:
        sys.setprofile(before)


def test_a_fence_in_one_thread_while_another_is_in_the_midst_of_one():
    """Two drivers in two threads have nothing to do with one another."""
    raised: list[BaseException] = []
    at_each_step(lambda: raised.extend(in_a_thread(full_fence)))
    assert raised == []
    full_fence()


def test_a_fence_in_a_signal_handler_in_the_midst_of_one():
    """A handler runs in the same thread, between any two steps."""
    raised = in_a_thread(lambda: at_each_step(full_fence))
    assert raised == []


def test_a_fence_that_was_interrupted_leaves_the_next_one_sound():
    """Somebody types Ctrl-C, and goes on with the driver, or closes it."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    def run() -> None:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                at_each_step(interrupt)
            full_fence()

    assert in_a_thread(run) == []


def test_a_fence_after_a_fork():
    child = os.fork()
    if not child:
        try:
            full_fence()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_weaker_orders_can_be_called():
    read_barrier()
    write_barrier()
