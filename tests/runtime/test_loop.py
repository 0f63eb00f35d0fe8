"""The event loop of a worker: it serves kicks while it waits, and is an event loop of asyncio for everything else."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device import Device, Queue
from pyvirtio.runtime.loop import RunnerLoop
from pyvirtio.spec.struct import Struct, le32
from tests.support.runner import Scene

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Main = Callable[["Served"], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("engine")


class Number(Struct):
    value: int = le32()


class Teller(Device):
    """Doubles numbers, and calls what a test gives it."""

    device_id = 63
    requests = Queue(size=64)

    def __init__(self) -> None:
        self.called: Callable[[], object] = lambda: None

    @requests.stream
    async def answer(self, reader: Any, writer: Any) -> None:
        self.called()
        writer.put(Number(2 * reader.take(Number).value))


class Served(Scene[Teller]):
    """A scene in the loop of a worker."""

    def double(self, value: int) -> None:
        """Send a request and kick."""
        self.submit(Number(value).pack())

    async def answers(self, *values: int) -> None:
        """Wait for the answers, for as long as it takes."""
        while len(found := self.peek()) < len(values):
            await asyncio.sleep(0.001)
        assert found == [Number(value).pack() for value in values]

    def peek(self) -> list[bytes]:
        """Return what has come back, without taking it."""
        raw = self.raws[0]
        number = (raw.used_idx - raw._reaped) & 0xFFFF
        return [raw.answer(raw.used_ring(raw._reaped + at).id) for at in range(number)]


def served(main: Main) -> memoryview:
    """Run a test's coroutine in the loop of a worker that serves a device; return the heartbeat."""
    heartbeat = memoryview(bytearray(8)).cast("Q")
    loop = RunnerLoop(heartbeat)

    async def start() -> Served:
        scene = Served(Teller())
        assert scene._attachment is not None
        scene._attachment.detach()
        scene._attachment = None
        scene.runner.wake_loop = lambda: None
        scene.start()
        return scene

    async def bounded(scene: Served) -> None:
        try:
            await asyncio.wait_for(main(scene), 20)
        finally:
            if not is_over:
                loop.stop()

    scene = loop.run_until_complete(start())
    task = loop.create_task(bounded(scene))
    is_over = False
    loop.serve(scene.runner)
    is_over = True
    if not task.done():
        task.cancel()
    outcome, *_ = loop.run_until_complete(asyncio.gather(task, *scene.close(), return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
        raise outcome
    return heartbeat


def test_kicks_are_served_while_asyncio_waits():
    async def main(scene: Served) -> None:
        threading.Timer(0.01, scene.double, (3,)).start()  # nothing wakes asyncio
        while not scene.peek():
            await asyncio.sleep(0.2)
        await scene.answers(6)

    served(main)


def test_what_a_method_gives_to_asyncio_is_done_before_the_next_kick():
    async def main(scene: Served) -> None:
        loop = asyncio.get_running_loop()
        done: list[int] = []
        gate = loop.create_future()
        scene.device.called = lambda: (loop.call_soon(done.append, 1), loop.call_later(0.001, gate.set_result, None))
        scene.double(4)
        await gate
        assert done == [1]
        await scene.answers(8)

    served(main)


def test_descriptors_timers_threads_and_signals_wake_it():
    async def main(scene: Served) -> None:
        loop = asyncio.get_running_loop()
        arrived: list[str] = []
        come, go = os.pipe()
        loop.add_reader(come, lambda: arrived.append(os.read(come, 9).decode()))
        loop.add_signal_handler(signal.SIGUSR1, arrived.append, "signal")
        loop.call_later(0.005, os.write, go, b"pipe")
        loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
        thread = threading.Timer(0.015, loop.call_soon_threadsafe, (arrived.append, "thread"))
        thread.start()
        while len(arrived) < 3:
            await asyncio.sleep(0.05)
            scene.double(len(arrived))
        assert sorted(arrived) == ["pipe", "signal", "thread"]
        assert loop.remove_reader(come)
        loop.remove_signal_handler(signal.SIGUSR1)
        os.close(come)
        os.close(go)
        thread.join()
        assert await loop.run_in_executor(None, lambda: 5) == 5

    served(main)


def test_asyncio_has_its_turn_although_kicks_never_end():
    async def main(scene: Served) -> None:
        scene.device.called = lambda: os.eventfd_write(scene.kick_fds[0], 1)
        turns = 0
        turn = scene.runner._services[0].turn

        def endless(*arguments: Any, **named: Any) -> bool:
            nonlocal turns
            turns += 1
            os.eventfd_write(scene.kick_fds[0], 1)
            return turn(*arguments, **named)

        scene.runner._services[0].turn = endless  # type: ignore[method-assign]
        os.eventfd_write(scene.kick_fds[0], 1)
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert turns > 5

    served(main)


def test_it_stops_from_within_a_step():
    stopped: list[bool] = []

    async def main(scene: Served) -> None:
        loop = asyncio.get_running_loop()
        scene.device.called = loop.stop
        scene.double(1)
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    served(main)
    assert stopped


def test_a_python_that_does_not_show_what_is_ready_is_only_slower(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RunnerLoop, "__init__", _blind)

    async def main(scene: Served) -> None:
        for value in range(5):
            scene.double(value)
            await asyncio.sleep(0.001)
        await scene.answers(*(2 * value for value in range(5)))

    served(main)


_init = RunnerLoop.__init__


def _blind(loop: RunnerLoop, heartbeat: memoryview) -> None:
    _init(loop, heartbeat)
    loop._steps.look_at(object())  # type: ignore[arg-type]  # it has none of what is looked at


def test_the_heart_beats_while_it_works_and_rests_while_it_waits():
    seen: list[int] = []

    async def main(scene: Served) -> None:
        heartbeat = scene.runner._heartbeat
        scene.device.called = lambda: seen.append(heartbeat[0])
        scene.double(1)
        await scene.answers(2)

    heartbeat = served(main)
    assert seen != [0]
    assert heartbeat[0]
