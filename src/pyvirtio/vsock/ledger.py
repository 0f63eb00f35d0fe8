"""Which connections there are, in memory that outlives the process, so that whoever comes after it can reset them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Ports = tuple[int, int]
    """The port at this end, and the peer's."""


class Ledger:
    """The ports of connections in ``memory``, 8 bytes each; as many as fit there, others are not noted.

    An entry is stored and cleared in one access, so a process may die at any moment.

    >>> memory = memoryview(bytearray(64))
    >>> ledger = Ledger(memory)
    >>> ledger.add((1024, 5))
    >>> ledger.add((1024, 6))
    >>> ledger.discard((1024, 5))
    >>> Ledger(memory).take()
    [(1024, 6)]
    >>> Ledger(memory).take()
    []
    """

    def __init__(self, memory: memoryview) -> None:
        self._slots = memory.cast("Q")
        self._free = [at for at, entry in enumerate(self._slots) if not entry]
        self._places: dict[Ports, int] = {}

    def add(self, ports: Ports) -> None:
        """Note a connection."""
        if self._free:
            self._places[ports] = at = self._free.pop()
            self._slots[at] = _entry(*ports)

    def discard(self, ports: Ports) -> None:
        """Note that a connection is over."""
        if (at := self._places.pop(ports, None)) is not None:
            self._slots[at] = 0
            self._free.append(at)

    def take(self) -> list[Ports]:
        """Return what somebody else has noted, and clear it."""
        own = set(self._places.values())
        found = []
        for at, entry in enumerate(self._slots):
            if entry and at not in own:
                found.append(divmod(~entry & (1 << 64) - 1, 1 << 32))
                self._slots[at] = 0
                self._free.append(at)
        return found


def _entry(local_port: int, peer_port: int) -> int:
    """Return both ports as a number that is not 0: the complement of one that no two ports have."""
    return ~((local_port << 32) | peer_port) & (1 << 64) - 1
