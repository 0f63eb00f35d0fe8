"""The driver side of a split virtqueue.

The device is not trusted: what it says of used buffers is checked against what is outstanding.
"""

from __future__ import annotations

import struct

from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.memory import full_fence, read_barrier, write_barrier
from pyvirtio.spec import split
from pyvirtio.spec.features import Feature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.layout import SplitLayout

    Buffer = tuple[int, int]

_IDX, _FLAGS, _RING = split.IDX, split.FLAGS, split.RING
_PACK = split.DESCRIPTOR.pack_into


class SplitDriverQueue:
    """The driver's end of a queue, over ring memory that is all zeros.

    Buffers are pairs ``(guest address, length)`` in bytes.
    """

    def __init__(self, rings: SplitLayout, memory: MemoryTable, features: int) -> None:
        self.size = rings.size
        self._memory = memory
        self._table = rings.table
        self._available = rings.available
        self._used = rings.used
        self._pairs = rings.used_pairs
        self._event_idx = bool(features & Feature.EVENT_IDX)
        self.may_indirect = bool(features & Feature.INDIRECT_DESC)
        self._free = list(range(rings.size - 1, -1, -1))
        self._outstanding: dict[int, tuple[object, int, list[int]]] = {}
        self._available_index = 0
        self._kicked_at = 0
        self._used_index = 0
        self._broken: DeviceError | None = None
        self.oversized_replies = 0
        """How often the device claimed to have written more than there was room for."""

    # Adding.

    def add(
        self,
        readable: Sequence[Buffer],
        writable: Sequence[Buffer],
        token: object,
        *,
        indirect: int | None = None,
        direct: int = 0,
    ) -> int:
        """Put a request on the ring and return its head. The device sees it after `publish`.

        ``token`` comes back from `reap`. With ``indirect``, the guest address of a table of 16 bytes for each buffer,
        the descriptors go into that table, except for the first ``direct`` ones, which stay in the queue's own.

        Raises:
            LocalError: the request has no buffer, more of them than the queue has entries, one that a descriptor
                cannot hold, or too few descriptors are free.
            DeviceError: the device broke the queue earlier.
        """
        if self._broken:
            raise self._broken
        buffers = [(*buffer, 0) for buffer in readable] + [(*buffer, split.F_WRITE) for buffer in writable]
        if not buffers or len(buffers) > self.size:
            raise LocalError(f"a request of {len(buffers)} buffers; give 1 to {self.size}")
        lengths = [length for _, length, _ in buffers]
        if max(lengths) < 1 << 32 < sum(lengths):
            raise LocalError("a request of more than 2**32 bytes cannot be sent; divide it", section="2.7.5.2")
        if indirect is None or not self.may_indirect:
            head, slots = self._fill(buffers)
        else:
            if direct >= len(buffers):
                raise LocalError("no descriptor is left for the indirect table; leave at least one")
            behind = buffers[direct:]
            try:
                self._memory.write(indirect, _indirect_table(behind))
            except struct.error as error:
                raise _too_large(behind) from error
            head, slots = self._fill([*buffers[:direct], (indirect, 16 * len(behind), split.F_INDIRECT)])
        self._outstanding[head] = (token, sum(length for _, length in writable), slots)
        self._available[_RING + (self._available_index & (self.size - 1))] = head
        self._available_index = (self._available_index + 1) & 0xFFFF
        return head

    def _fill(self, buffers: list[tuple[int, int, int]]) -> tuple[int, list[int]]:
        if len(buffers) > len(self._free):
            raise LocalError(f"the queue is full: {len(self._free)} of {self.size} descriptors are free; reap first")
        slots = [self._free.pop() for _ in buffers]
        try:
            for place, (address, length, flags) in enumerate(buffers[:-1]):
                _PACK(self._table, 16 * slots[place], address, length, flags | split.F_NEXT, slots[place + 1])
            address, length, flags = buffers[-1]
            _PACK(self._table, 16 * slots[-1], address, length, flags, 0)
        except struct.error as error:
            self._free.extend(reversed(slots))
            raise _too_large(buffers) from error
        return slots[0], slots

    @property
    def free(self) -> int:
        """The number of free descriptors."""
        return len(self._free)

    @property
    def outstanding(self) -> int:
        """The number of requests that the device has not returned."""
        return len(self._outstanding)

    def publish(self) -> None:
        """Let the device see what was added: one store of the available index (VIRTIO 1.4, 2.7.13.3)."""
        write_barrier()
        self._available[_IDX] = self._available_index

    def needs_kick(self) -> bool:
        """Return whether the device wants a kick for what was published since the last call.

        (VIRTIO 1.4, 2.7.10.1)
        """
        old, new = self._kicked_at, self._available_index
        self._kicked_at = new
        full_fence()  # the available index must be out before the device's wish is read
        if self._event_idx:
            return split.event_passed(self._used[split.avail_event_word(self.size)], new, old)
        return new != old and not self._used[_FLAGS] & split.NO_NOTIFY

    def offer_again(self) -> None:
        """Begin the ring anew with every request that is outstanding, in the order in which they were added.

        For a device that knows nothing of this ring. Whoever used it before must have stopped for good, and what it
        returned must have been reaped.
        """
        heads = list(self._outstanding)
        self._used[_FLAGS] = self._used[_IDX] = self._used[split.avail_event_word(self.size)] = 0
        self._available[_FLAGS] = self._available[split.used_event_word(self.size)] = 0
        for place, head in enumerate(heads):
            self._available[_RING + place] = head
        self._used_index = self._kicked_at = 0
        self._available_index = len(heads)
        self.publish()

    # Reaping.

    def reap(self) -> list[tuple[object, int]]:
        """Return what the device gave back: pairs of token and bytes written, in the device's order.

        What came before something wrong is returned first; the error is raised by the next call.

        Raises:
            DeviceError: the device gave back what it does not have; the queue is broken from then on.
        """
        if self._broken:
            raise self._broken
        number = (self._used[_IDX] - self._used_index) & 0xFFFF
        if number > len(self._outstanding):
            raise self._break(f"the used index is {number} ahead; {len(self._outstanding)} requests are outstanding")
        read_barrier()
        done: list[tuple[object, int]] = []
        for _ in range(number):
            slot = 2 * (self._used_index & (self.size - 1))
            head, written = self._pairs[slot], self._pairs[slot + 1]
            if head not in self._outstanding:
                error = self._break(f"the device returned descriptor {head}, which it does not have")
                if not done:
                    raise error
                break
            token, room, slots = self._outstanding.pop(head)
            if written > room:
                self.oversized_replies += 1
                written = room
            self._free.extend(reversed(slots))
            self._used_index = (self._used_index + 1) & 0xFFFF
            done.append((token, written))
        return done

    def _break(self, reason: str) -> DeviceError:
        self._broken = DeviceError(f"{reason}; the queue cannot be used any more, reset the device", section="2.7.8.2")
        return self._broken

    def disable_interrupts(self) -> None:
        """Let the device know that the driver is looking anyway (VIRTIO 1.4, 2.7.7.1)."""
        if not self._event_idx:
            self._available[_FLAGS] = split.NO_INTERRUPT

    def enable_interrupts(self) -> bool:
        """Ask for an interrupt at the next used buffer; return whether one is there already, for which none comes."""
        if self._event_idx:
            self._available[split.used_event_word(self.size)] = self._used_index
        else:
            self._available[_FLAGS] = 0
        full_fence()  # the wish must be out before the last look
        return self.pending

    @property
    def pending(self) -> bool:
        """Whether there is something to reap."""
        return bool(self._used[_IDX] != self._used_index)

    def describe(self) -> str:
        """Return the queue's state in a few lines, for an error message or a lesson."""
        available, used = self._available, self._used
        waiting = ", ".join(map(str, list(self._outstanding)[:8])) or "none"
        more = " …" if len(self._outstanding) > 8 else ""
        return (
            f"queue of {self.size}: {len(self._free)} descriptors free, outstanding heads: {waiting}{more}\n"
            f"  available: idx {available[_IDX]}, flags {available[_FLAGS]}, "
            f"used_event {available[split.used_event_word(self.size)]}\n"
            f"  used:      idx {used[_IDX]} (seen {self._used_index}), flags {used[_FLAGS]}, "
            f"avail_event {used[split.avail_event_word(self.size)]}"
        )


def _too_large(buffers: list[tuple[int, int, int]]) -> LocalError:
    ranges = ", ".join(f"{length} bytes at {address:#x}" for address, length, _ in buffers)
    return LocalError(
        "a descriptor holds an address of 64 bits and a length of 32; "
        f"divide these buffers, one of which does not fit: {ranges}"
    )


def _indirect_table(buffers: list[tuple[int, int, int]]) -> bytes:
    last = len(buffers) - 1
    return b"".join(
        split.DESCRIPTOR.pack(
            address, length, flags | (split.F_NEXT if place < last else 0), place + 1 if place < last else 0
        )
        for place, (address, length, flags) in enumerate(buffers)
    )
