"""The worker process: a `DeviceRunner` that takes the keeper's commands."""

from __future__ import annotations

import os
import signal

from pyvirtio.errors import LocalError, UsageError
from pyvirtio.host.introduction import Introduction
from pyvirtio.host.journal_file import map_journal
from pyvirtio.host.messages import setup_from_json
from pyvirtio.memory.files import map_file
from pyvirtio.runtime import DeviceRunner
from pyvirtio.system import log
from pyvirtio.transport import Completion, FileRegion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device import Device
    from pyvirtio.host.channel import Channel
    from pyvirtio.host.loader import DeviceLoader
    from pyvirtio.ring import Journal
    from pyvirtio.runtime.loop import RunnerLoop
    from pyvirtio.transport import QueueSetup

    Done = Callable[[object], None]


def run_worker(
    channel: Channel,
    heartbeat: memoryview,
    new_loader: Callable[[], DeviceLoader],
    new_runner: Callable[..., DeviceRunner] = DeviceRunner,
) -> None:
    """Load the device, introduce it to the keeper, and serve until the keeper says otherwise."""
    try:
        loader = new_loader()
        worker = Worker(channel, heartbeat, loader, new_runner)
    except LocalError as error:
        channel.send("failed", why=str(error), usage=isinstance(error, UsageError))
        return
    except Exception as error:  # noqa: BLE001  # a constructor may raise anything; the keeper must be told
        log.warning("device-unloadable", f"the device cannot be made: {error!r}", error)
        channel.send("failed", why=f"the device cannot be made: {type(error).__name__}: {error}", usage=False)
        return
    worker.introduce(loader)
    worker.run()


class Worker:
    """Runs the queues that the keeper hands over."""

    def __init__(
        self,
        channel: Channel,
        heartbeat: memoryview,
        loader: DeviceLoader,
        new_runner: Callable[..., DeviceRunner],
    ) -> None:
        device = loader.new_device()
        self._channel = channel
        self._patience = device.patience
        self._needs_one_worker = device.needs_one_worker
        self._regions: dict[int, FileRegion] = {}
        self._files: dict[int, Callable[[], Journal]] = {}
        self._fds: dict[int, dict[str, int]] = {}
        self._left = False
        self._loop = self._new_loop(device, heartbeat)
        self._runner = new_runner(
            device,
            log.warning,
            loop=self._loop,
            new_journal=lambda setup: self._files.pop(setup.index)(),
            renew=loader.new_device,
            stuck=_die,
            heartbeat=heartbeat,
        )
        self._runner.events = self
        self._runner.watch(channel.fileno(), self._take_command)
        self._commands: dict[str, Callable[..., None]] = {
            "keep": self._keep,
            "memory": self._set_memory,
            "start": self._start,
            "stop": self._stop,
            "kick": self._kick,
            "set_kick": self._set_kick,
            "set_interrupt": self._set_interrupt,
            "config": self._load_config,
            "reset": self._reset,
            "leave": self._leave,
        }

    @staticmethod
    def _new_loop(device: Device, heartbeat: memoryview) -> RunnerLoop | None:
        if not device.is_async:
            return None
        from pyvirtio.runtime.loop import RunnerLoop

        return RunnerLoop(heartbeat)

    def introduce(self, loader: DeviceLoader) -> None:
        """Report to the keeper what the device is, and from which sources it was loaded."""
        Introduction(
            self._runner.description,
            patience=self._patience,
            needs_one_worker=self._needs_one_worker,
            watched=loader.watched(),
            sources=loader.sources,
        ).send(self._channel)

    def run(self) -> None:
        """Serve until the keeper says `leave`, or is gone."""
        if self._loop is None:
            while not self._left:
                self._runner.step(None)
            self._runner.close()
            return
        import asyncio

        self._loop.serve(self._runner)
        if tasks := self._runner.close():
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.close()

    def _end(self) -> None:
        self._left = True
        if self._loop is not None:
            self._loop.stop()

    def _take_command(self) -> None:
        received = self._channel.receive()
        if received is None:
            self._end()
            return
        kind, fields, fds = received
        number = fields.pop("number")
        self._commands[kind](lambda result: self._channel.send("done", number=number, result=result), fds, **fields)

    # What the runtime reports.

    def queue_broken(self, index: int) -> None:
        """Report it to the keeper."""
        self._channel.send("broken", queue=index)

    def config_changed(self) -> None:
        """Report it to the keeper, which notifies the driver and the other workers."""
        self._channel.send("config", changes=self._runner.config.last_changes, notify=True)

    # What the keeper says. `done` acknowledges it.

    def _keep(self, done: Done, fds: list[int]) -> None:
        self._runner.keep(_mapped(fds))
        done(None)

    def _set_memory(self, done: Done, fds: list[int], drop: list[int], add: list[list[int]]) -> None:
        for number in drop:
            self._regions.pop(number, None)
        added = []
        for (number, base, size, offset), fd in zip(add, fds, strict=True):
            self._regions[number] = FileRegion(base, size, fd, offset)
            added.append(fd)
        self._runner.set_memory(list(self._regions.values()))
        for fd in added:
            os.close(fd)
        done(None)

    def _start(
        self,
        done: Done,
        descriptors: list[int],
        setup: list[int],
        journal: list[int],
        names: list[str],
        stop: bool,
        fail_suspects: bool,
    ) -> None:
        own = dict(zip(names, descriptors, strict=True))
        ledger, region = own.pop("ledger"), own.pop("region")
        queue: QueueSetup = setup_from_json(setup, kick_fd=own.get("kick", -1), interrupt_fd=own.get("interrupt", -1))
        offset, length = journal
        self._fds[queue.index] = own
        self._files[queue.index] = lambda: map_journal(queue.size, ledger, (region, offset, length))
        self._runner.start_queue(queue)
        os.close(ledger)
        os.close(region)
        if stop:
            self._stop(done, [], queue.index, fail_suspects)
        else:
            done(None)

    def _stop(self, done: Done, _fds: list[int], queue: int, fail_suspects: bool) -> None:
        def stopped(position: int) -> None:
            self._close_fds(queue)
            done(position)

        self._runner.stop_queue(queue, fail_suspects=fail_suspects).then(stopped)

    def _close_fds(self, index: int) -> None:
        for fd in self._fds.pop(index, {}).values():
            os.close(fd)

    def _kick(self, done: Done, _fds: list[int], queue: int) -> None:
        self._runner.kick(queue)
        done(None)

    def _set_kick(self, done: Done, fds: list[int], queue: int) -> None:
        self._runner.set_kick(queue, fds[0] if fds else -1)
        self._exchange(queue, "kick", fds)
        done(None)

    def _set_interrupt(self, done: Done, fds: list[int], queue: int) -> None:
        self._runner.set_interrupt(queue, fds[0] if fds else -1)
        self._exchange(queue, "interrupt", fds)
        done(None)

    def _exchange(self, index: int, name: str, fds: list[int]) -> None:
        own = self._fds.get(index)
        if own is None:
            for fd in fds:
                os.close(fd)
            return
        if (old := own.pop(name, -1)) >= 0:
            os.close(old)
        if fds:
            own[name] = fds[0]

    def _load_config(self, done: Done, _fds: list[int], changes: list[tuple[int, int]], by_driver: bool) -> None:
        config = self._runner.config
        config.apply(changes)
        if answer := config.give_written(self._runner.device, by_driver=by_driver):
            self._channel.send("config", changes=answer, notify=False)
        done(None)

    def _reset(self, done: Done, fds: list[int]) -> None:
        def is_reset(_none: None) -> None:
            for index in list(self._fds):
                self._close_fds(index)
            done(None)

        self._runner.reset(_mapped(fds)).then(is_reset)

    def _leave(self, _done: Done, _fds: list[int]) -> None:
        stopping: list[Completion[int]] = [self._runner.stop_queue(index) for index in list(self._fds)]
        Completion.all(stopping).then(lambda _none: self._end())


def _mapped(fds: list[int]) -> memoryview | None:
    """Return the memory that came along with a command, if any."""
    for fd in fds:
        try:
            return map_file(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)
    return None


def _die(reason: str) -> None:
    """End this process: memory that a request lent is still being used, and only that takes it away."""
    log.warning("request-stuck", f"{reason}; the worker ends")
    os.kill(os.getpid(), signal.SIGKILL)
