"""A transport to a device of which every answer is a test's to choose.

>>> from pyvirtio.drivers.factorial import FactorialDriver
>>> transport = ScriptedTransport(queue_sizes=[4])
>>> @transport.on_kick
... def lie(device):
...     for head in device.heads():
...         device.answer(head, b"four")
>>> with FactorialDriver(transport, features=0) as driver:
...     driver.factorial(5) == int.from_bytes(b"four", "little")
True
"""

from __future__ import annotations

from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.arena import Arena
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.system.eventfd_set import EventfdSet
from pyvirtio.testing.raw_device import RawDevice
from pyvirtio.transport import DriverTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvirtio.transport import QueueSetup

MEMORY = 1 << 20
"""The bytes of memory that the driver shares with the device."""


class ScriptedTransport(DriverTransport):
    """Leads a `Driver` to whatever a test makes of it. Nothing ever waits.

    Attributes:
        features: what the device offers.
        agrees: what it says to the driver's choice of features (FEATURES_OK).
        accepted: that choice.
        queue_sizes: the entries that it says its queues have.
        config: its configuration space.
        generations: returns what the driver reads as the generation, each time that it reads it.
        wants_reset: whether it says DEVICE_NEEDS_RESET.
        running: whether the driver said DRIVER_OK.
        closed: whether the driver gave up.
        kicks: the queues that were kicked, in order.
        devices: the device's end of each queue that the driver set up.
    """

    def __init__(
        self, *, features: int = RING_FEATURES, queue_sizes: Sequence[int] = (128,), config: bytes = b""
    ) -> None:
        self.memory = MemoryTable([Region(0x10000, bytearray(MEMORY))])
        self.arena = Arena(0x10000, MEMORY)
        self.features = features
        self.agrees = True
        self.accepted = 0
        self.queue_sizes = list(queue_sizes)
        self.config = bytearray(config)
        self.generations: Callable[[], int] = int
        self.wants_reset = False
        self.running = False
        self.closed = False
        self.kicks: list[int] = []
        self.devices: dict[int, RawDevice] = {}
        self._script: Callable[[RawDevice], object] = lambda _device: None
        self._interrupts = EventfdSet()

    def on_kick(self, script: Callable[[RawDevice], object]) -> None:
        """Have ``script`` play the device: it gets the kicked queue. An interrupt follows."""
        self._script = script

    def call(self, index: int = 0) -> None:
        """Interrupt the driver."""
        self._interrupts.signal(index)

    # What a driver asks of a transport.

    def offered_features(self) -> int:
        """Return `features`."""
        return self.features

    def accept_features(self, features: int) -> bool:
        """Note the driver's choice and give `agrees`."""
        self.accepted = features
        return self.agrees

    def queue_size(self, index: int) -> int:
        """Return what `queue_sizes` says."""
        return self.queue_sizes[index] if index < len(self.queue_sizes) else 0

    def start_queue(self, setup: QueueSetup) -> None:
        """Make the queue's `RawDevice`."""
        self.devices[setup.index] = RawDevice.of(self.memory, setup)
        self._interrupts.add(setup.index)

    def run(self) -> None:
        """Note DRIVER_OK."""
        self.running = True

    def kick(self, index: int) -> None:
        """Run the script, and interrupt."""
        self.kicks.append(index)
        self._script(self.devices[index])
        self.call(index)

    def wait(self, indexes: Sequence[int], timeout: float | None) -> bool:  # noqa: ARG002  # nobody to wait for
        """Take interrupts; nothing ever comes later."""
        return self._interrupts.take(*indexes)

    def interrupt_fd(self, index: int) -> int:
        """Return the eventfd that `call` writes."""
        return self._interrupts[index]

    def hangup_fd(self) -> int:
        """Return -1: the device cannot go away by itself."""
        return -1

    def process_events(self) -> None:
        """Do nothing: the device says nothing by itself."""

    def config_generation(self) -> int:
        """Return what `generations` returns."""
        return self.generations()

    def read_config(self, offset: int, length: int) -> bytes:
        """Read `config`."""
        return bytes(self.config[offset : offset + length])

    def write_config(self, offset: int, data: bytes) -> None:
        """Write `config`."""
        self.config[offset : offset + len(data)] = data

    def needs_reset(self) -> bool:
        """Return `wants_reset`."""
        return self.wants_reset

    def close(self) -> None:
        """Note that the driver is gone."""
        self.closed = True
        self._interrupts.close()
