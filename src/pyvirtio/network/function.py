"""A Python function that sees every frame of a guest, and answers with frames, or none."""

from __future__ import annotations

from pyvirtio.errors import UsageError
from pyvirtio.network.end import End
from pyvirtio.network.inbox import Inbox
from pyvirtio.network.offload import finished
from pyvirtio.network.packet import LONGEST, PLAIN, SHORTEST, Offload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyvirtio.network.packet import Packet


class FunctionEnd(End):
    """Calls ``function(frame)`` for each frame of the guest; it answers with a frame, a list of frames, or None.

    Frames are bytes. With ``kind``, such as Scapy's ``Ether``, the function is called with ``kind(frame)``; what it
    answers may be anything of which ``bytes`` makes a frame. What it raises is logged, and the frame is lost.

    >>> def echo(frame):
    ...     return frame[6:12] + frame[:6] + frame[12:]
    >>> end = FunctionEnd(echo)
    >>> end.send((PLAIN, b"to....from..0800"))
    >>> import asyncio
    >>> asyncio.run(end.receive())[0][1]
    b'from..to....0800'
    """

    def __init__(self, function: Callable[[Any], Any], kind: Callable[[bytes], Any] = bytes) -> None:
        super().__init__()
        self._function = function
        self._kind = kind
        self._inbox = Inbox()

    @classmethod
    def named(cls, name: str) -> FunctionEnd:
        """Return the end for a function that is named as ``file.py:function``.

        Raises:
            UsageError: there is no such function.
        """
        import runpy

        path, _, function = name.rpartition(":")
        try:
            found = runpy.run_path(path, run_name="<network>")[function]
        except (OSError, KeyError, ImportError) as error:
            raise UsageError(f"function={name}: there is none; give file.py:function") from error
        return cls(found)

    def send(self, packet: Packet) -> None:
        """Call the function for each frame of a packet."""
        for _header, frame in finished(packet, Offload.NONE):
            answer = self._function(self._kind(frame))
            for one in answer if isinstance(answer, (list, tuple)) else () if answer is None else (answer,):
                self.inject(bytes(one))

    def inject(self, frame: bytes) -> None:
        """Send a frame to the guest, from any thread.

        Raises:
            ValueError: it is none.
        """
        if not SHORTEST <= len(frame) <= LONGEST:
            raise ValueError(f"{len(frame)} bytes are no frame; it has {SHORTEST} to {LONGEST}")
        if not self._inbox.put((PLAIN, frame)):
            self.dropped += 1

    async def receive(self) -> Sequence[Packet]:
        """Wait for frames that the function answered, or that were injected."""
        return await self._inbox.take()
