"""The driver of a memory balloon: memory of its own to lend, and statistics to tell."""

from __future__ import annotations

from dataclasses import asdict

from pyvirtio.devices.balloon import FREE_PAGE_HINT, PAGE, PAGE_REPORTING, STATS_VQ, Config, Stat, Statistics, Tag
from pyvirtio.driver import Driver, RequestQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.driver import Ticket

MOST_AT_ONCE = 256
"""The most pages that one request names."""


class BalloonDriver(Driver):
    """Lends pages of the memory that it shares with the device.

    >>> from pyvirtio.connect import open_driver
    >>> from pyvirtio.devices.balloon import Balloon
    >>> with open_driver(BalloonDriver, balloon := Balloon(target=1 << 20)) as driver:
    ...     driver.settle()
    ...     balloon.actual == driver.actual == 1 << 20
    True
    """

    device_id = 5
    device_name = "balloon"
    features = required = STATS_VQ | FREE_PAGE_HINT | PAGE_REPORTING
    config = Config
    inflate = RequestQueue()
    deflate = RequestQueue()
    stats = RequestQueue(size=2)
    hints = RequestQueue()
    reports = RequestQueue()
    _lent: tuple[int, ...] = ()

    @property
    def target(self) -> int:
        """The bytes that the device would like to have."""
        return PAGE * int(self.read_config().as_dict()["num_pages"])

    @property
    def actual(self) -> int:
        """The bytes that it has."""
        return PAGE * len(self._lent)

    def settle(self) -> None:
        """Lend, or take back, until the device has what it would like to have.

        Raises:
            LocalError: there is not so much memory to lend.
        """
        missing = (self.target - self.actual) // PAGE
        self.lend(missing) if missing > 0 else self.take_back(-missing)

    def lend(self, number: int) -> None:
        """Lend so many pages of 4096 bytes; raises as `settle` does."""
        arena, lent = self.transport.arena, list[int]()
        try:
            for _ in range(number):
                lent.append(arena.allocate(PAGE))
        except BaseException:
            for address in lent:
                arena.free(address, PAGE)
            raise
        for start in range(0, number, MOST_AT_ONCE):
            self.inflate.call(_numbers(lent[start : start + MOST_AT_ONCE]), room=0)
        self._set((*self._lent, *lent))

    def take_back(self, number: int) -> None:
        """Take so many of the pages back that were lent last."""
        kept, returned = self._lent[: len(self._lent) - number], self._lent[len(self._lent) - number :]
        for start in range(0, len(returned), MOST_AT_ONCE):
            self.deflate.call(_numbers(returned[start : start + MOST_AT_ONCE]), room=0)
        for address in returned:
            self.transport.arena.free(address, PAGE)
        self._set(kept)

    def _set(self, lent: tuple[int, ...]) -> None:
        self._lent = lent
        self.write_config(actual=len(lent))

    def report_free(self, number: int) -> None:
        """Tell the device that so many pages side by side are free; it may take what is in them until this returns."""
        self.reports.call(room=number * PAGE)

    def offer(self, statistics: Statistics) -> Ticket:
        """Lay statistics out; when the ticket is done, the device has asked for the next ones."""
        known = {Tag[name.upper()]: value for name, value in asdict(statistics).items() if value is not None}
        return self.stats.submit(b"".join(Stat(tag, value).pack() for tag, value in known.items()), room=0)


def _numbers(addresses: list[int] | tuple[int, ...]) -> bytes:
    return b"".join((address // PAGE).to_bytes(4, "little") for address in addresses)
