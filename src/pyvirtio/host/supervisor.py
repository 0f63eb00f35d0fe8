"""Keeps workers alive, and hands them memory, queues and configuration: the `DeviceHost` of a served device."""

from __future__ import annotations

import select
import time
from functools import partial

from pyvirtio.errors import LocalError, UsageError
from pyvirtio.host.hosted_queue import HostedQueue
from pyvirtio.host.introduction import Introduction
from pyvirtio.host.kept_memory import KeptMemory
from pyvirtio.host.loader import DeviceLoader
from pyvirtio.host.regions import SharedRegions
from pyvirtio.host.slot import START_TIME, WorkerSlot
from pyvirtio.host.spawn import LifeLine
from pyvirtio.host.worker import run_worker
from pyvirtio.host.worker_process import WorkerProcess
from pyvirtio.runtime import DeviceRunner
from pyvirtio.runtime.config_space import ConfigSpace
from pyvirtio.system import log
from pyvirtio.transport import MAXIMUM_STRIKES, Completion, DeviceHost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyvirtio.transport import DeviceDescription, FileRegion, QueueSetup

LONGEST_WAIT = 3600.0
"""The seconds after which the loop looks again in any case."""


class Supervisor(DeviceHost):
    """Runs the device that ``spec`` names (see `DeviceLoader`) in ``workers`` processes, at most one a queue.

    ``new_runner`` makes the runner of each; it is called in the worker.

    Raises:
        LocalError: the device cannot be loaded; the message says why.
    """

    def __init__(
        self,
        spec: str,
        *,
        workers: int = 1,
        device_id: int | None = None,
        new_runner: Callable[..., DeviceRunner] = DeviceRunner,
    ) -> None:
        self._spec = spec
        self._new_runner = new_runner
        self._device_id = device_id
        self._life_line = LifeLine()
        self._regions = SharedRegions()
        self._kept = KeptMemory()
        self._queues: dict[int, HostedQueue] = {}
        self._answered: dict[int, int] = {}
        self._slots: list[WorkerSlot] = []
        self._epoll = select.epoll()
        self._polled: list[WorkerProcess] = []
        self._loaded: Introduction = None  # type: ignore[assignment]  # until the first worker has told
        self.description: DeviceDescription = None  # type: ignore[assignment]  # the same; it never changes then
        self.config = ConfigSpace(b"", b"")
        try:
            self._start(workers)
        except BaseException:
            self.close()
            raise

    def _start(self, workers: int) -> None:
        """Start the first worker, learn from it what the device is, and start the others."""
        first = WorkerSlot(0, self._new_worker, self)
        self._slots.append(first)
        self._await_ready(first)
        if workers > 1 and self._loaded.needs_one_worker:
            raise LocalError(
                f"{self.description.name} is one object (it has a run method or an outgoing queue, or says so): "
                "serve it with one worker"
            )
        # A worker without a queue would only wait.
        for number in range(1, min(workers, len(self.description.queue_sizes))):
            self._slots.append(WorkerSlot(number, self._new_worker, self))
        for slot in self._slots[1:]:
            self._await_ready(slot)

    def _new_worker(self, changed: bool) -> WorkerProcess:
        """Start a worker that runs the code of the others, or ``changed`` code from the files."""
        sources = None if changed or self._loaded is None else self._loaded.sources
        load = partial(DeviceLoader, self._spec, self._device_id, sources)
        return WorkerProcess(partial(run_worker, new_loader=load, new_runner=self._new_runner), self._life_line)

    def _await_ready(self, slot: WorkerSlot) -> None:
        """Wait for a first worker, which is not started again when it fails."""
        deadline = time.monotonic() + START_TIME
        while slot.worker.wait(deadline - time.monotonic()):
            for kind, fields in slot.worker.reports(1):
                if kind == "failed":
                    raise (UsageError if fields["usage"] else LocalError)(fields["why"])
                slot.take_first(fields)
                return
            if slot.worker.is_gone:
                break
        raise LocalError(
            f"the device {self._spec} ended its process, or hung, while it was loaded; see what it printed"
        )

    def _slot_of(self, index: int) -> WorkerSlot:
        return self._slots[index % len(self._slots)]

    # DeviceHost: memory and queues.

    def set_memory(self, regions: Sequence[FileRegion]) -> Completion[None]:
        """Send the workers which regions went and which came.

        It is done when those that run queues have caught up: the driver may use a new region, and somebody else an
        old one, from then on.
        """
        drop, add = self._regions.replace(regions)
        waiting = {self._slot_of(index).number for index in self._queues}
        told = {slot.number: self._regions.give(slot.worker, drop, add) for slot in self._slots if slot.serves}
        return Completion.all([told[number] for number in waiting & told.keys()])

    def start_queue(self, setup: QueueSetup) -> None:
        """Hand a queue to its worker.

        Raises:
            PeerError: the set-up's in-flight region cannot be this queue's.
            LocalError: there is no memory or descriptor left for its journal.
        """
        queue = self._queues[setup.index] = HostedQueue(setup)
        slot = self._slot_of(setup.index)
        if slot.serves:
            self._give_queue(slot, queue)

    def _give_queue(self, slot: WorkerSlot, queue: HostedQueue) -> None:
        asked = queue.give_to(slot.worker)
        if queue.stopped is not None:
            asked.then(lambda position: self._stopped(queue, position))

    def kick(self, index: int) -> None:
        """Have the queue's worker serve it; a worker that is starting does so anyway."""
        self._tell_of_queue(index, "kick")

    def set_kick(self, index: int, fd: int) -> None:
        """Have the queue's worker listen to another descriptor."""
        if (queue := self._queues.get(index)) is not None:
            queue.setup.kick_fd = fd
            self._tell_of_queue(index, "set_kick", fd)

    def set_interrupt(self, index: int, fd: int) -> None:
        """Have the queue's worker interrupt by another descriptor."""
        if (queue := self._queues.get(index)) is not None:
            queue.setup.interrupt_fd = fd
            self._tell_of_queue(index, "set_interrupt", fd)

    def _tell_of_queue(self, index: int, kind: str, fd: int = -1) -> None:
        queue, slot = self._queues.get(index), self._slot_of(index)
        if queue is not None and not queue.broken and slot.serves:
            slot.worker.ask(kind, [fd] if fd >= 0 else [], queue=index)

    def stop_queue(self, index: int) -> Completion[int]:
        """Have the worker finish what it has begun; one that dies meanwhile is followed by one that does it."""
        queue = self._queues.get(index)
        if queue is None:
            return Completion.of(0)
        if queue.stopped is not None:
            return queue.stopped
        stopped = queue.begin_stop(self._loaded.patience)
        slot = self._slot_of(index)
        if slot.serves:
            asked = slot.worker.ask("stop", queue=index, fail_suspects=False)
            asked.then(lambda position: self._stopped(queue, position))
        elif queue.broken:
            self._stopped(queue)
        return stopped

    def _stopped(self, queue: HostedQueue, position: object = None) -> None:
        """A queue has stopped; without a position its worker died before it had, and the next one is asked.

        The next one does not get a queue that is broken: what was begun on it is given up.
        """
        index = queue.setup.index
        if self._queues.get(index) is not queue:
            return
        if queue.broken:
            position = queue.journal.position
        if not isinstance(position, int):
            return
        del self._queues[index]
        queue.journal.close()
        if queue.stopped is not None and not queue.stopped.done:
            queue.stopped.complete(position & 0xFFFF)

    # DeviceHost: the configuration space, reset.

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the keeper's copy: the device's code is not asked."""
        return self.config.read(offset, length)

    def config_generation(self) -> int:
        """Return how often the device changed its configuration space."""
        return self.config.generation

    def write_config(self, offset: int, data: bytes, *, by_driver: bool = True) -> Completion[None]:
        """Write what the device lets a driver write, or anything when a migration restores it."""
        changes = self.config.write(offset, data, by_driver=by_driver)
        return self._give_changes(changes, by_driver=by_driver) if changes else Completion.of(None)

    def _give_changes(
        self, changes: list[tuple[int, int]], *, by_driver: bool, exclude: WorkerSlot | None = None
    ) -> Completion[None]:
        slots = [slot for slot in self._slots if slot.serves and slot is not exclude]
        return Completion.all([slot.worker.ask("config", changes=changes, by_driver=by_driver) for slot in slots])

    def reset(self) -> Completion[None]:
        """Stop every queue at once and make the device as it was at first."""
        for queue in list(self._queues.values()):
            self._stopped(queue, queue.journal.position)
        self.config.reset()
        self._kept.renew()
        return Completion.all([slot.worker.ask("reset", self._kept.fds) for slot in self._slots if slot.serves])

    # The loop is the caller's.

    def fileno(self) -> int:
        """Return a descriptor that is readable when a worker has something to say."""
        return self._epoll.fileno()

    def step(self) -> bool:
        """Hear what workers say, follow the dead, end those that hang; return False: the rest can wait."""
        for slot in self._slots:
            slot.step()
            self._watch(slot)
        for queue in list(self._queues.values()):
            self._look_after_stop(queue)
        self._poll_channels()
        return False

    def timeout(self) -> float | None:
        """Return the seconds until `step` has something to do by itself, None where it has not."""
        times = [seconds for slot in self._slots if (seconds := slot.timeout()) is not None]
        now = time.monotonic()
        times += [max(0.0, queue.stops_by - now) for queue in self._queues.values() if queue.stops_by is not None]
        hangs = [slot.worker.until_it_hangs(self._loaded.patience) for slot in self._slots]
        times += [seconds for seconds in hangs if seconds is not None]
        return min(*times, LONGEST_WAIT) if times else None

    def _poll_channels(self) -> None:
        wanted = [process for slot in self._slots for process in slot.processes()]
        for process in wanted:
            if process not in self._polled:  # a channel that is closed leaves by itself
                self._epoll.register(process.fileno(), select.EPOLLIN)
        self._polled = wanted

    def reload(self) -> None:
        """The device's source changed: start workers with the new code, which take over once they are ready."""
        for slot in self._slots:
            slot.reload()

    def close(self) -> None:
        """End all workers, in good order if they do not take long."""
        for slot, deadline in [(slot, slot.leave()) for slot in self._slots]:
            slot.close(deadline)
        for queue in self._queues.values():
            queue.journal.close()
        self._queues.clear()
        self._kept.close()
        self._life_line.close()
        self._epoll.close()

    # What happens to workers.

    def is_ready(self, fields: dict[str, Any]) -> bool:
        """Take over what a worker says of the device; refuse one that the driver knows otherwise."""
        loaded = Introduction.of(fields)
        if self.description is None:
            self.description = loaded.description
            self.config = ConfigSpace(self.description.config, self.description.writable)
            self._kept.make(self.description.kept_size)
        elif different := self.description.differences(loaded.description):
            log.warning(
                "device-refused",
                f"the changed device is not taken: its {', '.join(different)} changed, and drivers know the old; "
                "restart `pyvirtio serve`",
            )
            return False
        self._loaded = loaded
        return True

    @property
    def watched(self) -> list[str]:
        """The source files whose change means that the device changed."""
        return self._loaded.watched

    def serves_again(self, slot: WorkerSlot) -> None:
        """Hand memory, configuration and queues to a slot's new worker."""
        self._regions.give_all(slot.worker)
        if self._kept.fds:
            slot.worker.ask("keep", self._kept.fds)
        if len(self.config):
            slot.worker.ask("config", changes=list(enumerate(self.config.content)), by_driver=False)
        for queue in list(self._queues.values()):
            if self._slot_of(queue.setup.index) is slot and not queue.broken:
                self._give_queue(slot, queue)

    def reported(self, slot: WorkerSlot, kind: str, fields: dict[str, Any]) -> None:
        """Pass on what the device did by itself."""
        if kind == "config":
            changes = [(at, byte) for at, byte in fields["changes"] if at < len(self.config)]
            self.config.apply(changes)
            self._give_changes(changes, by_driver=False, exclude=slot)
            if fields["notify"] and self.events is not None:
                self.events.config_changed()
        elif kind == "broken" and (queue := self._queues.get(fields["queue"])) is not None:
            self._break(queue)

    def _break(self, queue: HostedQueue) -> None:
        queue.broken = True
        if self.events is not None:
            self.events.queue_broken(queue.setup.index)

    def died(self, slot: WorkerSlot, how: str) -> None:
        """Blame the requests that ran, or the memory."""
        queues = [queue for queue in self._queues.values() if self._slot_of(queue.setup.index) is slot]
        answered = sum(queue.journal.journal.answered for queue in queues)
        slot.count_death(progressed=answered != self._answered.get(slot.number, 0))
        self._answered[slot.number] = answered
        most = max((queue.journal.journal.blame() for queue in queues), default=0)
        log.info("worker-ended", f"worker {slot.number} {how}; the next one takes over")
        if most >= MAXIMUM_STRIKES:
            log.warning("request-failed", f"a request ended the worker {most} times; it fails")
        elif not most and slot.keeps_crashing:
            self._give_up(queues, how)
        for queue in queues:
            if queue.broken and queue.stopped is not None:
                self._stopped(queue)

    def _give_up(self, queues: list[HostedQueue], how: str) -> None:
        """No request is to blame, and nothing gets done: what they work on must be broken, like a cut memory file."""
        for queue in queues:
            log.warning(
                "queue-broken",
                f"queue {queue.setup.index} is not served until it is set up again: its workers {how} again and again",
            )
            self._break(queue)

    # What takes too long.

    def _watch(self, slot: WorkerSlot) -> None:
        """End a worker that has been busy with one thing for longer than the device's patience."""
        if slot.worker.until_it_hangs(self._loaded.patience) != 0.0:
            return
        log.warning(
            "worker-hangs",
            f"worker {slot.number}: the device's code did not return within {self._loaded.patience} s, and is ended",
        )
        slot.worker.heartbeat[0] = 0
        slot.worker.kill()
        for queue in self._queues.values():
            if queue.stopped is not None and self._slot_of(queue.setup.index) is slot:
                queue.hurry()

    def _look_after_stop(self, queue: HostedQueue) -> None:
        """A queue does not stop: end its worker once, then do without any."""
        if queue.stopped is None or queue.stops_by is None or time.monotonic() < queue.stops_by:
            return
        index = queue.setup.index
        if not queue.overdue:
            queue.hurry()
            log.warning("queue-stuck", f"queue {index}: its worker did not stop it in time and is ended")
            self._slot_of(index).worker.kill()
            return
        log.warning("queue-stuck", f"queue {index} is stopped without a worker; what was begun may be done again")
        queue.broken, queue.stops_by = True, None
        worker = self._slot_of(index).worker
        if worker.runs_device:
            worker.kill()  # it must not touch the ring any more; its end completes the stop
        else:
            self._stopped(queue)
