"""The driver of the console device."""

from __future__ import annotations

from pyvirtio.devices.console import EMERG_WRITE, MOST_PORTS, MULTIPORT, SIZE, Config, Control, Event, Resize
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvirtio.transport import DriverTransport

ROOM = 4096
"""The bytes of a buffer for what comes."""


class PortState:
    """What the device has said of a port."""

    def __init__(self) -> None:
        self.is_console = False
        self.is_open = False
        self.name = ""
        self.size: tuple[int, int] | None = None


class ConsoleDriver(Driver):
    """Reads and writes the ports of a console.

    Where the device has several ports, or named ones, `next_message` hears what it says of them; a port has to be
    opened before it receives.

    >>> from pyvirtio.connect import open_driver
    >>> from pyvirtio.devices.console import Console, Port
    >>> from pyvirtio.ends import End
    >>> class Shout(End):
    ...     def put(self, data):
    ...         print(data.decode().upper())
    ...         return len(data)
    >>> with open_driver(ConsoleDriver, Console([Port(Shout())])) as driver:
    ...     driver.write(b"hello")
    HELLO

    Attributes:
        ports: what is known of each port, by its number.
    """

    device_id = 3
    device_name = "console"
    features = SIZE | MULTIPORT | EMERG_WRITE
    config = Config
    receiveq = RequestQueue()
    transmitq = RequestQueue()
    control_receiveq = RequestQueue()
    control_transmitq = RequestQueue()

    def __init__(self, transport: DriverTransport, *, features: int | None = None, **options: Any) -> None:
        super().__init__(transport, features=features, **options)
        self.ports: dict[int, PortState] = {}
        if self.negotiated & MULTIPORT:
            self._say(Event.DEVICE_READY, 0xFFFFFFFF)
        else:
            self.ports[0] = PortState()

    def each_queue(self) -> Sequence[RequestQueue]:
        """Return the two queues of each port, and behind the first port's those for control (5.3.2).

        Raises:
            DeviceError: the device has an impossible number of ports.
        """
        kind = ConsoleDriver
        if not self.negotiated & MULTIPORT:
            return [kind.receiveq, kind.transmitq]
        number = self.read_config().as_dict()["max_nr_ports"]
        if not 1 <= number <= MOST_PORTS:
            raise DeviceError(f"the device says that it has {number} ports; there are 1 to {MOST_PORTS}")
        return [*kind.queues, *[kind.receiveq, kind.transmitq] * (number - 1)]

    # Data.

    def write(self, data: bytes, port: int = 0) -> None:
        """Write ``data`` to a port, and wait until the device has taken it; raises as `Ticket.data` does."""
        for start in range(0, len(data), ROOM):
            self.all_of(ConsoleDriver.transmitq)[port].call(data[start : start + ROOM], room=0)

    def read(self, port: int = 0, timeout: float | None = 30.0) -> bytes:
        """Return what comes next from a port.

        Raises:
            NoAnswer: nothing came for ``timeout`` seconds.
        """
        data: bytes = next(self.all_of(ConsoleDriver.receiveq)[port].incoming(room=ROOM, timeout=timeout))
        return data

    def emergency_write(self, character: int) -> None:
        """Put out a character without any queue (5.3.5)."""
        self.write_config(emerg_wr=character)

    # Control.

    def open_port(self, port: int, *, is_open: bool = True) -> None:
        """Tell the device that a port is open, or closed, on this side."""
        self._say(Event.PORT_OPEN, port, is_open)

    def next_message(self, timeout: float | None = 30.0) -> Control:
        """Return what the device says next of its ports; ``ports`` knows it then.

        What the specification wants answered is answered.

        Raises:
            NoAnswer: it said nothing for ``timeout`` seconds.
            DeviceError: it makes no sense.
        """
        data: bytes = next(self.control_receiveq.incoming(room=ROOM, timeout=timeout))
        if len(data) < Control.nbytes:
            raise DeviceError(f"a control message of {len(data)} bytes", section="5.3.6.2")
        message, rest = Control.unpack(data), data[Control.nbytes :]
        if message.event == Event.DEVICE_ADD and message.id < len(self.all_of(ConsoleDriver.receiveq)):
            self.ports.setdefault(message.id, PortState())
            self._say(Event.PORT_READY, message.id)
            return message
        if (port := self.ports.get(message.id)) is None:
            raise DeviceError(f"the device speaks of port {message.id}, which it has not added", section="5.3.6.2")
        self._take_note(message, port, rest)
        return message

    def _take_note(self, message: Control, port: PortState, rest: bytes) -> None:
        if message.event == Event.CONSOLE_PORT:
            port.is_console = True
            self.open_port(message.id)  # 5.3.6.2 demands it
        elif message.event == Event.PORT_OPEN:
            port.is_open = bool(message.value)
        elif message.event == Event.PORT_NAME:
            port.name = rest.decode(errors="replace")
        elif message.event == Event.DEVICE_REMOVE:
            del self.ports[message.id]
        elif message.event == Event.RESIZE and len(rest) >= Resize.nbytes:
            size = Resize.unpack(rest)
            port.size = size.cols, size.rows

    def _say(self, event: Event, port: int, value: int = 1) -> None:
        self.control_transmitq.call(Control(port, event, value), room=0)
