"""Which engine runs the device's side of rings. The choice is made here and nowhere else.

- ``native``: C, where it was built (see `pyvirtio.ring.build_native`);
- ``numpy``: plain Python, and NumPy for batches of requests of one shape, where NumPy is installed;
- ``reference``: plain Python.

The first that is there is taken. ``PYVIRTIO_ENGINE=numpy`` in the environment forces one, for tests and measurements.
All of them give the same answers: tests/ring/test_engines.py compares them on a million damaged rings.
"""

from __future__ import annotations

import os

from pyvirtio.errors import LocalError
from pyvirtio.ring.split_device import SplitDeviceQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.journal import Journal
    from pyvirtio.ring.layout import SplitLayout

ENGINES = {
    "native": "C accelerator",
    "numpy": "Python, with NumPy for batches",
    "reference": "Python",
}
"""The engines by name, the fastest first, and what each is."""


def engine() -> str:
    """Give the name of the engine that runs here; imports the accelerator if it is there.

    Raises:
        LocalError: PYVIRTIO_ENGINE asks for one that is not there.
    """
    forced = os.environ.get("PYVIRTIO_ENGINE", "")
    if forced:
        if forced not in ENGINES:
            raise LocalError(f"PYVIRTIO_ENGINE is {forced!r}; it may be {', '.join(ENGINES)}")
        if not _is_there(forced):
            raise LocalError(f"PYVIRTIO_ENGINE asks for {forced!r}, which is not there: {_HOW[forced]}")
        return forced
    return next(name for name in ENGINES if _is_there(name))


_HOW = {
    "native": "build it with `python -m pyvirtio.ring.build_native`, which needs a C compiler and Python's headers",
    "numpy": "install NumPy, for example with `pip install 'pyvirtio[fast]'`",
}


def _is_there(name: str) -> bool:
    if name == "native":
        try:
            from pyvirtio.ring import _native  # noqa: F401  # only whether it can be
        except ImportError:
            return False
    elif name == "numpy":
        from importlib.util import find_spec  # NumPy itself is imported when a batch is worth it

        return find_spec("numpy") is not None
    return True


def device_queue(
    rings: SplitLayout,
    memory: MemoryTable,
    features: int,
    *,
    journal: Journal | None = None,
    base: int | None = None,
) -> SplitDeviceQueue:
    """Build the device's end of a queue; the arguments are those of `SplitDeviceQueue`."""
    chosen = engine()
    if chosen == "native":
        from pyvirtio.ring.native_device import NativeDeviceQueue

        try:
            return NativeDeviceQueue(rings, memory, features, journal=journal, base=base)
        except (ValueError, TypeError, BufferError, OverflowError):
            # A front-end may put its rings at odd places in its files; Python does not mind.
            chosen = "numpy" if _is_there("numpy") else "reference"
    if chosen == "numpy":
        from pyvirtio.ring.numpy_device import NumpyDeviceQueue

        return NumpyDeviceQueue(rings, memory, features, journal=journal, base=base)
    return SplitDeviceQueue(rings, memory, features, journal=journal, base=base)
