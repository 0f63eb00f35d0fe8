"""The worker: maps the guest's memory, runs its share of the queues, calls the device's code."""

from __future__ import annotations

import os
import select
import time

from pyvirtio.device import QueueService
from pyvirtio.errors import LocalError, PeerError
from pyvirtio.host import log
from pyvirtio.host.journal_file import map_journal
from pyvirtio.host.loader import load_device, sources_of
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.files import map_file
from pyvirtio.ring import SplitLayout, device_queue
from pyvirtio.system.eventfd import Notifier
from pyvirtio.transport import QueueSetup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvirtio.device import Device
    from pyvirtio.host.channel import Channel

LOOKS = 8
"""How often a worker that polls looks at its queues between two looks at its descriptors, which cost more."""

POLL_INTERVAL = 0.001
"""The seconds between two looks at a queue whose driver has no way to kick."""

MOST_EVENTS = 64
"""The most events that are taken at once."""


def run_worker(channel: Channel, device: str, device_id: int | None, poll_us: int = 0) -> None:
    """Load the device, introduce it to the keeper, and serve until the keeper says otherwise."""
    try:
        kind = load_device(device, device_id)
        description = kind.description()
        worker = Worker(channel, kind, poll_us)
    except LocalError as error:
        channel.send({"is": "failed", "why": str(error)})
        return
    channel.send(
        {
            "is": "ready",
            "name": description.name,
            "device_id": description.device_id,
            "features": description.features,
            "queue_sizes": description.queue_sizes,
            "config": description.config.hex(),
            "writable": description.writable.hex(),
            "patience": kind.patience,
            "sources": sources_of(kind),
        }
    )
    worker.run()


class _Running:
    """A queue that runs here: its service, and its descriptors."""

    def __init__(self, service: QueueService, fds: dict[str, int], setup: QueueSetup) -> None:
        self.service = service
        self.fds = fds
        self.setup = setup

    def relocate(self, memory: MemoryTable) -> None:
        """Go on in new memory; a queue whose ring is not in it goes on in the old one."""
        try:
            layout = SplitLayout.of(self.setup, memory)
        except PeerError:
            return
        self.service.queue.relocate(layout, memory)


def _close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


class Worker:
    """Runs the queues that the keeper hands over, in turns.

    After the last request it goes on looking for ``poll_us`` microseconds before it sleeps until a kick: that takes a
    core meanwhile, and saves the driver a system call and this process the time to wake up.
    """

    def __init__(self, channel: Channel, kind: type[Device], poll_us: int = 0) -> None:
        self._channel = channel
        self._kind = kind
        self._device = self._new_device()
        self._device.answers()  # refuses a device that lacks a method, before anybody drives it
        self._config = bytearray(kind.description().config)
        self._regions: dict[int, Region] = {}
        self._memory = MemoryTable()
        self._queues: dict[int, _Running] = {}
        self._ready: set[int] = set()
        self._awake: set[int] = set()  # queues whose driver was not asked to kick since their last turn
        self._kicks: dict[int, int] = {}
        self._silent: set[int] = set()  # queues whose driver has no way to kick
        self._epoll = select.epoll()
        self._epoll.register(channel.fileno(), select.EPOLLIN)
        self._leaving = False
        self._linger = 1000 * poll_us
        self._awake_until = 0
        self._commands: dict[str, Callable[[dict[str, Any], list[int]], None]] = {
            "memory": self._set_memory,
            "start": self._start,
            "stop": self._stop,
            "config": self._load_config,
            "reset": self._reset,
            "leave": self._leave,
        }

    def _new_device(self) -> Device:
        device = self._kind()
        device.attach_config(self._tell_config)
        return device

    def run(self) -> None:
        """Serve until the keeper says `leave`, or is gone."""
        while not self._leaving:
            self._look()
            for index in list(self._ready):
                self._serve(index, self._queues[index])

    def _serve(self, index: int, running: _Running) -> None:
        """Give a queue its turn. Its driver is not asked to kick before the others had theirs."""
        self._awake.add(index)
        if not running.service.turn(linger=True):
            self._ready.discard(index)
        if self._linger:
            self._awake_until = time.monotonic_ns() + self._linger
        if running.service.retired:
            self._retired(index)

    def _watch(self) -> None:
        """Look once more for requests that nobody was asked to announce, or for long; then ask for kicks."""
        for _ in range(LOOKS if self._linger else 1):
            self._ready.update(index for index in self._awake if self._queues[index].service.queue.has_more())
            if self._ready:
                return
        if not self._linger or time.monotonic_ns() >= self._awake_until:
            self._ready.update(index for index in self._awake if self._queues[index].service.rest())
            self._awake.clear()

    def _look(self) -> None:
        """Wait for kicks and for the keeper's messages."""
        if self._awake and not self._ready:
            self._watch()
        timeout = 0 if self._ready or self._awake else POLL_INTERVAL if self._silent else None
        for fd, _ in self._epoll.poll(timeout, MOST_EVENTS):
            if (index := self._kicks.get(fd)) is not None:
                self._ready.add(index)
            elif fd == self._channel.fileno():
                self._obey()
        self._ready |= self._silent

    def _obey(self) -> None:
        received = self._channel.receive()
        if received is None:
            self._leaving = True
            return
        message, fds = received
        self._commands[message["do"]](message, fds)

    # What the keeper says.

    def _set_memory(self, message: dict[str, Any], fds: list[int]) -> None:
        for number in message["drop"]:
            self._regions.pop(number, None)
        for (number, base, size, offset), fd in zip(message["add"], fds, strict=True):
            try:
                self._regions[number] = Region(base, map_file(fd, offset, size))
            except PeerError as error:
                log.warning(f"a memory region is left out: {error}")
            finally:
                os.close(fd)
        if message["last"]:
            self._memory = MemoryTable(self._regions.values())
            for running in self._queues.values():
                running.relocate(self._memory)
            self._channel.send({"is": "mapped", "change": message["change"]})

    def _start(self, message: dict[str, Any], fds: list[int]) -> None:
        """Run a queue from its journal on: a new one, one of a dead worker, or one of ours whose record changed."""
        index = message["queue"]
        self._put_down(index)
        named = dict(zip(message["fds"], fds, strict=True))
        ledger, region = named.pop("ledger"), named.pop("region")
        try:
            journal = map_journal(message["size"], ledger, (region, *message["region"]))
            names = ("size", "descriptor_area", "driver_area", "device_area", "features", "position")
            setup = QueueSetup(index, **{name: message[name] for name in names})
            queue = device_queue(setup, self._memory, journal=journal)
        except PeerError as error:
            _close(named)
            self._channel.send({"is": "retired", "queue": index, "why": str(error)})
            return
        finally:
            os.close(ledger)
            os.close(region)
        if self._device.negotiated != message["features"]:
            self._device.negotiate(message["features"])
            self._device.load_config(self._config)
        service = QueueService(
            queue,
            self._device.answers()[index],
            Notifier(named.get("interrupt", -1)).notify,
            lambda text, error: log.warning(f"queue {index}: {text}", error),
            time.monotonic_ns,
            repeatable=self._device.repeatable,
        )
        self._queues[index] = _Running(service, named, setup)
        if "kick" in named:
            self._kicks[named["kick"]] = index
            # Told of each write, it need not be read: a system call less for each kick.
            self._epoll.register(named["kick"], select.EPOLLIN | select.EPOLLET)
        else:
            self._silent.add(index)
        self._ready.add(index)
        if journal.was_used:
            service.resume()

    def _stop(self, message: dict[str, Any], _fds: list[int]) -> None:
        self._put_down(message["queue"])
        self._channel.send({"is": "stopped", "queue": message["queue"]})

    def _put_down(self, index: int) -> None:
        """Answer what was taken from a queue, and let go of it."""
        running = self._queues.pop(index, None)
        self._ready.discard(index)
        self._awake.discard(index)
        self._silent.discard(index)
        if running is None:
            return
        if "kick" in running.fds:
            self._epoll.unregister(running.fds["kick"])
            del self._kicks[running.fds["kick"]]
        if not running.service.retired:
            running.service.finish()
        _close(running.fds)

    def _tell_config(self, data: bytes) -> None:
        """The device changed its configuration space: say which bytes, for a driver may be writing others."""
        changes = [(place, byte) for place, byte in enumerate(data) if byte != self._config[place]]
        self._config[:] = data
        self._channel.send({"is": "config", "changes": changes})

    def _load_config(self, message: dict[str, Any], _fds: list[int]) -> None:
        for place, byte in message["changes"]:
            self._config[place] = byte
        self._device.load_config(self._config)
        if message["by_driver"]:
            try:
                self._device.config_written()
            except Exception as error:  # noqa: BLE001  # the author's code may raise anything; the device lives on
                log.warning(f"config_written failed: {error!r}", error)
            self._channel.send({"is": "configured", "change": message["change"]})

    def _reset(self, _message: dict[str, Any], _fds: list[int]) -> None:
        for index in list(self._queues):
            self._put_down(index)
        self._config = bytearray(self._kind.description().config)
        self._device = self._new_device()

    def _leave(self, _message: dict[str, Any], _fds: list[int]) -> None:
        for index in list(self._queues):
            self._put_down(index)
        self._leaving = True

    def _retired(self, index: int) -> None:
        self._put_down(index)
        self._channel.send({"is": "retired", "queue": index, "why": ""})
