"""The messages about the guest's memory, and what becomes of the rings in it."""

from __future__ import annotations

from pyvirtio.errors import ProtocolError
from pyvirtio.memory.table import MAXIMUM_REGIONS
from pyvirtio.transport import Completion
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.handlers import Answer, on, plain
from pyvirtio.vhost_user.memory import SharedRegion, check_regions, close_regions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.transport import DeviceHost
    from pyvirtio.vhost_user.framing import Frame
    from pyvirtio.vhost_user.handlers import Handlers, Steps
    from pyvirtio.vhost_user.rings import Rings


class MemoryMessages:
    """Handles SET_MEM_TABLE and the messages about single regions; ``warn`` is told of a ring that lost its memory."""

    def __init__(self, host: DeviceHost, rings: Rings, warn: Callable[[str], None]) -> None:
        self._host = host
        self._rings = rings
        self._warn = warn
        self._last_change: Completion[None] = Completion.of(None)

    def handlers(self) -> Handlers:
        """Return what handles each message."""
        return {
            m.Request.SET_MEM_TABLE: on(m.MemoryHeader, self._set_table),
            m.Request.ADD_MEM_REG: on(m.SingleRegion, self._add),
            m.Request.REM_MEM_REG: on(m.SingleRegion, self._remove),
            m.Request.GET_MAX_MEM_SLOTS: plain(lambda: Answer(m.Number(MAXIMUM_REGIONS))),
        }

    def _set_table(self, payload: m.MemoryHeader, frame: Frame) -> Steps[None]:
        """Replace all regions. The payload may have room for more than it counts, as a C structure has."""
        number, size = payload.number, m.MemoryRegion.nbytes
        regions = frame.payload[m.MemoryHeader.nbytes :]
        if not number or number * size > len(regions) or len(regions) % size or len(frame.fds) != number:
            raise ProtocolError(
                f"a table of {number} regions came with {len(regions)} bytes and {len(frame.fds)} fds; "
                f"there are {size} bytes and one fd for each"
            )
        sent = [m.MemoryRegion.unpack(regions[at : at + size]) for at in range(0, number * size, size)]
        table = [SharedRegion(region, fd) for region, fd in zip(sent, frame.fds, strict=True)]
        yield from self._replace(table, frame)

    def _add(self, payload: m.SingleRegion, frame: Frame) -> Steps[None]:
        yield from self._replace([*self._rings.regions, SharedRegion(payload, frame.fds[0])], frame)

    def _remove(self, payload: m.SingleRegion, frame: Frame) -> Steps[None]:
        frame.close_fds()  # a descriptor must be closed without being used
        kept = [region for region in self._rings.regions if not region.same_place(payload)]
        if len(kept) == len(self._rings.regions):
            raise ProtocolError(f"there is no region of {payload.size} bytes at {payload.guest:#x}")
        yield from self._replace(kept, frame)

    def _replace(self, regions: list[SharedRegion], frame: Frame) -> Steps[None]:
        """Check a new table, which takes over the frame's descriptors, and hand it to the host.

        A ring that the table moves is served there; one whose areas are not in it any more is stopped and reported.
        """
        rings = self._rings
        check_regions(regions, rings.regions)
        held = [vring for vring in rings.vrings if vring.is_held]
        moving = [vring for vring in held if vring.places(regions) != vring.places(rings.regions)]
        yield from rings.stop(moving)
        dropped = [region for region in rings.regions if region not in regions]
        rings.regions = regions
        frame.fds.clear()
        self._last_change = self._host.set_memory(regions)
        self._last_change.then(lambda _: close_regions(dropped))
        yield self._last_change
        for vring in moving:
            if vring.places(regions) is None:
                self._warn(f"the memory of queue {vring.index} is gone; the queue is stopped until it is set up again")
                vring.set_address(None)
                vring.signal("err")
        try:
            yield from rings.update(moving)
        except ProtocolError as error:
            self._warn(str(error))  # the table stands, whatever becomes of the rings

    def abandon(self) -> Completion[None]:
        """Return what is done when the host needs the descriptors of earlier regions no more."""
        return self._last_change

    def close(self) -> None:
        """Close the regions' descriptors."""
        close_regions(self._rings.regions)
        self._rings.regions = []
