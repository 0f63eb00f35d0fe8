"""Turns a recording into a test: a file for pytest that asks a device what was asked, and expects what was answered."""

from __future__ import annotations

import json
import os
import re

from pyvirtio.trace.events import Event, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.trace.events import Recording

_KEPT = {
    "recording": ("format", "version", "wall", "snap"),
    "device": ("name", "id", "features", "sizes", "config"),
    "queue": ("size", "descriptor_area", "driver_area", "device_area", "features", "position"),
    "descriptors": ("head", "chain", "length", "room", "data", "error"),
    "available": ("index", "heads"),
    "used": ("head", "written", "data"),
}
"""What a test needs of a recording: the requests, and under which set-up they were asked."""


def test_file(recording: Recording, device: str, source: str) -> str:
    """Return the text of a test that plays the recording to ``device``.

    ``device`` is what ``pyvirtio serve`` takes, or the path of a socket on which a back-end listens; ``source`` names
    the recording in the comments.
    """
    name = re.sub(r"[^\w.+-]+", "_", os.path.basename(source))  # it goes into a docstring
    return _TEMPLATE.format(source=name, device=json.dumps(device), events="".join(_kept(recording)), quotes="'" * 3)


def _kept(recording: Recording) -> Iterator[str]:
    """Yield the lines that a test needs, so that they can stand in a raw string in single quotes."""
    start = recording.start
    for event in (recording.head, *recording.events):
        if (names := _KEPT.get(event.what)) is not None:
            fields = {name: event[name] for name in names if name in event.fields}
            line = encode(Event(max(0, event.at - start), event.by, event.what, event.queue, **fields))
            yield line.decode().replace("'", "\\u0027")


_TEMPLATE = '''\
"""Asks a device what a recorded driver asked, and expects what was answered. Made by `pyvirtio trace {source} --test`.

Run it with pytest. PYVIRTIO_DEVICE in the environment names another device: one that `pyvirtio serve` knows, with its
options, or the path of the socket of a back-end that is running.
"""

import os

from pyvirtio.trace.replay import replay_text

DEVICE = os.environ.get("PYVIRTIO_DEVICE", {device})

RECORDING = r{quotes}
{events}{quotes}


def test_the_device_answers_as_recorded() -> None:
    outcome = replay_text(DEVICE, RECORDING)
    assert outcome.compared > 0
    assert not outcome.differences, "\\n".join(map(str, outcome.differences))
'''
