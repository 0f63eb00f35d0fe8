"""WAV files: each stream that is played is one, and one can be what a microphone hears."""

from __future__ import annotations

import itertools
import os
import wave

from pyvirtio.audio.samples import Samples
from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO


class WavWriter:
    """Writes streams to files: to ``path`` first, then to ``path`` with -1, -2 and so on before its ending.

    A file that exists is never overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw: IO[bytes] | None = None
        self._file: wave.Wave_write | None = None

    def write(self, samples: Samples, data: bytes) -> None:
        """Write whole frames of a stream; the first ones make its file.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file is None:
            self._file = self._new_file(samples)
        self._file.writeframesraw(data)

    def end(self) -> None:
        """Complete the file of the stream that is over."""
        if self._file is not None and self._raw is not None:
            with self._raw:
                self._file.close()  # writes the header, and leaves what it did not open itself
            self._file = self._raw = None

    def _new_file(self, samples: Samples) -> wave.Wave_write:
        path, numbers = self._path, itertools.count(1)
        while True:
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                break
            except FileExistsError:
                path = self._path.with_stem(f"{self._path.stem}-{next(numbers)}")
        self._raw = os.fdopen(fd, "wb")
        file = wave.open(self._raw, "wb")  # noqa: SIM115  # `end` closes it
        file.setsampwidth(samples.width)
        file.setnchannels(samples.channels)
        file.setframerate(samples.rate)
        return file


class WavReader:
    """A WAV file as what is recorded; when it has ended, silence follows.

    Raises:
        OSError: the file cannot be read.
        LocalError: it is no WAV file of samples that a stream can have.
    """

    def __init__(self, path: Path) -> None:
        try:
            with wave.open(str(path), "rb") as file:
                self.samples = Samples(file.getsampwidth(), file.getnchannels(), file.getframerate())
                self._data = memoryview(file.readframes(file.getnframes()))
        except (wave.Error, EOFError) as error:
            raise LocalError(f"{path} is not a WAV file that can be recorded from: {error}; give one of PCM") from error

    def read(self, number: int) -> bytes:
        """Return the next ``number`` bytes, fewer at the file's end."""
        data, self._data = self._data[:number], self._data[number:]
        return bytes(data)
