"""A SCSI host (VIRTIO 1.4, 5.6): disks and CD-ROMs behind one device, which come and go while a guest runs."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pyvirtio.device import Device, OutgoingQueue, Queue, Reader, Writer
from pyvirtio.devices.scsi_unit import ABSENT, Overrun, Unit, tell
from pyvirtio.ends import split_list
from pyvirtio.errors import ChainError, LocalError
from pyvirtio.scsi import Check, Opcode, Status, Trouble, parse
from pyvirtio.scsi.commands import luns_data, pack_lun, unpack_lun
from pyvirtio.scsi.medium import DISK
from pyvirtio.spec.struct import Struct, le16, le32, le64, raw, u8
from pyvirtio.system import log
from pyvirtio.system.pieces import fill

HOTPLUG, CHANGE = 1 << 1, 1 << 2
OK, OVERRUN, BAD_TARGET, FAILURE, SUCCEEDED, REJECTED, INCORRECT_LUN = 0, 1, 3, 9, 10, 11, 12  # responses
TMF, AN_QUERY, AN_SUBSCRIBE = 0, 1, 2  # types of control requests
ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, NEXUS_RESET, UNIT_RESET, QUERY_TASK, QUERY_TASK_SET = range(8)
TRANSPORT_RESET, PARAM_CHANGE = 1, 3  # events
RESCAN, REMOVED = 1, 2  # reasons of the first
MOST_TARGETS, MOST_LUNS = 256, 16384
LARGEST = 260  # bytes of a command, or of sense data; SCSI knows no longer ones

Address = tuple[int, int]
"""A target, and a logical unit of it."""


class Config(Struct):
    num_queues: int = le32()
    seg_max: int = le32(126)
    max_sectors: int = le32(0xFFFF)
    cmd_per_lun: int = le32(128)
    event_info_size: int = le32(16)
    sense_size: int = le32(96, writable=True)
    cdb_size: int = le32(32, writable=True)
    max_channel: int = le16()
    max_target: int = le16(MOST_TARGETS - 1)
    max_lun: int = le32(MOST_LUNS - 1)


class Request(Struct):  # then the command, and the data that goes out
    lun: bytes = raw(8)
    id: int = le64()
    task_attr: int = u8()
    prio: int = u8()
    crn: int = u8()


class Response(Struct):  # then sense data, and the data that comes in
    sense_len: int = le32()
    residual: int = le32()
    status_qualifier: int = le16()
    status: int = u8()
    response: int = u8()


class Control(Struct):
    type: int = le32()


class TaskManagement(Struct):
    subtype: int = le32()
    lun: bytes = raw(8)
    id: int = le64()


class Notification(Struct):
    lun: bytes = raw(8)
    event_requested: int = le32()


class Event(Struct):
    event: int = le32()
    lun: bytes = raw(8)
    reason: int = le32()


class Scsi(Device):
    """A SCSI host, whose units are targets in the order in which they are listed.

    ``path`` and ``cdrom`` list files and block devices, such as ``a.img+b.img``; in a program ``path`` may also be a
    dictionary of units by target and logical unit number. `plug` and `unplug` change what there is at any time.
    """

    device_id = 8
    features = HOTPLUG | CHANGE
    controlq = Queue(size=128)
    eventq = OutgoingQueue(size=128)
    requests = Queue(size=128)

    def __init__(
        self,
        path: str | Path | dict[Address, Unit] = "",
        *,
        cdrom: str = "",
        readonly: bool = False,
        queues: int = 1,
    ) -> None:
        if isinstance(path, dict):
            self.units = dict(path)
        else:
            disks = [str(path)] if isinstance(path, Path) else split_list(path)
            wanted = [(name, False) for name in disks if name]
            wanted += [(name, True) for name in split_list(cdrom) if name]
            self.units = {}
            with ExitStack() as opened:  # all of them or none
                for target, (name, is_disc) in enumerate(wanted):
                    unit = self.units[target, 0] = Unit(name, readonly=readonly, cdrom=is_disc)
                    opened.callback(unit.close)
                opened.pop_all()
        for address in self.units:
            pack_address(address)
        self.queues = [Scsi.controlq, Scsi.eventq, *[Scsi.requests] * queues]
        self.config = Config(queues)
        self._running: list[tuple[Address | None, int]] = []
        self._ended = asyncio.Event()
        self._told: set[tuple[Address, int | None]] = set()

    def close(self) -> None:
        """Close what the units are on."""
        for unit in self.units.values():
            unit.close()

    # What there is.

    async def plug(self, unit: Unit, target: int, lun: int = 0) -> None:
        """Add a unit, and have the guest look for it."""
        pack_address((target, lun))
        if (target, lun) in self.units:
            raise LocalError(f"there is a unit {lun} of target {target} already; unplug it first")
        self.units[target, lun] = unit
        await self._tell(HOTPLUG, TRANSPORT_RESET, (target, lun), RESCAN)

    async def unplug(self, target: int, lun: int = 0) -> Unit:
        """Take a unit away, once what it does is done, and tell the guest; return it."""
        unit = self.units.pop((target, lun))
        await self._end_of(lambda address, _id: address == (target, lun))
        await self._tell(HOTPLUG, TRANSPORT_RESET, (target, lun), REMOVED)
        return unit

    async def run(self) -> None:
        """Tell the guest when a file has grown or shrunk on the host."""
        while True:
            for address, unit in list(self.units.items()):
                if unit.resize() and unit.medium.kind == DISK:  # there is no such event for discs (5.6.6.3.2)
                    code, qualifier = Trouble.CAPACITY_CHANGED.to_bytes(2)
                    await self._tell(CHANGE, PARAM_CHANGE, address, code | qualifier << 8)
            await asyncio.sleep(1.0)  # seconds; there is no event that all files and block devices have

    async def _tell(self, feature: int, event: int, address: Address, reason: int) -> None:
        if self.negotiated & feature:  # a driver that comes later asks
            await self.eventq.send(Event(event, pack_address(address), reason).pack())

    # Commands.

    @requests.stream
    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Carry a command out; what it answers comes behind the response, which is filled in at the end."""
        request, block = reader.take(Request), reader.read(self.config.cdb_size)
        head = Response.nbytes + self.config.sense_size
        if len(block) < self.config.cdb_size or writer.room < head or max(len(block), self.config.sense_size) > LARGEST:
            raise ChainError(f"{len(block)} bytes of a command, and room for {writer.room}", section="5.6.6.1")
        place = writer.views(head)
        writer.advance(head)
        address = parse_address(request.lun)
        self._running.append(running := (address, request.id))
        try:
            response, sense = await self._outcome(address, block, reader, writer)
        finally:
            self._running.remove(running)
            self._ended.set()
        response = response.replace(residual=reader.left + writer.room, sense_len=len(sense))
        fill(place, (response.pack() + sense).ljust(head, b"\0"))

    @requests.failed
    def fail(self, writer: Writer) -> None:
        """Let the guest see a failure of the host."""
        if writer.room >= Response.nbytes:
            writer.put(Response(response=FAILURE))

    async def _outcome(
        self, address: Address | None, block: bytes, reader: Reader, writer: Writer
    ) -> tuple[Response, bytes]:
        if reader.left and writer.room:  # VIRTIO_SCSI_F_INOUT is not offered (5.6.6.1.1)
            return Response(response=FAILURE), b""
        if address is None or not self._luns(address[0]):
            return Response(response=BAD_TARGET), b""
        try:
            await self._execute(address, block, reader, writer)
        except Overrun:
            return Response(response=OVERRUN), b""
        except Check as check:
            sense = check.data()
        except OSError as error:
            if (address, error.errno) not in self._told:  # once; the guest can ask as often as it likes
                self._told.add((address, error.errno))
                log.warning("method-failed", f"unit {address[1]} of target {address[0]}: {error!r}", error)
            sense = Check(Trouble.INTERNAL_FAILURE).data()
        else:
            return Response(), b""
        return Response(status=Status.CHECK_CONDITION), sense

    async def _execute(self, address: Address, block: bytes, reader: Reader, writer: Writer) -> None:
        if block[0] == Opcode.REPORT_LUNS:  # any unit answers that, also one that is not there (SPC-4, 6.33)
            _, command = parse(block)
            tell(luns_data(self._luns(address[0])), command.length, writer)
            return
        await self.units.get(address, ABSENT).execute(block, reader, writer)

    def _luns(self, target: int) -> list[int]:
        return sorted(lun for at, lun in self.units if at == target)

    # Control requests.

    @controlq.stream
    async def control(self, reader: Reader, writer: Writer) -> None:
        """Manage tasks; events of a disc's drive are never sent, so none can be subscribed to."""
        kind = reader.take(Control).type
        if kind == TMF:
            task = reader.take(TaskManagement)
            writer.write(bytes((await self._manage(task.subtype, parse_address(task.lun), task.id),)))
        elif kind in {AN_QUERY, AN_SUBSCRIBE}:
            address = parse_address(reader.take(Notification).lun)
            writer.write(bytes(4) + bytes((OK if address in self.units else BAD_TARGET,)))
        else:
            raise ChainError(f"a control request of type {kind}", section="5.6.6.2")

    @controlq.failed
    def fail_control(self, writer: Writer) -> None:
        """Let the guest see that a request is none."""
        if writer.room:
            writer.skip(writer.room - 1)
            writer.write(bytes((FAILURE,)))

    async def _manage(self, function: int, address: Address | None, number: int) -> int:
        """Do what a task management function asks for: nothing is aborted, but it ends before this does."""
        if address is None or not self._luns(address[0]):
            return BAD_TARGET
        if function > QUERY_TASK_SET:
            return REJECTED
        if function != NEXUS_RESET and address not in self.units:
            return INCORRECT_LUN

        def concerns(at: Address | None, task: int) -> bool:
            if function == NEXUS_RESET:
                return at is not None and at[0] == address[0]
            return at == address and (task == number or function not in {ABORT_TASK, QUERY_TASK})

        if function in {QUERY_TASK, QUERY_TASK_SET}:
            return SUCCEEDED if any(concerns(*running) for running in self._running) else OK
        if function != CLEAR_ACA:
            await self._end_of(concerns)
        if function in {NEXUS_RESET, UNIT_RESET}:
            for at, unit in self.units.items():
                unit.news = Trouble.RESET_OCCURRED if concerns(at, number) else unit.news
        return OK

    async def _end_of(self, concerns: Callable[[Address | None, int], bool]) -> None:
        """Return when what runs now, and is concerned, has ended."""
        while any(concerns(*running) for running in self._running):
            self._ended.clear()
            await self._ended.wait()


def pack_address(address: Address) -> bytes:
    """Return a target and a logical unit as requests and events name them (5.6.6.1).

    Linux takes the number in an event as it is, so it has to be the one that REPORT LUNS gave.

    Raises:
        LocalError: there is no such number.
    """
    target, lun = address
    if not 0 <= target < MOST_TARGETS or not 0 <= lun < MOST_LUNS:
        raise LocalError(f"there is no unit {lun} of target {target}; targets end at 255, units at {MOST_LUNS - 1}")
    return bytes((1, target)) + pack_lun(lun) + bytes(4)


def parse_address(data: bytes) -> Address | None:
    """Return which target and logical unit a request names; None where it is neither."""
    lun = unpack_lun(data[2:4])
    return None if data[0] != 1 or lun is None or any(data[4:]) else (data[1], lun)
