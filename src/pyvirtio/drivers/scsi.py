"""The driver of a SCSI host: commands for its units, and what a program asks of a disk."""

from __future__ import annotations

from itertools import count

from pyvirtio.devices.scsi import (
    CHANGE,
    HOTPLUG,
    OK,
    TMF,
    Config,
    Control,
    Event,
    Request,
    Response,
    TaskManagement,
    pack_address,
)
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError
from pyvirtio.scsi import Key, Opcode, Status
from pyvirtio.scsi.commands import (
    READ_CAPACITY_16,
    Cdb10,
    Cdb16,
    Inquiry,
    ReportLuns,
    UnmapHeader,
    UnmapRange,
    unpack_lun,
)
from pyvirtio.scsi.medium import Capacity16

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.devices.scsi import Address
    from pyvirtio.driver import Ticket
    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import DriverTransport

EVENTS = 16
"""How many buffers the device has for events."""


class SenseError(DeviceError):
    """A command ended with CHECK CONDITION; ``key``, ``code`` and ``qualifier`` say why (SPC-4, 4.5)."""

    def __init__(self, sense: bytes) -> None:
        self.key, self.code, self.qualifier = sense[2] & 0x0F, sense[12], sense[13]
        names = {int(key): key.name for key in Key}
        super().__init__(
            f"the unit answers CHECK CONDITION: {names.get(self.key, f'key {self.key:#x}')}, "
            f"{self.code:02x}h/{self.qualifier:02x}h"
        )


class ScsiDriver(Driver):
    """Sends commands to units, each named by its target and its number there; lengths and places are in blocks.

    >>> from pyvirtio.connect import open_driver
    >>> from pyvirtio.devices.scsi import Scsi
    >>> from pyvirtio.devices.scsi_unit import Unit
    >>> with open_driver(ScsiDriver, Scsi({(0, 0): Unit(bytearray(1 << 20))})) as driver:
    ...     driver.write((0, 0), 7, b"hello".ljust(512))
    ...     driver.read((0, 0), 7, 1)[:5], driver.capacity((0, 0)), driver.units(0)
    (b'hello', (2048, 512), [0])
    """

    device_id = 8
    device_name = "scsi"
    features = HOTPLUG | CHANGE
    config = Config
    controlq = RequestQueue(size=16)
    eventq = RequestQueue(size=EVENTS)
    requests = RequestQueue(Request, Response, data=True)

    def __init__(self, transport: DriverTransport, **options: Any) -> None:
        super().__init__(transport, **options)
        self._ids = count(1)
        config = self.read_config()
        assert isinstance(config, Config)
        self._command_size, self._sense_size = config.cdb_size, config.sense_size
        self.events = self.eventq.incoming(room=Event.nbytes, buffers=EVENTS)
        """What the device tells by itself: each is the bytes of an `Event`."""

    def submit(self, address: Address, command: Struct | bytes, data: bytes = b"", *, room: int = 0) -> Ticket:
        """Send a command with data, or with room for an answer; `check` takes what comes of it."""
        block = (command if isinstance(command, bytes) else command.pack()).ljust(self._command_size, b"\0")
        request = Request(pack_address(address), next(self._ids))
        space = Response.nbytes + self._sense_size + room
        return self.requests.submit(request, block + data, room=space)

    def check(self, ticket: Ticket) -> bytes:
        """Wait for a command's end, and return the data that came with it.

        Raises:
            SenseError: the unit says that it failed, and why.
            DeviceError: the command did not come to a unit, or the device broke a rule.
        """
        answer = ticket.result()
        if answer.head.response != OK:
            raise DeviceError(f"the SCSI host answers with the response {answer.head.response}; look at its log")
        if answer.head.status == Status.CHECK_CONDITION:
            raise SenseError(answer.data[: self._sense_size])
        data: bytes = answer.data[self._sense_size :]
        return data

    def execute(self, address: Address, command: Struct | bytes, data: bytes = b"", *, room: int = 0) -> bytes:
        """Send a command and return what came with its answer; raises as `check` does."""
        return self.check(self.submit(address, command, data, room=room))

    def manage(self, function: int, address: Address, number: int = 0) -> int:
        """Ask for a task management function, such as ``UNIT_RESET``; return the response."""
        request = Control(TMF).pack() + TaskManagement(function, pack_address(address), number).pack()
        answer: bytes = self.controlq.call(request, room=1)
        return answer[0]

    # What there is.

    def units(self, target: int) -> list[int]:
        """Return the numbers of a target's units; raises DeviceError where there is no such target."""
        answer = self.execute((target, 0), ReportLuns(Opcode.REPORT_LUNS, length=1 << 16), room=1 << 16)
        numbers = [unpack_lun(answer[at : at + 2]) for at in range(8, 8 + int.from_bytes(answer[:4]), 8)]
        return [number for number in numbers if number is not None]

    def inquire(self, address: Address, page: int | None = None) -> bytes:
        """Return what a unit says of itself, or a page of vital product data; raises as `check` does."""
        return self.execute(address, Inquiry(Opcode.INQUIRY, page is not None, page or 0, 255), room=255)

    def capacity(self, address: Address) -> tuple[int, int]:
        """Return how many blocks a disk has, and the bytes of each; raises as `check` does."""
        command = Cdb16(Opcode.SERVICE_ACTION_IN_16, READ_CAPACITY_16, length=Capacity16.nbytes)
        found = Capacity16.unpack(self.execute(address, command, room=Capacity16.nbytes))
        return found.last_lba + 1, found.block_size

    # Its content.

    def read(self, address: Address, lba: int, blocks: int, *, block_size: int = 512) -> bytes:
        """Return so many blocks; raises as `check` does."""
        return self.execute(address, Cdb16(Opcode.READ_16, 0, lba, blocks), room=blocks * block_size)

    def write(self, address: Address, lba: int, data: bytes, *, block_size: int = 512) -> None:
        """Write whole blocks; raises as `check` does. Only `flush` makes them last."""
        self.execute(address, Cdb16(Opcode.WRITE_16, 0, lba, len(data) // block_size), data)

    def flush(self, address: Address) -> None:
        """Return when everything that was written before is on the medium; raises as `check` does."""
        self.execute(address, Cdb10(Opcode.SYNCHRONIZE_CACHE_10))

    def unmap(self, address: Address, lba: int, blocks: int) -> None:
        """Say that nobody needs these blocks any more; raises as `check` does."""
        size = UnmapRange.nbytes
        parameters = UnmapHeader(size + UnmapHeader.nbytes - 2, size).pack() + UnmapRange(lba, blocks).pack()
        self.execute(address, Cdb10(Opcode.UNMAP, length=len(parameters)), parameters)
