"""The one runtime of a device: whoever has a loop can run it.

A runner has a descriptor to wait for and a step to take, and leaves everything else to its caller::

    worker process            while serving: runner.step(None)
    asyncio                   loop.add_reader(runner.fileno(), ...)     see `pyvirtio.runtime.loop`
    driver in this process    runner.kick(0); runner.step()
"""

from __future__ import annotations

import select
import time

from pyvirtio.errors import LocalError, PeerError
from pyvirtio.ring import Journal, SplitLayout, device_queue
from pyvirtio.ring.engine import engine
from pyvirtio.runtime.device_config import DeviceConfig
from pyvirtio.runtime.kicks import Kicks
from pyvirtio.runtime.mapped_memory import MappedMemory
from pyvirtio.runtime.runs import Runs, attempt, end_of, retire
from pyvirtio.runtime.services import service_for
from pyvirtio.system.eventfd import Notifier
from pyvirtio.transport import Completion, DeviceHost

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from pyvirtio.device import Device
    from pyvirtio.device.file_io import FileIO
    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.queue import DeviceQueue
    from pyvirtio.runtime.service import Interrupter, QueueService
    from pyvirtio.runtime.tasks import Tasks
    from pyvirtio.transport import FileRegion, QueueSetup

    Report = Callable[[str, str, BaseException | None], object]

POLL_INTERVAL = 0.001
"""The seconds between two looks at a queue whose driver has no way to kick."""

LOOKS = 8
"""How often a runner that polls looks at its queues between two looks at its descriptors, which cost more."""

MAX_EVENTS = 64
"""The most events that are taken at once."""


class DeviceRunner(DeviceHost):
    """Runs one device: maps memory, serves its queues, keeps its configuration space, runs its coroutines.

    Args:
        device: the object that answers.
        report: takes the name of an event (see `pyvirtio.system.events`), a message, and the exception behind it.
        loop: the event loop of this thread, for a device with coroutines; see `Device.is_async`.
        new_journal: makes the journal of a queue; by default one that lives in this process only.
        renew: makes the device that follows after a reset; by default it is the same object.
        stuck: is called where a request cannot be ended as long as this process lives.
        heartbeat: a word in which the runner notes, in nanoseconds, when it began what it is doing; 0 while `step`
            waits.
        busy_poll_us: look for requests for this many microseconds before waiting for a kick. That takes a processor.
        clock: returns nanoseconds that only grow.

    Raises:
        LocalError: the device cannot be served as it is, or needs an event loop and there is none.
    """

    def __init__(
        self,
        device: Device,
        report: Report,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        new_journal: Callable[[QueueSetup], Journal] = lambda setup: Journal.private(setup.size),
        renew: Callable[[], Device] | None = None,
        stuck: Callable[[str], object] | None = None,
        heartbeat: memoryview | None = None,
        busy_poll_us: int = 0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        engine()  # refuse a wrong choice now, and not when a driver comes
        self.description = device.description()
        self.config = DeviceConfig(self.description, report, self._config_changed)
        self.clock = clock
        self._report = report
        self._renew = renew or (lambda: device)
        self._stuck = stuck or (lambda reason: report("request-stuck", reason, None))
        self._new_journal = new_journal
        self._memory = MappedMemory()
        self._services: dict[int, QueueService] = {}
        self._setups: dict[int, QueueSetup] = {}
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._ready: set[int] = set()
        self._awake: set[int] = set()  # queues whose driver was not asked to kick since their last turn
        self._epoll = select.epoll()
        self._kicks = Kicks(self._epoll)
        self._silent = self._kicks.silent
        self._busy_poll_ns = 1000 * busy_poll_us
        self._awake_until = 0
        self._heartbeat = heartbeat if heartbeat is not None else memoryview(bytearray(8)).cast("Q")
        self.wake_loop: Callable[[], object] = lambda: None
        """Set by whoever owns the loop: called when `step` has something to do without a descriptor saying so."""
        self._loop = loop
        self._runs = Runs(loop, report)
        self._io: FileIO | None = None
        self._to_flush: list[Callable[[], object]] = []  # operations that have begun, of which the system must know
        self._is_stepping = False
        self.device = device
        self._tasks = self._new_tasks() if device.is_async else None
        device.attach(self.config.take, self._resume)

    def _new_tasks(self) -> Tasks:
        if self._loop is None:
            raise LocalError(f"{self.description.name} has coroutines, and they need an event loop; serve it in one")
        from pyvirtio.device.file_io import io_of
        from pyvirtio.runtime.tasks import Tasks

        self._io = io_of(self._loop)
        self._io.attach(self)
        return Tasks(self._loop)

    # The loop is the caller's.

    def fileno(self) -> int:
        """Return a descriptor that is readable when `step` has something to do."""
        return self._epoll.fileno()

    def watch(self, fd: int, callback: Callable[[], object], *, edge: bool = False) -> None:
        """Call ``callback`` in `step` when ``fd`` is readable; with ``edge``, each time that it becomes so."""
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))
        self._callbacks[fd] = callback

    def step(self, timeout: float | None = 0.0) -> bool:
        """Serve each queue that is ready for one time slice; return whether more is waiting.

        Where none is ready, wait for ``timeout`` seconds at most; None is for as long as it takes.
        """
        waits = timeout != 0.0
        self._is_stepping = True
        try:
            if self._to_flush:
                self._to_flush.pop()()
            if waits and not self._ready:
                self._before_waiting()
            idle = not (self._ready or self._awake or self._to_flush)
            if self._silent and (timeout is None or timeout > POLL_INTERVAL):
                timeout = POLL_INTERVAL
            if waits and idle:
                self._heartbeat[0] = 0
            for fd, _ in self._epoll.poll(timeout if idle else 0, MAX_EVENTS):
                self._deal_with(fd)
            self._ready |= self._silent
            for index in list(self._ready):
                if (service := self._services.get(index)) is not None:
                    self._give_turn(index, service)
            if self._to_flush:
                self._to_flush.pop()()
            if not waits and not self._ready:
                self._before_waiting()
        finally:
            self._is_stepping = False
        return bool(self._ready or self._awake)

    def timeout(self) -> float | None:
        """Return the seconds after which `step` has something to do by itself, None where it has not."""
        return POLL_INTERVAL if self._silent else None

    def _deal_with(self, fd: int) -> None:
        index = self._kicks.by_fd.get(fd)
        if index is None:
            if callback := self._callbacks.get(fd):
                self._heartbeat[0] = self.clock()
                callback()
            return
        self._kicks.take(fd)
        self._ready.add(index)

    def begin_io(self, flush: Callable[[], object]) -> None:
        """Call ``flush`` at the end of this step, or of the next one, which comes soon."""
        self._to_flush = [flush]
        if not self._is_stepping:
            self.wake_loop()

    def _give_turn(self, index: int, service: QueueService) -> None:
        """Let a queue have its turn. Its driver is not asked to kick before the others had theirs."""
        self._awake.add(index)
        now = self._heartbeat[0] = self.clock()
        if not service.turn(now, keep_disabled=True):
            self._ready.discard(index)
        if self._busy_poll_ns:
            self._awake_until = self.clock() + self._busy_poll_ns

    def _before_waiting(self) -> None:
        """Ask for kicks, and look once more for requests for which none comes; if polling, look for long before."""
        if not self._awake or (self._busy_poll_ns and self._polls_on()):
            return
        for index in self._awake:
            if self._services[index].enable_kicks():
                self._ready.add(index)
        self._awake.clear()

    def _polls_on(self) -> bool:
        """Look for requests that nobody was asked to announce; return whether to go on before asking for kicks."""
        for _ in range(LOOKS):
            self._ready.update(index for index in self._awake if self._services[index].has_more())
            if self._ready:
                return True
        return self.clock() < self._awake_until

    # What services ask.

    def report(self, event: str, message: str, error: BaseException | None = None) -> None:
        """Log a fault."""
        self._report(event, message, error)

    def wake(self, index: int) -> None:
        """Let a queue have a turn soon."""
        if index in self._services:
            self._ready.add(index)
            if not self._is_stepping:
                self.wake_loop()

    def _resume(self, index: int) -> None:
        """The device takes requests of a queue again."""
        if (service := self._services.get(index)) is not None:
            service.resume()

    def broken(self, index: int) -> None:
        """Report to the transport that a queue is not served any more."""
        if self.events is not None:
            self.events.queue_broken(index)

    def stuck(self, reason: str) -> None:
        """Deal with a request that cannot be ended."""
        self._stuck(reason)

    # DeviceHost: memory and queues.

    def keep(self, memory: memoryview | None) -> None:
        """Give the device memory that outlives this process; to be called before its first queue is started."""
        self.device.kept_memory = memory

    def set_memory(self, regions: Sequence[FileRegion]) -> Completion[None]:
        """Map the guest's memory; queues that run go on in it."""
        table = self.device.guest_memory = self._memory.replace(regions, self.report)
        for index, service in list(self._services.items()):
            try:
                service.queue.relocate(SplitLayout.of(self._setups[index], table), table)
            except PeerError as error:
                service.fail(error)
        return Completion.of(None)

    def start_queue(self, setup: QueueSetup) -> None:
        """Run a queue from its journal on."""
        index = setup.index
        assert index not in self._services, f"queue {index} runs already"
        self._negotiate(setup.features)
        try:
            journal = self._new_journal(setup)
            queue = self._new_queue(setup, self._memory.table, journal)
            notifier = self._new_notifier(index, setup.interrupt_fd)
            service = service_for(self.device, index, queue, notifier, self, self._tasks)
        except PeerError as error:
            self.report("queue-broken", f"queue {index} is not served until it is set up again: {error}")
            self.broken(index)
            return
        self._services[index] = service
        self._setups[index] = setup
        self.device.running.add(index)
        self._kicks.watch(index, setup.kick_fd)
        self._ready.add(index)
        if journal.was_used:
            service.interrupt()
        resumed = journal.was_used or setup.position != 0
        started = self.device.queue_started
        attempt(lambda: started(index, resumed=resumed), self.report, "method-failed", "queue_started")
        self._runs.start(self.device)
        self.wake_loop()

    # What a subclass may put around a queue, when the queue starts: nothing is asked later.

    def _new_queue(self, setup: QueueSetup, memory: MemoryTable, journal: Journal) -> DeviceQueue:
        return device_queue(setup, memory, journal=journal)

    def _new_notifier(self, _index: int, fd: int) -> Interrupter:
        return Notifier(fd)

    def _negotiate(self, features: int) -> None:
        if self.device.negotiated != features:
            self.device.negotiate(features)
            self.config.give(self.device)

    def kick(self, index: int) -> None:
        """Serve a queue at the next step."""
        self.wake(index)

    def set_kick(self, index: int, fd: int) -> None:
        """Watch another eventfd for a queue's kicks."""
        if index in self._services:
            self._kicks.forget(index)
            self._kicks.watch(index, fd)
            self.wake(index)

    def set_interrupt(self, index: int, fd: int) -> None:
        """Interrupt a queue's driver by another eventfd."""
        if (service := self._services.get(index)) is not None:
            service.change_notifier(self._new_notifier(index, fd))

    def stop_queue(self, index: int, *, fail_suspects: bool = False) -> Completion[int]:
        """Stop a queue once what was begun is answered.

        With ``fail_suspects``, requests in which a worker may have died fail at once instead of being tried again.
        """
        service = self._services.get(index)
        if service is None:
            return Completion.of(0)
        self._kicks.forget(index)
        stopped = service.stop(fail_suspects=fail_suspects)
        stopped.then(lambda _position: self._forget(index, service))
        return stopped

    def _forget(self, index: int, service: QueueService) -> None:
        if self._services.get(index) is service:
            del self._services[index], self._setups[index]
            self.device.running.discard(index)
            self._ready.discard(index)
            self._awake.discard(index)

    # DeviceHost: the configuration space, reset.

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space."""
        return self.config.read(offset, length)

    def config_generation(self) -> int:
        """Return how often the device changed its configuration space, or gave a queue up (VIRTIO 1.4, 2.1.2)."""
        return self.config.generation

    def write_config(self, offset: int, data: bytes, *, by_driver: bool = True) -> Completion[None]:
        """Write the configuration space and let the device know."""
        if self.config.write(offset, data, by_driver=by_driver):
            self.config.give_written(self.device, by_driver=by_driver)
        return Completion.of(None)

    def _config_changed(self) -> None:
        if self.events is not None:
            self.events.config_changed()

    def reset(self, kept: memoryview | None = None) -> Completion[None]:
        """Bring the device back to its first state; what runs is cancelled.

        From then on it has the memory ``kept``, if any, instead of what `keep` gave it.
        """
        stopped = []
        for index, service in list(self._services.items()):
            self._kicks.forget(index)
            completion = service.stop_at_once()
            completion.then(lambda _position, index=index, service=service: self._forget(index, service))  # type: ignore[misc]  # a lambda's defaults
            stopped.append(completion)
        whole = Completion.all(stopped)
        whole.then(lambda _none: self._reset_device(kept))
        return whole

    def _reset_device(self, kept: memoryview | None) -> None:
        self._runs.cancel()
        before, self.device = self.device, self._renew()
        self.device.guest_memory = self._memory.table
        self.keep(kept)
        if self.device is not before:
            end_of(self._runs.tasks).then(lambda _none: retire(before, self.report))
        self.config.reset()
        self.device.attach(self.config.take, self._resume)
        self.device.negotiated = 0
        self.config.give(self.device)

    # The end.

    def close(self) -> list[asyncio.Task[None]]:
        """Stop everything and give back what is held; return tasks that end when the loop runs on."""
        self._runs.cancel()
        for index, service in list(self._services.items()):
            self._kicks.forget(index)
            service.stop_at_once()
            self._services.pop(index, None)
        tasks = [*self._runs.tasks, *(self._tasks.close() if self._tasks else ())]
        if self._io is not None:
            tasks += self._io.detach(self)
        end_of(tasks).then(lambda _none: retire(self.device, self.report))
        self._epoll.close()
        return tasks
