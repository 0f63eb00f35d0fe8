"""Keeps workers alive, and hands them memory, queues and configuration: the `DeviceHost` of a served device."""

from __future__ import annotations

import time

from pyvirtio.errors import LocalError
from pyvirtio.host import log
from pyvirtio.host.crew import WorkerProcess
from pyvirtio.host.journal_file import JournalFile
from pyvirtio.host.spawn import LifeLine
from pyvirtio.system.eventfd import signal
from pyvirtio.transport import Completion, DeviceDescription, DeviceHost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvirtio.transport import FileRegion, QueueSetup

STOP_TIME = 1.0
"""The seconds that a worker has to put a queue down before it is killed."""

START_TIME = 30.0
"""The seconds that the first import of a device may take."""

MAXIMUM_STRIKES = 3
"""After so many deaths of a worker inside the device's method, a request is completed empty, as in `QueueService`."""

MESSAGES_AT_ONCE = 64
"""The most messages of one worker that are read before the front-end gets its turn."""

LONGEST_PAUSE = 1.0
"""The seconds between two starts of a worker that dies at once, at most."""


class _Queue:
    """A queue that runs: what the transport said, its journal, and whether it was given up."""

    def __init__(self, setup: QueueSetup) -> None:
        self.setup = setup
        self.journal = JournalFile(setup)
        self.retired = False


class Supervisor(DeviceHost):
    """Runs ``device`` (a name for the loader) in ``workers`` processes, but not more than it has queues.

    Raises:
        LocalError: the device cannot be loaded; the message says why.
    """

    def __init__(
        self,
        device: str,
        *,
        workers: int = 1,
        device_id: int | None = None,
        poll_us: int = 0,
    ) -> None:
        self._device = device
        self._device_id = device_id
        self._poll_us = poll_us
        self._life_line = LifeLine()
        self._regions: dict[int, FileRegion] = {}
        self._next_region = 0
        self._changes = 0
        self._queues: dict[int, _Queue] = {}
        self._workers = [self._new_worker()]
        self._candidates: dict[int, WorkerProcess] = {}
        self._deaths = [0] * workers
        self._answered = [0] * workers
        self._restart_at: dict[int, float] = {}
        self.sources: list[str] = []
        try:
            self._introduce(self._workers[0])
            # A worker without a queue would only wait.
            more = min(workers, len(self.description.queue_sizes)) - 1
            self._workers += [self._new_worker() for _ in range(more)]
            for worker in self._workers[1:]:
                self._introduce(worker)
        except BaseException:
            self.close()
            raise
        self.config = bytearray(self.description.config)

    def _new_worker(self) -> WorkerProcess:
        return WorkerProcess(self._device, self._device_id, self._life_line, self._poll_us)

    def _introduce(self, worker: WorkerProcess) -> None:
        message = worker.wait("ready", "failed", timeout=START_TIME)
        if message is None:
            raise LocalError(
                f"the device {self._device} ended its process while it was loaded; look at what it printed"
            )
        if message["is"] == "failed":
            raise LocalError(message["why"])
        self._take_description(worker, message)

    def _take_description(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        worker.ready = True
        self.sources = message["sources"]
        self.description = DeviceDescription(
            message["name"],
            message["device_id"],
            message["features"],
            message["queue_sizes"],
            bytes.fromhex(message["config"]),
            bytes.fromhex(message["writable"]),
        )
        self._patience = message["patience"]

    # What a transport asks.

    def set_memory(self, regions: Sequence[FileRegion]) -> Completion[None]:
        """Tell the workers which regions went and which came, and let those that run queues catch up.

        The driver may use a new region, and somebody else an old one, as soon as this is over.
        """
        wanted = {id(region) for region in regions}
        known = {id(region) for region in self._regions.values()}
        drop = [number for number, region in self._regions.items() if id(region) not in wanted]
        for number in drop:
            del self._regions[number]
        add = {}
        for region in regions:
            if id(region) not in known:
                add[self._next_region] = region
                self._next_region += 1
        self._regions |= add
        self._changes += 1
        for worker in self._workers:
            if worker.ready:
                worker.give_memory(drop, add, self._changes)
        self._let_catch_up("mapped")
        return Completion.of(None)

    def _let_catch_up(self, kind: str) -> None:
        """Wait until the workers that run queues have made the last change."""
        for place in {index % len(self._workers) for index in self._queues}:
            if self._workers[place].ready:
                self._wait_until(self._workers[place], {"is": kind, "change": self._changes})

    def start_queue(self, setup: QueueSetup) -> None:
        """Give a queue to its worker; one that runs already goes on under the new record."""
        queue = self._queues.get(setup.index)
        if queue is None:
            queue = self._queues[setup.index] = _Queue(setup)
        elif queue.retired:
            return
        queue.setup = setup
        worker = self._workers[setup.index % len(self._workers)]
        if worker.ready:
            worker.give_queue(setup, queue.journal)

    def kick(self, index: int) -> None:
        """Write the queue's kick eventfd."""
        signal(self._queues[index].setup.kick_fd)

    def set_kick(self, index: int, fd: int) -> None:
        """Give the queue to its worker again."""
        setup = self._queues[index].setup
        setup.kick_fd = fd
        self.start_queue(setup)

    def set_interrupt(self, index: int, fd: int) -> None:
        """Give the queue to its worker again."""
        setup = self._queues[index].setup
        setup.interrupt_fd = fd
        self.start_queue(setup)
        signal(fd)

    def stop_queue(self, index: int) -> Completion[int]:
        """Have the worker put the queue down; one that does not in `STOP_TIME` is killed."""
        queue = self._queues.get(index)
        if queue is None:
            return Completion.of(0)
        worker = self._workers[index % len(self._workers)]
        if worker.ready and not queue.retired:
            worker.send({"do": "stop", "queue": index})
            if not self._wait_until(worker, {"is": "stopped", "queue": index}):
                log.warning(f"queue {index}: its worker did not stop in {STOP_TIME} s and is killed")
                worker.kill()
        del self._queues[index]
        base = queue.journal.base(queue.setup.position)
        queue.journal.close()
        return Completion.of(base)

    def _wait_until(self, worker: WorkerProcess, wanted: dict[str, Any]) -> bool:
        """Wait until a worker says ``wanted``, for `STOP_TIME` at most."""
        deadline = time.monotonic() + STOP_TIME
        while (left := deadline - time.monotonic()) > 0:
            message = worker.wait(timeout=left)
            if message is None:
                return worker.gone  # a dead worker has stopped
            if message == wanted:
                return True
            self._heed(worker, message)
        return False

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the keeper's copy: the device's code is not asked."""
        return bytes(self.config[offset : offset + length])

    def write_config(self, offset: int, data: bytes, *, by_driver: bool = True) -> Completion[None]:
        """Write what the device lets a driver write, or anything when a migration restores it."""
        allowed = self.description.writable if by_driver else b"\xff" * len(self.config)
        changes = [(place, byte) for place, byte in enumerate(data, start=offset) if allowed[place]]
        self._changes += 1
        self._change_config(changes, by_driver=by_driver)
        if changes and by_driver:
            self._let_catch_up("configured")  # a request that follows is to find the device with it
        return Completion.of(None)

    def config_generation(self) -> int:
        """Return how many changes there were."""
        return self._changes

    def _change_config(
        self, changes: list[tuple[int, int]], *, by_driver: bool, but: WorkerProcess | None = None
    ) -> None:
        """Change bytes of the configuration space, and tell the workers, but for the one that did it itself."""
        for place, byte in changes:
            self.config[place] = byte
        for worker in self._workers:
            if worker.ready and worker is not but:
                worker.give_config(changes, by_driver=by_driver, change=self._changes)

    def reset(self) -> Completion[None]:
        """Stop every queue and make the device anew."""
        for index in list(self._queues):
            self.stop_queue(index)
        self.config = bytearray(self.description.config)
        for worker in self._workers:
            worker.send({"do": "reset"})
        return Completion.of(None)

    # What the keeper's loop asks.

    def descriptors(self) -> list[int]:
        """Give what to poll: the channels of all workers."""
        return [worker.fileno() for worker in self._processes()]

    def _processes(self) -> list[WorkerProcess]:
        return [worker for worker in (*self._workers, *self._candidates.values()) if not worker.gone]

    def look(self) -> None:
        """Read what workers say, mourn the dead, start the next, and watch for those that hang."""
        for worker in self._processes():
            for _ in range(MESSAGES_AT_ONCE):
                if (message := worker.read()) is None:
                    break
                self._heed(worker, message)
        for place, worker in enumerate(self._workers):
            if worker.gone:
                self._replace(place, worker)
            elif worker.ready:
                self._watch(worker, place)
        for place, worker in list(self._candidates.items()):
            if worker.gone:
                self._candidates.pop(place).bury()

    def patience_left(self) -> float | None:
        """Give the seconds until `look` has something to do by itself, None where it has not."""
        times = [moment - time.monotonic() for moment in self._restart_at.values()]
        if self._queues:
            times.append(self._patience / 4)
        return max(0.0, min(times)) if times else None

    def reload(self) -> None:
        """The device's source changed: start workers with the new code, which take over once they are ready."""
        for place in range(len(self._workers)):
            if place in self._candidates:
                self._candidates.pop(place).bury()
            self._candidates[place] = self._new_worker()

    def close(self) -> None:
        """End all workers."""
        for worker in (*self._workers, *getattr(self, "_candidates", {}).values()):
            for _ in worker.dismiss(0.5):
                pass  # nobody is left whom it would concern
        for queue in self._queues.values():
            queue.journal.close()
        self._queues.clear()
        self._life_line.close()

    # What workers say.

    def _heed(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        kind = message["is"]
        if kind == "ready" and (new := self._changed(message)):
            log.warning(f"the device is not reloaded: the driver knows it with other {new}; serve it anew")
            worker.kill()
        elif kind == "ready":
            self._arrived(worker, message)
        elif kind == "failed":
            log.warning(f"the device is not reloaded: {message['why']}")
        elif kind == "retired" and (queue := self._queues.get(message["queue"])):
            queue.retired = True
            if self.events:
                self.events.queue_broken(message["queue"])
            if message["why"]:
                log.warning(f"queue {message['queue']} is retired until it is set up afresh: {message['why']}")
        elif kind == "config":
            self._change_config(message["changes"], by_driver=False, but=worker)
            if self.events:
                self.events.config_changed()

    def _changed(self, message: dict[str, Any]) -> str:
        """Name what a driver may rely on and is different now."""
        old = self.description
        parts = {
            "id": message["device_id"] == old.device_id,
            "features": message["features"] == old.features,
            "queues": tuple(message["queue_sizes"]) == old.queue_sizes,
            "configuration space": bytes.fromhex(message["writable"]) == old.writable,
        }
        return ", ".join(name for name, same in parts.items() if not same)

    def _arrived(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        """A worker is ready: a successor of a dead one, or one with new code, whose predecessor leaves now."""
        worker.ready = True
        self.sources = message["sources"]
        self._patience = message["patience"]
        for place, candidate in list(self._candidates.items()):
            if candidate is worker:
                self._candidates.pop(place)
                predecessor = self._workers[place]
                for last in predecessor.dismiss(STOP_TIME):
                    if last["is"] != "ready":
                        self._heed(predecessor, last)
                self._workers[place] = worker
                self._deaths[place] = 0
                self._restart_at.pop(place, None)
                log.info(f"worker {place} runs the changed device")
        self._equip(self._workers.index(worker), worker)

    def _equip(self, place: int, worker: WorkerProcess) -> None:
        worker.give_memory([], self._regions)
        worker.give_config(list(enumerate(self.config)), by_driver=False)
        for index, queue in self._queues.items():
            if index % len(self._workers) == place and not queue.retired:
                worker.give_queue(queue.setup, queue.journal)

    # Death.

    def _replace(self, place: int, worker: WorkerProcess) -> None:
        """Start the next worker, at once the first times, then after longer and longer pauses."""
        if not worker.buried:
            self._mourn(place, worker)
        moment = self._restart_at.setdefault(place, time.monotonic() + self._pause(place))
        if time.monotonic() >= moment:
            del self._restart_at[place]
            self._workers[place] = self._new_worker()

    def _pause(self, place: int) -> float:
        deaths = self._deaths[place]
        return 0.0 if deaths < 4 else min(LONGEST_PAUSE, 0.01 * 2**deaths)

    def _mourn(self, place: int, worker: WorkerProcess) -> None:
        how = worker.bury()
        queues = {i: q for i, q in self._queues.items() if i % len(self._workers) == place}
        answered = sum(queue.journal.journal.answered for queue in queues.values())
        self._deaths[place] = 1 if answered != self._answered[place] else self._deaths[place] + 1
        self._answered[place] = answered
        strikes = {index: queue.journal.journal.blame() for index, queue in queues.items()}
        worst = max(strikes.values(), default=0)
        log.info(f"worker {place} {how}; the next one takes over")
        if worst >= MAXIMUM_STRIKES:
            log.warning(f"a request ended the worker {worst} times; it is returned empty")
        elif not worst and worker.broke_down and self._deaths[place] >= MAXIMUM_STRIKES:
            self._give_up(queues, how)

    def _give_up(self, queues: dict[int, _Queue], how: str) -> None:
        """No request is to blame, and nothing gets done: what they work on must be broken, like a cut memory file."""
        for index, queue in queues.items():
            queue.retired = True
            if self.events:
                self.events.queue_broken(index)
            log.warning(f"queue {index} is retired until it is set up afresh: its workers {how} again and again")

    def _watch(self, worker: WorkerProcess, place: int) -> None:
        now = time.monotonic_ns()
        for index, queue in self._queues.items():
            since = queue.journal.journal.oldest_running()
            if index % len(self._workers) != place or not since:
                continue
            if now - since > self._patience * 1e9:
                log.warning(f"queue {index}: a request takes longer than {self._patience} s; its worker is killed")
                worker.kill()
                return
