"""The driver of the factorial device."""

from __future__ import annotations

from math import ceil, lgamma, log

from pyvirtio.devices.factorial import DONE, EXACT, TOO_LARGE, TOO_SMALL, Config, ExactResponse, Request, Response
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyvirtio.driver import Ticket

# The most bytes of answers to ask for at a time: a few large ones, or a queue full of small ones.
_WINDOW = 4 << 20


class FactorialDriver(Driver):
    """Has the device compute factorials.

    With the feature EXACT they are exact; without it, they are modulo 2**32.
    """

    device_id = 45
    device_name = "factorial"
    features = EXACT
    config = Config
    compute = RequestQueue(Request, Response, size=128)

    @property
    def exact(self) -> bool:
        """Whether the values are exact."""
        return bool(self.negotiated & EXACT)

    def factorial(self, n: int) -> int:
        """Return n!, exact or modulo 2**32; see `factorials`.

        >>> from pyvirtio.connect import open_driver
        >>> from pyvirtio.devices.factorial import Factorial
        >>> with open_driver(FactorialDriver, Factorial()) as driver:
        ...     driver.factorial(20)
        2432902008176640000
        """
        return next(self.factorials([n]))

    def factorials(self, numbers: Iterable[int]) -> Iterator[int]:
        """Yield n! for each of ``numbers``, in order, with as many requests in flight as are worth it.

        Raises:
            LocalError: a number is negative or takes more than 32 bits, or exceeds the device's limit for exact values.
            DeviceError: the device broke a rule.
            NoAnswer: the device has not answered in time.
        """
        window: list[tuple[int, Ticket]] = []
        asked = 0
        for n in numbers:
            room = self._room(n)
            if window and (asked + room > _WINDOW or len(window) == self.compute.ring.size):
                yield from self._collect(window)
                window, asked = [], 0
            window.append((n, self.compute.submit(Request(n), room=room)))
            asked += room
        yield from self._collect(window)

    def _room(self, n: int) -> int:
        if not 0 <= n < 2**32:
            raise LocalError(f"{n} cannot be sent; ask for a number from 0 to 4294967295")
        if not self.exact:
            return Response.nbytes
        # Bound for absurd n, which the device refuses: its limit cannot be more than memory holds.
        bits = min(lgamma(n + 1) / log(2), 8 * _WINDOW)
        return ExactResponse.nbytes + ceil(bits / 8) + 8

    def _collect(self, window: list[tuple[int, Ticket]]) -> Iterator[int]:
        for n, ticket in window:
            yield self._exact(n, ticket.data()) if self.exact else ticket.result().ret

    def _exact(self, n: int, data: bytes) -> int:
        if len(data) < ExactResponse.nbytes:
            raise DeviceError(f"the device answered {n} with {len(data)} bytes; look at its log")
        head = ExactResponse.unpack(data)
        value = data[ExactResponse.nbytes :][: head.size]
        if head.status == TOO_LARGE:
            limit = self.read_config().as_dict()["max_exact"]
            raise LocalError(
                f"this device computes n! exactly up to n = {limit}, and {n} was asked; "
                "ask for n! mod 2**32, which it computes for every n (--wrap32 on the command line)"
            )
        if head.status == TOO_SMALL:
            raise DeviceError(f"the device says that {n}! takes {head.size} bytes, which is wrong")
        if head.status != DONE or len(value) != head.size:
            raise DeviceError(
                f"the device answered {n} with status {head.status} and {len(value)} of {head.size} bytes"
            )
        return int.from_bytes(value, "little")
