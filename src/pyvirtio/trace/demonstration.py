"""A run that is recorded in memory and told step by step: what ``--trace`` shows."""

from __future__ import annotations

import contextlib
import os
from functools import partial

from pyvirtio.host.serve import backend
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.system import memory_file
from pyvirtio.trace.recorder import Recorder, load
from pyvirtio.trace.text import render
from pyvirtio.trace.traced_device import TracedRunner
from pyvirtio.trace.traced_driver import TracedTransport, traced, traced_transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeVar

    from pyvirtio.driver import Driver
    from pyvirtio.spec.struct import Struct

    D = TypeVar("D", bound=Driver)

BEGINNING = """\
Two processes: the driver is this one, the device another. They first talk over
a socket, then share memory. Each line: microseconds, who, queue, what.
"""


@contextlib.contextmanager
def demonstrated(
    kind: type[D], device: str, socket: str | None = None, *, recording: str = "", **options: Any
) -> Iterator[tuple[D, Recorder]]:
    """Open a driver, all of whose steps are recorded, on the back-end at ``socket``, or on one of its own.

    ``device`` is what that one serves; ``recording`` names a file, if there shall be one; ``options`` are the driver's.

    Raises:
        LocalError: as for `pyvirtio.open_driver`, or the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        recorder = stack.enter_context(Recorder(recording) if recording else _in_memory(stack))
        if socket is None:
            runner = partial(TracedRunner, recorder=recorder, driver_is_traced=True)
            transport: Any = TracedTransport(stack.enter_context(backend(device, runner)), recorder)
        else:
            transport = traced_transport(socket, recorder)
        # Without tables inside tables: a chain in the queue's own table is the easier picture.
        features = RING_FEATURES & ~Feature.INDIRECT_DESC
        driver = traced(kind, recorder, device_is_traced=socket is None)(transport, ring_features=features, **options)
        stack.callback(driver.close)
        yield driver, recorder


def _in_memory(stack: contextlib.ExitStack) -> Recorder:
    """Return a recorder whose file exists in memory alone, and which processes that we fork find by our number."""
    fd = memory_file.create("pyvirtio-trace")
    stack.callback(os.close, fd)
    return Recorder(f"/proc/{os.getpid()}/fd/{fd}")


def told(recorder: Recorder, request: type[Struct], answer: type[Struct]) -> Iterator[str]:
    """Yield what a recorder has up to now, explained; ``request`` and ``answer`` are what passes on the queue."""
    yield from BEGINNING.splitlines()
    yield from render(load(recorder.path), explain=True, structures=(request, answer))
    yield ""
