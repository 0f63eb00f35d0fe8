"""Which engine runs the device's side of rings. The choice is made here and nowhere else.

- ``native``: C, where it was built (see `pyvirtio.ring.build_native`);
- ``reference``: plain Python.

The native engine is taken where it is available. ``PYVIRTIO_ENGINE=reference`` in the environment forces the other
one, for tests and measurements. Both give the same answers: tests/ring/test_engines.py compares them on a million
damaged rings.
"""

from __future__ import annotations

import os
import sys

from pyvirtio.errors import LocalError
from pyvirtio.ring.split_records import SplitRecordQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.journal import Journal
    from pyvirtio.ring.queue import RecordQueue, RingSetup

ENGINES = {"native": "C", "reference": "Python"}
"""The engines by name, the fastest first, and what each is written in."""

INTERFACE = 1
"""What this code expects of the library; ``INTERFACE`` in _native.c says what it has. Change both, in one step."""

COST = "on a busy queue the Python engine takes about ten times as long for a request"
_NEEDS = "(it needs a C compiler and Python's headers: on Debian, gcc and python3-dev)"


def engine() -> str:
    """Return the name of the engine that runs here; imports the native one if it is available.

    Raises:
        LocalError: PYVIRTIO_ENGINE asks for one that is not available.
    """
    forced = os.environ.get("PYVIRTIO_ENGINE", "")
    if forced and forced not in ENGINES:
        raise LocalError(f"PYVIRTIO_ENGINE is {forced!r}; it may be {' or '.join(ENGINES)}")
    if forced == "reference":
        return forced
    found = obstacle()
    if found is None:
        return "native"
    if forced:
        what, remedy = found
        raise LocalError(f"PYVIRTIO_ENGINE asks for the native engine, but {what}; {remedy}, or unset PYVIRTIO_ENGINE")
    return "reference"


def obstacle() -> tuple[str, str] | None:
    """Return why the native engine cannot run here, and what to do about it; None where it can."""
    if "t" in sys.abiflags:  # it would import the library, which reads objects of another shape
        return "this Python is free-threaded", "use a Python with an interpreter lock"
    remedy = f"run `{sys.executable} -m pyvirtio.ring.build_native` {_NEEDS}"
    try:
        from pyvirtio.ring import _native
    except ImportError:
        return "it is not built", remedy
    if getattr(_native, "INTERFACE", None) != INTERFACE:
        return "it was built from other sources than these", remedy
    return None


def device_queue(setup: RingSetup, memory: MemoryTable, *, journal: Journal) -> RecordQueue:
    """Return the device's end of the queue that ``setup`` describes; see `SplitDeviceQueue` for the arguments."""
    if engine() == "native":
        from pyvirtio.ring.native_device import NativeDeviceQueue

        try:
            return NativeDeviceQueue(setup, memory, journal=journal)
        except (TypeError, BufferError, ValueError) as error:
            if isinstance(error, LocalError):
                raise
            # A front-end may put its rings at odd places in its files; Python does not mind.
    return SplitRecordQueue(setup, memory, journal=journal)
