"""Sound on the host's side: streams, formats of samples, and where sound goes to and comes from."""

from pyvirtio.audio.ends import Play, Playback, Record, Recording
from pyvirtio.audio.samples import Samples
from pyvirtio.audio.stream import Command, Stream

__all__ = ["Command", "Play", "Playback", "Record", "Recording", "Samples", "Stream"]
