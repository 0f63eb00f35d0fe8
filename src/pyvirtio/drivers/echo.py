"""The driver of the echo device."""

from __future__ import annotations

from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.spec.ids import DEFAULT_ID


class EchoDriver(Driver):
    """Has the device return what it is sent."""

    device_id = DEFAULT_ID
    device_name = "echo"
    requests = RequestQueue(size=128)

    def echo(self, data: bytes) -> bytes:
        """Return ``data`` as it came back.

        >>> from pyvirtio.connect import open_driver
        >>> from pyvirtio.devices.echo import Echo
        >>> with open_driver(EchoDriver, Echo()) as driver:
        ...     driver.echo(b"hello back end!")
        b'hello back end!'

        Raises:
            NoAnswer: the device has not answered in time.
        """
        return self.requests.submit(data, room=len(data)).data()
