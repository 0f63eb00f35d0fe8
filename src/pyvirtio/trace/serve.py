"""Serves a device and records everything: ``pyvirtio serve --trace``."""

from __future__ import annotations

from functools import partial

from pyvirtio.host.serve import backend_session, serve
from pyvirtio.trace.recorder import Recorder
from pyvirtio.trace.traced_device import TracedRunner, TracedSession, note_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.transport import DeviceDescription, DeviceHost, Session


def serve_traced(spec: str, where: str | int, path: str, **options: Any) -> None:
    """Serve a device as `pyvirtio.host.serve.serve` does, and record what happens into the file at ``path``.

    Raises:
        LocalError: as there, or the file cannot be written.
    """
    ready = options.pop("ready", None)
    connections = 0

    with Recorder(path) as recorder:

        def new_session(host: DeviceHost) -> Session:
            nonlocal connections
            connections += 1
            return TracedSession(backend_session(host), recorder, connections)

        def say(description: DeviceDescription) -> None:
            note_device(recorder, description)
            if ready is not None:
                ready(description)

        serve(
            spec,
            where,
            new_runner=partial(TracedRunner, recorder=recorder),
            new_session=new_session,
            ready=say,
            **options,
        )
