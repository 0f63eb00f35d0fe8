"""What is on its way to an end: what the end has no room for waits, and whoever has more waits as well."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.ends.end import End


class Outlet:
    """Leads to ``end``. One piece at a time is kept until the end has taken it.

    With ``linger``, nothing is kept for longer than so many seconds. After that an end counts as stalled: what it does
    not take at once is lost, until it takes something whole.

    Attributes:
        rest: what the end has not taken yet; while there is any, give no more.
    """

    def __init__(self, end: End, linger: float | None = None) -> None:
        import asyncio

        self.rest = b""
        self._end = end
        self._linger = linger
        self._is_behind = asyncio.Event()
        self._is_stalled = False

    def put(self, data: bytes) -> None:
        """Give the end ``data``, and keep what it does not take."""
        assert not self.rest, "what was given before has not been taken yet"
        rest = data[self._end.put(data) :]
        self._is_stalled &= bool(rest)
        if rest and not self._is_stalled:
            self.rest = rest
            self._is_behind.set()

    async def catch_up(self) -> None:
        """Wait until something is kept, and until that is taken, or lost."""
        import asyncio

        await self._is_behind.wait()
        try:
            async with asyncio.timeout(self._linger):
                while self.rest:
                    await self._end.room()
                    self.rest = self.rest[self._end.put(self.rest) :]
        except TimeoutError:
            self._is_stalled = True
        finally:
            self.rest = b""
            self._is_behind.clear()
