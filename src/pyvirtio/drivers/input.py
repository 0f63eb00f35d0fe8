"""The driver of the input device."""

from __future__ import annotations

from pyvirtio.devices.input import AbsInfo, Config, DevIds, Event, Select
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError
from pyvirtio.spec.input_codes import Led, Type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class InputDriver(Driver):
    """Asks an input device what it has, and receives its events.

    >>> from pyvirtio.connect import open_driver
    >>> from pyvirtio.devices.input import Input
    >>> with open_driver(InputDriver, Input("mouse")) as driver:
    ...     driver.name, sorted(driver.codes(Type.EV_REL))
    ('pyvirtio mouse', [0, 1, 6, 8])
    """

    device_id = 18
    device_name = "input"
    config = Config
    eventq = RequestQueue(None, Event, size=64)
    statusq = RequestQueue(Event, size=64)

    def select(self, select: int, subsel: int = 0) -> bytes:
        """Return what the device has to say of something; nothing where it has nothing (5.8.4).

        Raises:
            DeviceError: it says that there is more than there can be.
        """
        self.write_config(select=select, subsel=subsel)
        answer = Config.unpack(self.read_config().pack())
        if answer.size > len(answer.u):
            raise DeviceError(f"the device speaks of {answer.size} bytes where there are {len(answer.u)}")
        return answer.u[: answer.size]

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return self.select(Select.ID_NAME).decode(errors="replace")

    @property
    def identity(self) -> DevIds:
        """Bus, vendor, product and version; raises ShortData where the device does not say."""
        return DevIds.unpack(self.select(Select.ID_DEVIDS))

    def codes(self, kind: int) -> set[int]:
        """Return the codes of the events of one type that it has."""
        return _bits(self.select(Select.EV_BITS, kind))

    def properties(self) -> set[int]:
        """Return what it is like."""
        return _bits(self.select(Select.PROP_BITS))

    def axis(self, code: int) -> AbsInfo:
        """Return the range of an absolute axis; raises ShortData where it has no such axis."""
        return AbsInfo.unpack(self.select(Select.ABS_INFO, code))

    def events(self, timeout: float | None = 30.0) -> Iterator[Event]:
        """Yield each event as it comes; raises NoAnswer where none comes for ``timeout`` seconds."""
        yield from self.eventq.incoming(timeout=timeout)

    def switch(self, led: Led, *, is_on: bool = True) -> None:
        """Switch a light."""
        self.statusq.call(Event(Type.EV_LED, led, is_on), room=0)


def _bits(bitmap: bytes) -> set[int]:
    return {8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1}
