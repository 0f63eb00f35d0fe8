"""Reads split rings from outside: what is in them, and what has changed since the last look.

Whoever looks owns neither side, and may be looking at a ring that somebody broke on purpose. So whatever is read is
bounded, and what makes no sense becomes an event of its own. Nothing here knows where memory comes from.
"""

from __future__ import annotations

from pyvirtio.errors import PeerError
from pyvirtio.spec import split
from pyvirtio.spec.features import Feature
from pyvirtio.trace.events import SNAP, Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyvirtio.ring.queue import RingSetup

    Read = Callable[[int, int], bytes]
    """Returns so many bytes at a guest address; raises PeerError or OSError where there are none."""

    Buffers = list[tuple[int, int]]

UNREADABLE = (PeerError, OSError)

MOST_DESCRIPTORS = 4096
"""The most descriptors that one look follows: a driver may describe many more than it has memory for."""

MOST_BYTES = 4 << 20
"""The most bytes of buffers that one look reads."""


class Chain:
    """A chain as it is in memory: its descriptors, its buffers, and what is wrong with it, if something is."""

    def __init__(self) -> None:
        self.descriptors: list[list[int]] = []
        self.readable: Buffers = []
        self.writable: Buffers = []
        self.error = ""

    @property
    def length(self) -> int:
        """The bytes that the device may read."""
        return sum(length for _, length in self.readable)

    @property
    def room(self) -> int:
        """The bytes that the device may write."""
        return sum(length for _, length in self.writable)


class Budget:
    """What one look may still read."""

    def __init__(self) -> None:
        self.descriptors = MOST_DESCRIPTORS
        self.bytes = MOST_BYTES


class RingReader:
    """Reads the three areas of a split ring, which ``setup`` places in the memory that ``read`` reads.

    Every method raises PeerError or OSError where an area is not in memory.
    """

    def __init__(self, read: Read, setup: RingSetup, snap: int = SNAP) -> None:
        self.read = read
        self.setup = setup
        self.size = setup.size
        self.snap = snap

    def _word(self, address: int) -> int:
        data = self.read(address, 2)
        if len(data) < 2:
            raise PeerError(f"the memory at {address:#x} is gone")
        return int.from_bytes(data, "little")

    def available(self) -> tuple[int, int, int]:
        """Return flags, index and used_event of the available ring."""
        area = self.setup.driver_area
        return self._word(area), self._word(area + 2), self._word(area + 2 * split.used_event_word(self.size))

    def used(self) -> tuple[int, int, int]:
        """Return flags, index and avail_event of the used ring."""
        area = self.setup.device_area
        return self._word(area), self._word(area + 2), self._word(area + 2 * split.avail_event_word(self.size))

    def head_at(self, index: int) -> int:
        """Return the head that the available ring has for an index."""
        return self._word(self.setup.driver_area + 4 + 2 * (index % self.size))

    def used_at(self, index: int) -> tuple[int, int]:
        """Return the used element for an index: a head, and the bytes written."""
        data = self.read(self.setup.device_area + 4 + 8 * (index % self.size), 8)
        if len(data) < 8:
            raise PeerError("the memory of the used ring is gone")
        head, written = split.USED_ELEMENT.unpack(data)
        return head, written

    def chain(self, head: int, budget: Budget | None = None) -> Chain:
        """Follow a chain; what is wrong with it is in its ``error``."""
        chain = Chain()
        budget = budget or Budget()
        try:
            self._follow(chain, self.setup.descriptor_area, head, self.size, budget, indirect=False)
        except UNREADABLE as error:
            chain.error = str(error)
        return chain

    def _follow(self, chain: Chain, table: int, index: int, limit: int, budget: Budget, *, indirect: bool) -> None:
        for _ in range(limit):
            if index >= limit:
                chain.error = f"descriptor {index} is beyond its table of {limit} (VIRTIO 1.4, 2.7.5)"
                return
            if budget.descriptors <= 0:
                chain.error = "not followed: too many descriptors came at once"
                return
            budget.descriptors -= 1
            data = self.read(table + split.DESCRIPTOR_SIZE * index, split.DESCRIPTOR_SIZE)
            if len(data) < split.DESCRIPTOR_SIZE:
                raise PeerError("the memory of the descriptor table is gone")
            address, length, flags, following = split.DESCRIPTOR.unpack(data)
            chain.descriptors.append([index, address, length, flags, following])
            if flags & split.F_INDIRECT:
                if indirect or flags & split.F_NEXT:
                    chain.error = "an indirect descriptor where none may be (VIRTIO 1.4, 2.7.5.3.1)"
                elif length % split.DESCRIPTOR_SIZE or not 0 < length // split.DESCRIPTOR_SIZE <= self.size:
                    chain.error = f"an indirect table of {length} bytes (VIRTIO 1.4, 2.7.5.3)"
                else:
                    self._follow(chain, address, 0, length // split.DESCRIPTOR_SIZE, budget, indirect=True)
                return
            (chain.writable if flags & split.F_WRITE else chain.readable).append((address, length))
            if not flags & split.F_NEXT:
                return
            index = following
        chain.error = "the chain never ends (VIRTIO 1.4, 2.7.5.2)"

    def content(self, buffers: Buffers, limit: int, budget: Budget | None = None) -> bytes:
        """Return what is in buffers, up to ``limit`` bytes, and never more than was asked to be recorded."""
        budget = budget or Budget()
        left = min(limit, self.snap, budget.bytes)
        pieces: list[bytes] = []
        for address, length in buffers:
            if left <= 0:
                break
            try:
                piece = self.read(address, min(length, left))
            except UNREADABLE:  # the chain's own check says it, or the device does
                break
            pieces.append(piece)
            left -= len(piece)
            budget.bytes -= len(piece)
            if len(piece) < min(length, left + len(piece)):
                break
        return b"".join(pieces)


class RingFollower:
    """Tells what happened on a ring between two looks at it.

    Look at the available ring when the driver kicks and at the used ring when the device interrupts, each before the
    other side knows of it: then nothing has been reused yet. A peer that polls needs no notification and may be faster
    than we are; then ``missed`` says so. The available ring is followed from index ``at`` on, by default from the
    position of the set-up.
    """

    def __init__(self, reader: RingReader, queue: int, at: int | None = None) -> None:
        self.reader = reader
        self.queue = queue
        self._available = reader.setup.position if at is None else at
        self._used: int | None = None
        self._wishes: dict[str, tuple[int, int]] = {}
        self._noticed = 0  # how far the used ring was at the last look
        self._outstanding: dict[int, list[Buffers]] = {}  # by head, the oldest first
        self._number = 0
        self._damage: dict[str, str] = {}
        self._knows_all = True  # what is outstanding; not where we came late, or missed something
        self._event_idx = bool(reader.setup.features & Feature.EVENT_IDX)

    def begin(self, at: int) -> list[Event]:
        """Return the event that the queue was set up, and remember where its used ring begins."""
        try:
            flags, self._used, event = self.reader.used()
            self._noticed = self._used
            self._wish(at, "device", flags, event)
            self.look_wish(at)
        except UNREADABLE as error:
            return [self._set_up(at), *self._damaged(at, "device", error)]
        self._knows_all = self._used == self._available
        return [self._set_up(at)]

    def _set_up(self, at: int) -> Event:
        setup = self.reader.setup
        names = ("size", "descriptor_area", "driver_area", "device_area", "features", "position")
        return Event(at, "driver", "queue", self.queue, **{name: getattr(setup, name) for name in names})

    def look(self, at: int, *, announced: bool = True) -> list[Event]:
        """Return what both sides did since the last look, the driver first.

        ``announced`` says that what the device did is about to be announced by an interrupt, or that no other look
        follows. An answer that nobody announced is told at the second look that finds it, as ``late``: an interrupt may
        still be on its way at the first one.
        """
        try:
            flags, index, event = self.reader.used()  # before the other ring: what is answered here was available then
            returned = self._returned(index)
        except UNREADABLE as error:
            return self.look_available(at) + self._damaged(at, "device", error)
        events = self.look_available(at, self._unseen(returned))
        noticed, self._noticed = self._noticed, index
        upto = index if announced or returned is None else noticed
        return events + self._answered(at, returned, upto, late=not announced) + self._wish(at, "device", flags, event)

    def _returned(self, index: int) -> list[tuple[int, int]] | None:
        """Return the used elements up to an index; None where they are more than a ring has."""
        if self._used is None:
            self._used = self._noticed = index
        first = self._used
        number = (index - first) & 0xFFFF
        if number > self.reader.size:
            return None
        return [self.reader.used_at(first + place) for place in range(number)]

    def _unseen(self, returned: list[tuple[int, int]] | None) -> dict[int, int]:
        """Return how many requests of each head were answered that were not seen before they were."""
        counts: dict[int, int] = {}
        for head, _ in returned or ():
            counts[head] = counts.get(head, 0) + 1
        return {head: count - len(self._outstanding.get(head, ())) for head, count in counts.items()}

    def look_available(self, at: int, answered: dict[int, int] | None = None) -> list[Event]:
        """Return what the driver did on the available ring since the last look.

        ``answered`` has the heads of requests that are answered already, and how many of each: the driver may have
        reused what described them, so they are ``late``.
        """
        try:
            flags, index, event = self.reader.available()
            return self._made_available(at, index, answered or {}) + self._wish(at, "driver", flags, event)
        except UNREADABLE as error:
            return self._damaged(at, "driver", error)

    def _made_available(self, at: int, index: int, answered: dict[int, int]) -> list[Event]:
        number = (index - self._available) & 0xFFFF
        if number > self.reader.size:
            # Either we were not fast enough, or the index is wrong. Both look alike from here.
            self._available = index
            self._forget()
            return [Event(at, "recorder", "missed", self.queue, count=number)]
        budget, heads, events = Budget(), list[int](), list[Event]()
        for _ in range(number):
            head = self.reader.head_at(self._available)
            heads.append(head)
            late = answered.get(head, 0) > 0
            answered[head] = answered.get(head, 0) - 1
            events.append(self.described(at, head, budget, late=late))
            self._available = (self._available + 1) & 0xFFFF
        if heads:
            events.append(Event(at, "driver", "available", self.queue, index=index, heads=heads))
        return events

    def described(self, at: int, head: int, budget: Budget | None = None, *, late: bool = False) -> Event:
        """Return the event that the driver described a request, and remember the request's buffers."""
        budget = budget or Budget()
        chain = self.reader.chain(head, budget)
        self._remember(head, chain.writable)
        fields: dict[str, Any] = {
            "head": head,
            "chain": chain.descriptors,
            "length": chain.length,
            "room": chain.room,
            "data": self.reader.content(chain.readable, chain.length, budget).hex(),
        }
        if chain.error:
            fields["error"] = chain.error
        if late:
            fields["late"] = True
        return Event(at, "driver", "descriptors", self.queue, **fields)

    def _remember(self, head: int, writable: Buffers) -> None:
        """Keep a request's buffers until it is answered; a driver that breaks the ring may name any head any often."""
        self._number += 1
        if self._number > 2 * self.reader.size:
            self._forget()
        self._outstanding.setdefault(head, []).append(writable)

    def _forget(self) -> None:
        self._outstanding.clear()
        self._number = 0
        self._knows_all = False

    def look_wish(self, at: int) -> list[Event]:
        """Return whether the driver has changed its wish to be notified since the last look."""
        flags, _, event = self.reader.available()
        return self._wish(at, "driver", flags, event)

    def look_used(self, at: int) -> list[Event]:
        """Return what the device did on the used ring since the last look."""
        try:
            flags, index, event = self.reader.used()
            returned = self._returned(index)
            return self._answered(at, returned, index, late=False) + self._wish(at, "device", flags, event)
        except UNREADABLE as error:
            return self._damaged(at, "device", error)

    def _answered(self, at: int, returned: list[tuple[int, int]] | None, upto: int, *, late: bool) -> list[Event]:
        """Return the events of used elements up to an index."""
        assert self._used is not None
        if returned is None:
            self._used = self._noticed = upto
            self._knows_all = False
            return [Event(at, "recorder", "missed", self.queue, count=self.reader.size + 1)]
        budget, events = Budget(), list[Event]()
        number = (upto - self._used) & 0xFFFF
        for head, written in returned[:number]:
            events += self._one_answered(at, head, written, budget, late=late)
        self._used = upto
        if number:
            events.append(Event(at, "device", "used_index", self.queue, index=upto))
        return events

    def _one_answered(self, at: int, head: int, written: int, budget: Budget, *, late: bool) -> Iterator[Event]:
        known = self._outstanding.get(head)
        writable: Buffers = []
        if known is not None:
            writable = known.pop(0)
            self._number -= 1
            if not known:
                del self._outstanding[head]
        if known is None and self._knows_all:
            said = f"the device returned descriptor {head}, and no request of that name was seen"
            yield Event(at, "device", "damaged", self.queue, error=said)
        fields: dict[str, Any] = {"head": head, "written": written}
        fields["data"] = self.reader.content(writable, written, budget).hex()
        if late:
            fields["late"] = True
        yield Event(at, "device", "used", self.queue, **fields)

    def _wish(self, at: int, by: str, flags: int, event: int) -> list[Event]:
        """Return the event that a side changed its wish to be notified, if it did."""
        wish = (0, event) if self._event_idx else (flags, 0)
        before = self._wishes.get(by)
        self._wishes[by] = wish
        if before is None or before == wish:
            return []
        fields = {"event": event} if self._event_idx else {"flags": flags}
        return [Event(at, by, "suppression", self.queue, **fields)]

    def _damaged(self, at: int, by: str, error: Exception) -> list[Event]:
        """Return the event that the ring cannot be read; the same damage is told once."""
        said = str(error)
        if self._damage.get(by) == said:
            return []
        self._damage[by] = said
        return [Event(at, by, "damaged", self.queue, error=said)]
