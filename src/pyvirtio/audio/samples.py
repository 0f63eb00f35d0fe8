"""What a stream of PCM samples looks like, and how loud it is."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass

_SIGNED = {2: "h", 4: "i"}
"""The codes of the module ``array`` for signed samples, by their width in bytes."""


@dataclass(frozen=True)
class Samples:
    r"""How frames look: interleaved samples, unsigned where they have one byte, else signed and little-endian.

    >>> stereo = Samples(width=2, channels=2, rate=48000)
    >>> stereo.frame, stereo.seconds(192000), stereo.silence(4)
    (4, 1.0, b'\x00\x00\x00\x00')

    Attributes:
        width: the bytes of a sample: 1, 2 or 4.
        channels: the samples of a frame.
        rate: the frames in a second.
    """

    width: int
    channels: int
    rate: int

    @property
    def frame(self) -> int:
        """The bytes of a frame."""
        return self.width * self.channels

    def seconds(self, number: int) -> float:
        """Return how long ``number`` bytes last."""
        return number / (self.frame * self.rate)

    def silence(self, number: int) -> bytes:
        """Return ``number`` bytes that nobody hears."""
        return (b"\x80" if self.width == 1 else b"\0") * number

    def scaled(self, data: bytes, gain: float) -> bytes:
        r"""Return whole samples with ``gain``, from 0 to 1; 1 changes nothing.

        >>> Samples(2, 1, 8000).scaled(b"\x00\x10\x00\xf0", 0.5).hex(" ", 2)
        '0008 00f8'
        >>> Samples(1, 1, 8000).scaled(b"\x80\xff\x01", 0)
        b'\x80\x80\x80'
        """
        if gain == 1:
            return data
        if self.width == 1:
            return data.translate(bytes(128 + int((value - 128) * gain) for value in range(256)))
        samples = array(_SIGNED[self.width], data)
        assert sys.byteorder == "little"  # as everywhere in this package
        return array(samples.typecode, (int(value * gain) for value in samples)).tobytes()
