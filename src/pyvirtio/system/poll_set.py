"""Descriptors that are polled for what is wanted of them now."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select


class PollSet:
    """Those of the descriptors in ``epoll`` whose events change; it may hold others as well."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._events: dict[int, int] = {}

    def want(self, events: dict[int, int]) -> None:
        """Poll each descriptor for its ``events``, and no others any more."""
        for fd in self._events.keys() - events.keys():
            self._epoll.unregister(fd)
        for fd, wanted in events.items():
            if fd not in self._events:
                self._epoll.register(fd, wanted)
            elif self._events[fd] != wanted:
                self._epoll.modify(fd, wanted)
        self._events = events

    def forget(self, fd: int) -> None:
        """Poll a descriptor no more; to be called before it is closed."""
        if self._events.pop(fd, None) is not None:
            self._epoll.unregister(fd)
