"""Serves a device and records everything, or shows it: ``pyvirtio serve --trace``, ``pyvirtio serve --watch``."""

from __future__ import annotations

import contextlib
from functools import partial

from pyvirtio.host.serve import backend_session, serve
from pyvirtio.system import log
from pyvirtio.trace.recorder import Both, Recorder
from pyvirtio.trace.traced_device import TracedRunner, TracedSession, note_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.trace.recorder import Sink
    from pyvirtio.transport import DeviceDescription, DeviceHost, Session


def serve_traced(
    spec: str, where: str | int, *, recording: str | None = None, port: int | None = None, **options: Any
) -> None:
    """Serve a device as `pyvirtio.host.serve.serve` does, and record what happens, or show it, or both.

    ``recording`` is the path of a file, ``port`` that of the page which shows the running device, 0 for any.

    Raises:
        LocalError: as there, or the file cannot be written, or the port is not free.
    """
    ready = options.pop("ready", lambda _description: None)
    with contextlib.ExitStack() as exits:
        sinks: list[Sink] = []
        address = ""
        if port is not None:  # first: its process shall have nothing of this one
            from pyvirtio.trace.watch.process import watching

            feed, address = exits.enter_context(watching(port))
            sinks.append(feed)
        if recording is not None:
            sinks.append(exits.enter_context(Recorder(recording)))
        sink = sinks[0] if len(sinks) == 1 else Both(*sinks)
        exits.enter_context(log.heard(lambda name, text: sink.note("recorder", "log", name=name, text=text)))

        def say(description: DeviceDescription) -> None:
            note_device(sink, description)
            ready(description)
            if address:
                log.write(f"pyvirtio: watch it at {address} [watch-ready]\n")

        _serve(spec, where, sink, ready=say, **options)


def _serve(spec: str, where: str | int, sink: Sink, **options: Any) -> None:
    connections = 0

    def new_session(host: DeviceHost) -> Session:
        nonlocal connections
        connections += 1
        return TracedSession(backend_session(host), host, sink, connections)

    serve(spec, where, new_runner=partial(TracedRunner, recorder=sink), new_session=new_session, **options)
