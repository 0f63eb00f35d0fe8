"""Carries bytes between a stream and a pair of asyncio's reader and writer, and closes a stream in good order."""

from __future__ import annotations

import asyncio
import contextlib

from pyvirtio.vsock.packets import MOST_PAYLOAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.vsock.stream import Stream

CLOSING_TIME = 8.0
"""The seconds that the other end has to confirm that a connection is closed, before it is cut off."""


async def close(stream: Stream) -> None:
    """Close a stream in good order: cut it off if its other end does not confirm that in time (5.10.6.5)."""
    stream.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSING_TIME):
            await stream.closed()


async def relay(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes between a stream and a socket until both directions have ended, or one end is gone.

    What one side does not read waits with the other: a piece is fetched when the one before it was taken.

    Raises:
        OSError: one end is gone.
    """
    writer.transport.set_write_buffer_limits(high=0)
    inward, over = asyncio.ensure_future(_inward(stream, reader)), asyncio.ensure_future(stream.closed())
    try:
        while data := await stream.read():
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):  # whoever is gone needs no end of the stream
            writer.write_eof()
        await asyncio.wait([inward, over], return_when=asyncio.FIRST_COMPLETED)
    finally:
        inward.cancel()
        over.cancel()
        writer.close()
        await asyncio.gather(inward, over, return_exceptions=True)


async def _inward(stream: Stream, reader: asyncio.StreamReader) -> None:
    try:
        while data := await reader.read(MOST_PAYLOAD):
            await stream.write(data)
        stream.write_eof()
    except BrokenPipeError:  # the guest reads no more, and may go on writing
        return
    except OSError:
        stream.reset()
