"""What a device asks of the host's end of a stream of bytes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class End:
    """The host's end of a stream of bytes. Subclass it for an end of your own, and override what differs.

    As it is, nothing ever comes from it, and whatever is given to it is gone. All methods are called in the event loop
    of the device. What `read` and `room` raise ends the device's `run`; what `put` raises costs what it was given.

    >>> class Shout(End):
    ...     def put(self, data):
    ...         print(data.decode().upper(), end="")
    ...         return len(data)
    >>> Shout().put(b"hello")
    HELLO5

    Attributes:
        is_open: whether somebody is there.
        size: the columns and rows of the terminal that shows it; None where there is none, or nobody knows.
        changed: whoever uses the end sets it; call it when ``is_open`` or ``size`` is another than before.
    """

    is_open: bool = True
    size: tuple[int, int] | None = None
    changed: Callable[[], object] = staticmethod(lambda: None)

    def open(self, *, take_over: bool = False) -> None:
        """Make what others connect to. It may be called again.

        With ``take_over`` it is made even where somebody else, such as an earlier process, still has its name.

        Raises:
            OSError: it cannot be made.
        """

    async def read(self) -> bytes:
        """Return what comes next from the host, as soon as there is something: some 64 KiB at most.

        Nothing means that nothing will ever come. Whoever reads too rarely holds up who writes at the other end;
        nothing is kept here.
        """
        import asyncio

        await asyncio.get_running_loop().create_future()
        return b""

    def put(self, data: bytes | memoryview) -> int:
        """Take as many bytes of ``data`` as there is room for at this moment, and return how many.

        Where nobody is there, all of it is taken, and lost.

        Raises:
            OSError: it cannot be written, and will not be.
        """
        return len(data)

    async def room(self) -> None:
        """Return when there is room for at least a byte, or nobody is there any more."""

    def close(self) -> None:
        """Give everything back. It may be called again."""
