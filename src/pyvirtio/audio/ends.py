"""Where sound goes to and comes from: WAV files, or functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyvirtio.audio.samples import Samples
from pyvirtio.audio.wav import WavReader, WavWriter

Play = Callable[[bytes, Samples], object]
"""Takes whole frames that are heard now."""
Record = Callable[[int, Samples], bytes]
"""Returns at most so many bytes of whole frames; where fewer come, silence follows."""


class Playback:
    """What is heard of a stream: a file for each stream, a function, or nothing."""

    def __init__(self, output: Path | Play | None) -> None:
        self._files = WavWriter(output) if isinstance(output, Path) else None
        self._function = output if callable(output) else None

    def play(self, samples: Samples, data: bytes) -> None:
        """Take whole frames; raises what a file or the function raises."""
        if self._files:
            self._files.write(samples, data)
        elif self._function:
            self._function(data, samples)

    def end(self) -> None:
        """Take note that a stream is over."""
        if self._files:
            self._files.end()


class Recording:
    """What a stream hears: a file, a function, or silence.

    Attributes:
        samples: how the file's frames look; None where any will do.
    """

    def __init__(self, source: Path | Record | None) -> None:
        self._file = WavReader(source) if isinstance(source, Path) else None
        self._function = source if callable(source) else None
        self.samples = self._file.samples if self._file else None

    def record(self, samples: Samples, number: int) -> bytes:
        """Return ``number`` bytes of whole frames; raises what the function raises."""
        data = self._file.read(number) if self._file else self._function(number, samples) if self._function else b""
        return data[:number] + samples.silence(number - len(data))
