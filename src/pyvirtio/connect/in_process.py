"""A driver and a device in one process and one thread: the shortest way that a request can go.

A kick is a call of the device's turn, so an answer is there when `kick` returns.
"""

from __future__ import annotations

import mmap
import os
import time
from functools import partial

from pyvirtio.device import QueueService
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.arena import Arena
from pyvirtio.ring import Journal, device_queue
from pyvirtio.transport import DriverTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.device import Device
    from pyvirtio.transport import QueueSetup

MEMORY = 16 << 20
"""The bytes of memory that driver and device share."""


class InProcessTransport(DriverTransport):
    """Leads a driver to a `Device` object."""

    def __init__(self, device: Device, memory: int = MEMORY) -> None:
        self.device = device
        self.memory = MemoryTable([Region(0, mmap.mmap(-1, memory))])
        self.arena = Arena(0, memory)
        self.faults: list[str] = []
        """What the device's service reported."""
        self._description = device.description()
        self._config = bytearray(self._description.config)
        self._generation = 0
        self._features = 0
        self._setups: list[QueueSetup] = []
        self._services: dict[int, QueueService] = {}
        self._interrupt_fds: dict[int, int] = {}
        device.attach_config(self._device_wrote_config)

    def offered_features(self) -> int:
        """Give what the device offers."""
        return self._description.features

    def accept_features(self, features: int) -> bool:
        """Agree to what was offered."""
        self._features = features
        return not features & ~self._description.features

    def queue_size(self, index: int) -> int:
        """Give what the device declares."""
        sizes = self._description.queue_sizes
        return sizes[index] if index < len(sizes) else 0

    def start_queue(self, setup: QueueSetup) -> None:
        """Keep the record until `run`."""
        self._setups.append(setup)

    def run(self) -> None:
        """Build the device's side of every queue."""
        self.device.negotiate(self._features)
        answers = self.device.answers()
        for setup in self._setups:
            queue = device_queue(setup, self.memory, journal=Journal.private(setup.size))
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._interrupt_fds[setup.index] = fd
            self._services[setup.index] = QueueService(
                queue,
                answers[setup.index],
                partial(os.eventfd_write, fd, 1),
                lambda message, _error: self.faults.append(message),
                time.monotonic_ns,
                repeatable=self.device.repeatable,
            )

    def kick(self, index: int) -> None:
        """Let the device serve the queue, here and now."""
        while self._services[index].turn():
            pass

    def wait(self, index: int, timeout: float | None) -> bool:  # noqa: ARG002  # nobody to wait for
        """Take note of a call. Nobody else runs, so what is not there now never comes."""
        try:
            return bool(os.eventfd_read(self._interrupt_fds[index]))
        except BlockingIOError:
            return False

    def interrupt_fd(self, index: int) -> int:
        """Give the eventfd that the device's service writes."""
        return self._interrupt_fds[index]

    def hangup_fd(self) -> int:
        """Return -1: the device cannot go away by itself."""
        return -1

    def process_events(self) -> None:
        """Do nothing: the device says nothing by itself."""

    def config_generation(self) -> int:
        """Count the changes that the device made; asking to be reset is one (VIRTIO 1.4, 2.1.2)."""
        return self._generation + sum(service.retired for service in self._services.values())

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the device's configuration space."""
        return bytes(self._config[offset : offset + length])

    def write_config(self, offset: int, data: bytes) -> None:
        """Write what the device lets a driver write."""
        mask = self._description.writable
        for place, byte in enumerate(data, start=offset):
            if place < len(mask) and mask[place]:
                self._config[place] = byte
        self.device.load_config(bytes(self._config))
        self.device.config_written()

    def needs_reset(self) -> bool:
        """Tell whether a queue had to be retired (VIRTIO 1.4, 2.1.2)."""
        return any(service.retired for service in self._services.values())

    def close(self) -> None:
        """Forget the device."""
        self._services.clear()
        while self._interrupt_fds:
            os.close(self._interrupt_fds.popitem()[1])

    def _device_wrote_config(self, data: bytes) -> None:
        self._config[:] = data
        self._generation += 1
