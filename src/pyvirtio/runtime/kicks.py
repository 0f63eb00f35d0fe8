"""The descriptors by which drivers kick their queues, in the set that a runner polls."""

from __future__ import annotations

import select

from pyvirtio.system.eventfd import drain, is_eventfd


class Kicks:
    """Which queue each kick descriptor in ``epoll`` belongs to.

    Attributes:
        by_fd: the index of the queue, by descriptor.
        silent: queues whose driver has no way to kick.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._to_drain: set[int] = set()  # those that are not eventfds and run full
        self.by_fd: dict[int, int] = {}
        self.silent: set[int] = set()

    def watch(self, index: int, fd: int) -> None:
        """Watch ``fd`` for kicks of a queue; -1 where its driver has no way to kick."""
        if fd < 0:
            self.silent.add(index)
            return
        self.by_fd[fd] = index
        # Told of each write, an eventfd need not be read: a system call less for each kick. Others run full.
        eventfd = is_eventfd(fd)
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if eventfd else 0))
        if not eventfd:
            self._to_drain.add(fd)

    def take(self, fd: int) -> None:
        """Take the kicks that arrived, where that is necessary."""
        if fd in self._to_drain and not drain(fd):  # nobody can kick by it any more
            self.forget(self.by_fd[fd])

    def forget(self, index: int) -> None:
        """Watch nothing for a queue."""
        self.silent.discard(index)
        for fd in [fd for fd, kicked in self.by_fd.items() if kicked == index]:
            del self.by_fd[fd]
            self._to_drain.discard(fd)
            self._epoll.unregister(fd)
