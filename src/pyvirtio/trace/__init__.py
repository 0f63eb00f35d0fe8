"""Records what happens on rings and sockets, shows it, and plays it again.

- `Recorder` writes a recording, `load` reads one; `Event` and `KINDS` say what is in it;
- `traced` and `traced_transport` record a driver and a device of this program;
- `Tap` records any front-end and any back-end from in between;
- `replay_into` asks a device what a recording's driver asked, `Recorded` is a device that answers as the recorded one.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.trace.events import KINDS, Event, Recording
    from pyvirtio.trace.recorded import Recorded
    from pyvirtio.trace.recorder import Recorder, load
    from pyvirtio.trace.replay import replay_into
    from pyvirtio.trace.tap import Tap
    from pyvirtio.trace.traced_driver import traced, traced_transport

_MODULES = {
    "KINDS": "events",
    "Event": "events",
    "Recorded": "recorded",
    "Recorder": "recorder",
    "Recording": "events",
    "Tap": "tap",
    "load": "recorder",
    "replay_into": "replay",
    "traced": "traced_driver",
    "traced_transport": "traced_driver",
}
__all__ = [
    "KINDS",
    "Event",
    "Recorded",
    "Recorder",
    "Recording",
    "Tap",
    "load",
    "replay_into",
    "traced",
    "traced_transport",
]


def __getattr__(name: str) -> object:
    """Import a name when it is first used: a command imports what it needs, and not all of them."""
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(f"pyvirtio.trace.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
