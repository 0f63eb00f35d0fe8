"""What a connection is about, for somebody who listens to it: the guest's memory, and where each queue lies.

Nothing here is refused, for that is the back-end's part. What makes no sense is passed over: then a ring cannot be
found, or not be read, and the recording says so.

Memory is read with ``pread`` and never mapped: whoever owns the file may cut it at any moment, and a mapping would then
end this process.
"""

from __future__ import annotations

import os

from pyvirtio.errors import PeerError, ShortData, VirtioError
from pyvirtio.memory.table import MAXIMUM_REGIONS
from pyvirtio.spec import split
from pyvirtio.spec.features import Feature
from pyvirtio.trace.events import SNAP, Event
from pyvirtio.trace.messages import message
from pyvirtio.trace.rings import RingFollower, RingReader
from pyvirtio.transport import QueueSetup
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.memory import SharedRegion, close_regions, guest_address, read_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.vhost_user.framing import Frame

    Heard = Callable[[Frame, int], list[Event]]

MOST_QUEUES = 1024
"""The most queues that are followed."""

_IN_BAND_KICK = 35
"""VHOST_USER_VRING_KICK: a kick that comes as a message."""

_IN_BAND_CALL, _IN_BAND_ERR = 4, 5
"""VHOST_USER_BACKEND_VRING_CALL and VRING_ERR: an interrupt, and the news of a broken queue, as messages."""


class Ring:
    """What was said about one queue."""

    def __init__(self) -> None:
        self.size = 0
        self.position = 0
        self.address: m.VringAddr | None = None
        self.started = False
        self.follower: RingFollower | None = None
        self.gave_up = False
        """Whether it is known that this set-up cannot be followed."""

    def forget(self) -> None:
        """Take note that the set-up changes."""
        self.follower = None
        self.gave_up = False


class Overheard:
    """One connection between a front-end and a back-end."""

    def __init__(self, snap: int = SNAP) -> None:
        self.rings: dict[int, Ring] = {}
        self._snap = snap
        self._regions: list[SharedRegion] = []
        self._features = 0
        self._front: dict[int, Heard] = {
            m.Request.SET_FEATURES: self._set_features,
            m.Request.SET_MEM_TABLE: self._set_memory,
            m.Request.ADD_MEM_REG: self._add_region,
            m.Request.REM_MEM_REG: self._remove_region,
            m.Request.SET_VRING_NUM: self._set_size,
            m.Request.SET_VRING_BASE: self._set_position,
            m.Request.SET_VRING_ADDR: self._set_address,
            m.Request.SET_VRING_KICK: self._start,
            m.Request.RESET_OWNER: self._reset,
            m.Request.RESET_DEVICE: self._reset,
            _IN_BAND_KICK: self._kick,
        }

    # What passes.

    def front_end(self, frame: Frame, at: int, *, channel: bool = False) -> list[Event]:
        """Take a message of the front-end, before the back-end gets it; the descriptors stay the frame's."""
        events = [message(at, "front-end", frame.request, frame.flags, frame.payload, len(frame.fds), channel=channel)]
        heard = None if channel else self._front.get(frame.request)
        return events + (self._heed(heard, frame, at, "front-end") if heard else [])

    def back_end(self, frame: Frame, at: int, *, channel: bool = False) -> list[Event]:
        """Take a message of the back-end, before the front-end gets it."""
        events = [message(at, "back-end", frame.request, frame.flags, frame.payload, len(frame.fds), channel=channel)]
        if not channel and frame.request == m.Request.GET_VRING_BASE:
            events += self._heed(self._stop, frame, at, "back-end")
        elif channel and frame.request in (_IN_BAND_CALL, _IN_BAND_ERR):
            events += self._heed(self._call, frame, at, "back-end")
        return events

    def _heed(self, heard: Heard, frame: Frame, at: int, by: str) -> list[Event]:
        try:
            return heard(frame, at)
        except (VirtioError, OSError) as error:
            return [Event(at, by, "damaged", error=f"message {frame.request} makes no sense here: {error}")]

    # Features and memory.

    def _set_features(self, frame: Frame, _at: int) -> list[Event]:
        self._features = m.Number.unpack(frame.payload).value & ~m.F_PROTOCOL_FEATURES
        return []

    def _set_memory(self, frame: Frame, _at: int) -> list[Event]:
        header, size = m.MemoryHeader.nbytes, m.MemoryRegion.nbytes
        number = m.MemoryHeader.unpack(frame.payload[:header]).number
        if len(frame.payload) < header + number * size or number > len(frame.fds):
            raise ShortData(f"{number} regions in {len(frame.payload)} bytes, with {len(frame.fds)} descriptors")
        starts = range(header, header + number * size, size)
        regions = [m.MemoryRegion.unpack(frame.payload[at : at + size]) for at in starts]
        self._close_regions()
        for region, fd in zip(regions, frame.fds, strict=False):
            self._add(region, fd)
        return []

    def _add_region(self, frame: Frame, _at: int) -> list[Event]:
        region = m.SingleRegion.unpack(frame.payload)
        if not frame.fds or len(self._regions) >= MAXIMUM_REGIONS:
            raise PeerError("a region without a file, or one too many")
        self._add(region, frame.fds[0])
        return []

    def _add(self, region: m.MemoryRegion | m.SingleRegion, fd: int) -> None:
        if any(start + region.size > 1 << 64 for start in (region.guest, region.user, region.offset)):
            raise PeerError(f"a region of {region.size} bytes at {region.guest:#x} goes beyond 64 bits")
        self._regions.append(SharedRegion(region, os.dup(fd)))

    def _remove_region(self, frame: Frame, _at: int) -> list[Event]:
        sent = m.SingleRegion.unpack(frame.payload)
        gone = [region for region in self._regions if region.same_place(sent)]
        close_regions(gone)
        self._regions = [region for region in self._regions if region not in gone]
        return []

    # Queues.

    def _ring(self, index: int) -> Ring:
        if index >= MOST_QUEUES:
            raise PeerError(f"queue {index}; {MOST_QUEUES} are followed")
        return self.rings.setdefault(index, Ring())

    def _changed(self, index: int) -> Ring:
        ring = self._ring(index)
        ring.forget()
        return ring

    def _set_size(self, frame: Frame, _at: int) -> list[Event]:
        state = m.VringState.unpack(frame.payload)
        self._changed(state.queue).size = state.num
        return []

    def _set_position(self, frame: Frame, _at: int) -> list[Event]:
        state = m.VringState.unpack(frame.payload)
        self._changed(state.queue).position = state.num & 0xFFFF
        return []

    def _set_address(self, frame: Frame, _at: int) -> list[Event]:
        address = m.VringAddr.unpack(frame.payload)
        ring = self._ring(address.queue)
        if ring.address != address:  # it also comes where only the log of a migration begins
            ring.forget()
            ring.address = address
        return []

    def _start(self, frame: Frame, at: int) -> list[Event]:
        index = m.Number.unpack(frame.payload).value & m.VRING_INDEX
        self._ring(index).started = True
        return self.look(index, at)

    def _stop(self, frame: Frame, at: int) -> list[Event]:
        state = m.VringState.unpack(frame.payload)
        ring = self._ring(state.queue)
        events = self.look(state.queue, at)
        ring.forget()
        ring.started = False
        ring.position = state.num & 0xFFFF
        return [*events, Event(at, "device", "stopped", state.queue, position=ring.position)]

    def _reset(self, _frame: Frame, _at: int) -> list[Event]:
        self.rings.clear()
        return []

    def _kick(self, frame: Frame, at: int) -> list[Event]:
        return self.kicked(m.VringState.unpack(frame.payload).queue, at)

    def _call(self, frame: Frame, at: int) -> list[Event]:
        index = m.VringState.unpack(frame.payload).queue
        return self.interrupted(index, at) if frame.request == _IN_BAND_CALL else self.broke(index, at)

    # Notifications, and what they announce.

    def kicked(self, index: int, at: int) -> list[Event]:
        """Return what is new on a queue whose driver kicks; call it before the device is kicked."""
        return [*self.look(index, at, announced=False), Event(at, "driver", "kick", index)]

    def interrupted(self, index: int, at: int) -> list[Event]:
        """Return what is new on a queue whose device interrupts; call it before the driver is interrupted."""
        return [*self.look(index, at), Event(at, "device", "interrupt", index)]

    def broke(self, index: int, at: int) -> list[Event]:
        """Return what is new on a queue that the device has given up."""
        return [*self.look(index, at), Event(at, "device", "error", index)]

    def look(self, index: int, at: int, *, announced: bool = True) -> list[Event]:
        """Return what happened on a queue since the last look; see `RingFollower.look`."""
        ring = self.rings.get(index)
        if ring is None or not ring.started or ring.gave_up:
            return []
        if ring.follower is not None:
            return ring.follower.look(at, announced=announced)
        if ring.address is None:
            return []
        try:
            ring.follower = RingFollower(RingReader(self._read, self._set_up(index, ring), self._snap), index)
        except PeerError as error:
            ring.gave_up = True
            return [Event(at, "driver", "damaged", index, error=f"this queue cannot be followed: {error}")]
        return ring.follower.begin(at) + ring.follower.look(at)

    def _set_up(self, index: int, ring: Ring) -> QueueSetup:
        assert ring.address is not None
        if self._features & Feature.RING_PACKED:
            raise PeerError("it is a packed one; its messages and notifications are recorded")
        if not split.is_valid_size(ring.size):
            raise PeerError(f"it has {ring.size} entries")
        sizes = split.table_size(ring.size), split.available_size(ring.size), split.used_size(ring.size)
        places = ring.address.descriptors, ring.address.available, ring.address.used
        table, available, used = (
            guest_address(self._regions, user, size) for user, size in zip(places, sizes, strict=True)
        )
        return QueueSetup(index, ring.size, table, available, used, self._features, position=ring.position)

    def _read(self, address: int, length: int) -> bytes:
        try:
            return read_memory(self._regions, address, length)
        except OverflowError as error:  # an offset that no file has
            raise PeerError(f"{length} bytes at {address:#x} lie beyond what a file can have") from error

    def _close_regions(self) -> None:
        close_regions(self._regions)
        self._regions = []

    def close(self) -> None:
        """Close what was duplicated."""
        self._close_regions()
        self.rings.clear()
