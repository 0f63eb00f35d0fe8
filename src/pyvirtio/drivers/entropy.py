"""The driver of the entropy device."""

from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError


class EntropyDriver(Driver):
    """Reads random bytes.

    >>> from pyvirtio.connect import open_driver
    >>> from pyvirtio.devices.entropy import Entropy
    >>> with open_driver(EntropyDriver, Entropy(source=lambda number: b"4" * number)) as driver:
    ...     driver.read(4)
    b'4444'
    """

    device_id = 4
    device_name = "entropy"
    requests = RequestQueue(size=8)

    def read(self, number: int) -> bytes:
        """Return at most ``number`` random bytes, at least one.

        Raises:
            DeviceError: the device gave none; its log says why.
        """
        data: bytes = self.requests.call(room=number)
        if not data:
            raise DeviceError("the device gave no random bytes; look at its log")
        return data
