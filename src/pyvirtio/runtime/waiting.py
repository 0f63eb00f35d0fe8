"""The requests of a queue that were popped and are not begun."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import DeviceQueue


class Waiting:
    """What waits on one queue.

    Attributes:
        chains: in the order in which they are begun.
        alone: those that a worker may have died of; nothing else runs beside such a one.
        repeated: the heads of requests that a dead worker may have given to the method.
    """

    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.alone: list[Chain] = []
        self.repeated: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self.chains or self.alone)

    def take_over(self, queue: DeviceQueue, most: int) -> list[tuple[Chain, int]]:
        """Take what a dead worker had popped; return what has ``most`` strikes or more, and how many."""
        unfinished, queue.unfinished = queue.unfinished, []
        struck_out = []
        for chain in unfinished:
            strikes = queue.journal.strikes(chain.head)
            if strikes >= most:
                struck_out.append((chain, strikes))
            else:
                (self.alone if strikes else self.chains).append(chain)
                self.repeated.add(chain.head)
        return struck_out

    def give_back(self, queue: DeviceQueue, is_allowed: Callable[[Chain], bool]) -> None:
        """Un-pop it, the newest first, as far as it is allowed and the ring agrees."""
        by_arrival = sorted(self.chains + self.alone, key=lambda chain: chain.sequence)
        while by_arrival and is_allowed(by_arrival[-1]) and queue.unpop(by_arrival[-1]):
            given_back = by_arrival.pop()
            self.repeated.discard(given_back.head)
            (self.alone if given_back in self.alone else self.chains).remove(given_back)

    def pop_all(self, *, alone: bool) -> list[Chain]:
        """Return and forget it, or with ``alone`` only what is to be begun alone."""
        popped = self.alone + ([] if alone else self.chains)
        self.repeated.difference_update(chain.head for chain in popped)
        self.alone = []
        self.chains = self.chains if alone else []
        return popped

    def clear(self) -> None:
        """Forget it."""
        self.chains.clear()
        self.alone.clear()
