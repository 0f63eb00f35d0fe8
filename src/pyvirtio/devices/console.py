"""A console (VIRTIO 1.4, 5.3): terminals and serial ports of a guest, each with an end on the host.

    pyvirtio serve console --socket /tmp/s                       # one terminal, /dev/hvc0, on a pseudo-terminal
    pyvirtio serve console,ports=pty:/tmp/tty+agent=unix:/tmp/a  # and a serial port, /dev/virtio-ports/agent

Nothing is kept for a host that does not read or a guest that does not: whoever writes waits. Only a terminal does not
wait longer than `LINGER`, for Linux spins until what it printed is taken; what is printed meanwhile is lost.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum

from pyvirtio.device import Device, OutgoingQueue, Queue, Reader, Writer
from pyvirtio.ends import End, Outlet, end_of, split_list
from pyvirtio.errors import ChainError, LocalError, NotNow, UsageError
from pyvirtio.spec.struct import Struct, le16, le32

SIZE, MULTIPORT, EMERG_WRITE = 1, 2, 4  # feature bits (5.3.3)
MOST_KEPT = 1 << 20  # bytes of one buffer that wait for the host; Linux sends far fewer at once
LINGER = 1.0  # seconds that a terminal waits for a host that does not read
MOST_PORTS = 511  # what QEMU's 1024 queues are enough for


class Config(Struct):
    cols: int = le16()
    rows: int = le16()
    max_nr_ports: int = le32()
    emerg_wr: int = le32(writable=True)


class Event(IntEnum):
    """What a control message says (5.3.6.2)."""

    DEVICE_READY, DEVICE_ADD, DEVICE_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME = range(8)


class Control(Struct):
    id: int = le32()
    event: int = le16(kind=Event)
    value: int = le16()


class Resize(Struct):
    cols: int = le16()
    rows: int = le16()


class Port:
    """One port: a serial port if it has a name, else a terminal. ``end`` is where its bytes go to and come from.

    ``opened`` is set while somebody in the guest has it open.
    """

    def __init__(self, end: End, name: str = "") -> None:
        if len(name.encode()) > 255 or not (name.isprintable() and "/" not in name):
            raise LocalError(f"{name!r} cannot be the name of a port: give up to 255 bytes of text without a slash")
        self.end = end
        self.name = name
        self.number = 0
        self.opened = asyncio.Event()
        self.outlet = Outlet(end, linger=None if name else LINGER)


def ports_of(text: str) -> list[Port]:
    """Return the ports that ``pty+log=file:/tmp/log`` lists: ends, with a name where it is a serial port."""
    pairs = [item.partition("=") if "=" in item else ("", "", item) for item in split_list(text)]
    return [Port(end_of(end), name) for name, _, end in pairs]


class Console(Device):
    """Terminals and serial ports.

    ``ports`` lists their ends, such as ``pty+agent=unix:/tmp/a``, or holds a `Port` for each. One that is alone and has
    no name needs no feature of the driver. ``columns`` and ``rows`` are a terminal's size before its end has one.
    """

    device_id = 3
    kept_size = MOST_PORTS  # a byte for each: whether it is open in the guest, which does not say so again
    receiveq = OutgoingQueue(size=64)
    transmitq = Queue(size=64)
    control_receiveq = OutgoingQueue(size=64)
    control_transmitq = Queue(size=64)

    def __init__(self, ports: str | list[Port] = "pty", *, columns: int = 80, rows: int = 25) -> None:
        self.all_ports = found = ports_of(ports) if isinstance(ports, str) else ports
        names = [port.name for port in found if port.name]
        if not 1 <= len(found) <= MOST_PORTS or len(set(names)) < len(names):
            raise UsageError(f"a console has 1 to {MOST_PORTS} ports, each with a name of its own; not {names}")
        self._has_control = bool(names) or len(found) > 1
        self.features = SIZE | EMERG_WRITE | MULTIPORT * self._has_control
        pair, control = [Console.receiveq, Console.transmitq], [Console.control_receiveq, Console.control_transmitq]
        self.queues = [*pair, *(control if self._has_control else []), *pair * (len(found) - 1)]  # 5.3.2
        self.config = Config(columns, rows, len(found))
        self._outbox: dict[tuple[int, Event], None] = {}  # what is to be told, each thing once; 5.3.6.2
        self._news = asyncio.Event()
        for number, port in enumerate(found):
            port.number = number
            port.end.changed = lambda port=port: self._end_changed(port)  # type: ignore[misc]  # a lambda's default
            port.end.open()

    def queue_started(self, _index: int, *, resumed: bool) -> None:
        """Find out which ports are open in the guest, for a process before this one may have heard that."""
        for port, is_open in zip(self.all_ports, self.kept_memory or b"", strict=False):
            self._set_opened(port, is_open)

    async def run(self) -> None:
        """Bring the guest what comes from the ends, and the ends what they had no room for."""
        async with asyncio.TaskGroup() as tasks:
            for port in self.all_ports:
                port.end.open(take_over=True)
                tasks.create_task(self._feed(port))
                tasks.create_task(self._catch_up(port))
            if self._has_control:
                tasks.create_task(self._tell())

    def close(self) -> None:
        """Close the ends."""
        for port in self.all_ports:
            port.end.close()

    # Data.

    async def _feed(self, port: Port) -> None:
        receiveq = self.ports(Console.receiveq)[port.number]
        while data := await port.end.read():
            if self.negotiated & MULTIPORT:
                await port.opened.wait()  # before that, Linux throws it away
            await receiveq.write(data)

    @transmitq.stream
    def transmit(self, reader: Reader, _writer: Writer, number: int) -> None:
        """Give the end what the guest wrote; while it has not taken that, take no more from the guest."""
        outlet = self.all_ports[number].outlet
        if outlet.rest:
            raise NotNow
        outlet.put(reader.read(MOST_KEPT))
        if reader.left:
            raise ChainError(f"{reader.left} bytes are lost: the device takes up to {MOST_KEPT} at once")

    async def _catch_up(self, port: Port) -> None:
        while True:
            await port.outlet.catch_up()
            self.resume(Console.transmitq, port.number)

    # Control.

    @control_transmitq.stream
    def control(self, reader: Reader, _writer: Writer) -> None:
        """Take note of what the driver says, and answer with all it has to know (5.3.5, 5.3.6.2)."""
        message = reader.take(Control)
        if message.event == Event.DEVICE_READY:
            self._outbox.clear()
            for port in self.all_ports if message.value else ():
                self._set_opened(port, 0)
                self._say(port, Event.DEVICE_ADD)
            return
        if message.id >= len(self.all_ports):
            raise ChainError(f"there is no port {message.id}", section="5.3.6.2")
        port = self.all_ports[message.id]
        if message.event == Event.PORT_READY:
            own = (Event.PORT_NAME,) if port.name else (Event.CONSOLE_PORT, Event.RESIZE)
            self._say(port, *((*own, Event.PORT_OPEN) if message.value else ()))
        elif message.event == Event.PORT_OPEN:
            self._set_opened(port, message.value)
        else:
            raise ChainError(f"a driver does not send the control message {message.event!r}", section="5.3.6.2")

    def _set_opened(self, port: Port, value: int) -> None:
        (port.opened.set if value else port.opened.clear)()
        if self.kept_memory is not None:
            self.kept_memory[port.number] = bool(value)

    def _say(self, port: Port, *events: Event) -> None:
        self._outbox |= dict.fromkeys((port.number, event) for event in events)
        self._news.set()

    async def _tell(self) -> None:
        while await self._news.wait():
            while self._outbox:
                number, event = next(iter(self._outbox))
                del self._outbox[number, event]
                try:
                    await self.control_receiveq.send(self._message(self.all_ports[number], event))
                except LocalError as error:  # the driver's buffer is too small
                    self.info("a control message is lost: %s", str(error))
            self._news.clear()

    def _message(self, port: Port, event: Event) -> bytes:
        values = {Event.CONSOLE_PORT: 1, Event.PORT_OPEN: port.end.is_open}
        message = Control(port.number, event, values.get(event, 0)).pack()
        if event == Event.PORT_NAME:
            return message + port.name.encode()
        if event == Event.RESIZE:
            cols, rows = port.end.size or (self.config.cols, self.config.rows)
            return message + Resize(cols, rows).pack()
        return message

    def _end_changed(self, port: Port) -> None:
        if self._has_control:
            self._say(port, Event.PORT_OPEN, *(() if port.name else (Event.RESIZE,)))
        if port.number == 0 and port.end.size:
            cols, rows = port.end.size
            self.update_config(cols=cols, rows=rows)

    def resize(self, columns: int, rows: int, port: int = 0) -> None:
        """Change the size of a terminal; the guest's programs get SIGWINCH."""
        self.all_ports[port].end.size = columns, rows
        self._end_changed(self.all_ports[port])

    def config_written(self) -> None:
        """Put out the character of an emergency write, also before the driver is there (5.3.5.1)."""
        if written := self.config.emerg_wr:
            self.update_config(emerg_wr=0)
            self.all_ports[0].end.put(bytes([written & 0xFF]))
