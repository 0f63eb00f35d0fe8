"""The stream of vhost-user cut into frames: bytes and descriptors in, frames out."""

from __future__ import annotations

import os

from pyvirtio.errors import ProtocolError
from pyvirtio.vhost_user.messages import F_NEED_REPLY, F_REPLY, F_VERSION, MAXIMUM_FDS, VERSION, Header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Frame:
    """A header's content, its payload, and its descriptors; whoever takes one out of ``fds`` owns it."""

    __slots__ = ("fds", "flags", "payload", "request")

    def __init__(self, request: int, flags: int, payload: bytes, fds: list[int]) -> None:
        self.request = request
        self.flags = flags
        self.payload = payload
        self.fds = fds

    @property
    def needs_reply(self) -> bool:
        """Whether the sender asks for an acknowledgement."""
        return bool(self.flags & F_NEED_REPLY)

    def close_fds(self) -> None:
        """Close the descriptors that nobody took."""
        close_all(self.fds)
        self.fds.clear()


class Framer:
    """Collects bytes until a frame is whole.

    Read at most `wanted` bytes at a time, and descriptors never belong to the wrong frame.

    >>> framer = Framer(maximum=64)
    >>> data = encode(1)
    >>> [len(framer.feed(data[i:i + 1])) for i in range(12)]
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    """

    def __init__(self, maximum: int, *, replies: bool = False) -> None:
        self._maximum = maximum
        self._expected_reply = F_REPLY if replies else 0
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._header: Header | None = None

    @property
    def wanted(self) -> int:
        """The bytes that are missing until the header, or the frame, is whole."""
        whole = Header.nbytes + (self._header.size if self._header else 0)
        return whole - len(self._buffer)

    @property
    def empty(self) -> bool:
        """Whether the stream could end here without cutting a message."""
        return not self._buffer

    def feed(self, data: bytes, fds: Iterable[int] = ()) -> list[Frame]:
        """Take bytes and descriptors; return the frames that became whole.

        Raises:
            ProtocolError: this is not a stream of vhost-user messages, so that nothing behind it can be understood.
                The descriptors that were taken are closed then.
        """
        self._fds.extend(fds)
        frames: list[Frame] = []
        at = 0
        try:
            if len(self._fds) > MAXIMUM_FDS:
                raise ProtocolError(f"more than {MAXIMUM_FDS} file descriptors came with one message, in pieces")
            while at < len(data):
                part = data[at : at + self.wanted]
                self._buffer += part
                at += len(part)
                if self._header is None and len(self._buffer) == Header.nbytes:
                    self._header = self._checked(Header.unpack(self._buffer))
                if self._header is not None and not self.wanted:
                    frames.append(self._take(self._header))
        except ProtocolError:
            for frame in frames:
                frame.close_fds()
            self.close()
            raise
        return frames

    def close(self) -> None:
        """Forget an unfinished frame and close its descriptors."""
        close_all(self._fds)
        self._fds.clear()
        self._buffer.clear()
        self._header = None

    def _take(self, header: Header) -> Frame:
        payload = bytes(self._buffer[Header.nbytes :])
        fds, self._fds = self._fds, []
        self._buffer.clear()
        self._header = None
        return Frame(header.request, header.flags, payload, fds)

    def _checked(self, header: Header) -> Header:
        if header.flags & F_VERSION != VERSION:
            raise ProtocolError(f"unsupported vhost-user version {header.flags & F_VERSION} (expected {VERSION})")
        if header.flags & F_REPLY != self._expected_reply or header.flags & ~(F_VERSION | F_REPLY | F_NEED_REPLY):
            raise ProtocolError(f"unexpected flags {header.flags:#x} in the header of message {header.request}")
        if header.size > self._maximum:
            raise ProtocolError(
                f"message {header.request} announces {header.size} bytes of payload; {self._maximum} is the most"
            )
        return header


def encode(request: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return the bytes of a message; the version is added to ``flags``."""
    return Header(request, flags | VERSION, len(payload)).pack() + payload


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
