"""Which engine runs the device's side of rings. The choice is made here and nowhere else.

- ``native``: C, where it was built (see `pyvirtio.ring.build_native`);
- ``reference``: plain Python.

The native engine is taken where it is available. ``PYVIRTIO_ENGINE=reference`` in the environment forces the other
one, for tests and measurements. Both give the same answers: tests/ring/test_engines.py compares them on a million
damaged rings.
"""

from __future__ import annotations

import os

from pyvirtio.errors import LocalError
from pyvirtio.ring.split_records import SplitRecordQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.journal import Journal
    from pyvirtio.ring.queue import RecordQueue, RingSetup

ENGINES = {"native": "C", "reference": "Python"}
"""The engines by name, the fastest first, and what each is written in."""


def engine() -> str:
    """Return the name of the engine that runs here; imports the native one if it is available.

    Raises:
        LocalError: PYVIRTIO_ENGINE asks for one that is not available.
    """
    forced = os.environ.get("PYVIRTIO_ENGINE", "")
    if not forced:
        return "native" if _has_native() else "reference"
    if forced not in ENGINES:
        raise LocalError(f"PYVIRTIO_ENGINE is {forced!r}; it may be {' or '.join(ENGINES)}")
    if forced == "native" and not _has_native():
        raise LocalError(
            "PYVIRTIO_ENGINE asks for the native engine, which is not built; run "
            "`python -m pyvirtio.ring.build_native` (it needs a C compiler and Python's headers), "
            "or choose the other one, reference"
        )
    return forced


def _has_native() -> bool:
    try:
        from pyvirtio.ring import _native  # noqa: F401  # only whether it can be imported
    except ImportError:
        return False
    return True


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
