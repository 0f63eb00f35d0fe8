"""A tap in a thread of the test, and what came of it."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvirtio.system.listener import listen
from pyvirtio.trace.events import Recording
from pyvirtio.trace.recorder import Recorder
from pyvirtio.trace.tap import Tap
from pyvirtio.trace.tapping import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.trace.events import Event

PATIENCE = 60.0


class Tapped:
    """A tap that runs.

    Attributes:
        path: the socket for front-ends.
        file: the recording.
        tap: the tap itself, which belongs to its thread.
    """

    def __init__(self, path: str, file: Path, tap: Tap) -> None:
        self.path = path
        self.file = file
        self.tap = tap
        self.lines: bytes | None = None

    def recording(self) -> Recording:
        """Return what has been recorded by now."""
        lines = self.file.read_bytes() if self.lines is None else self.lines
        return Recording(lines.splitlines(keepends=True))

    def events(self, *kinds: str) -> list[Event]:
        """Return the events of some kinds, in order."""
        return [event for event in self.recording().events if event.what in kinds]


@contextlib.contextmanager
def tapped(back: str, file: Path | None = None, **options: Any) -> Iterator[Tapped]:
    """Tap the back-end at ``back`` while the block runs; ``options`` are the recorder's."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        folder = Path(name)
        file = file or folder / "run.jsonl"
        ours, theirs = socket.socketpair()
        with ours, theirs, Recorder(str(file), **options) as recorder, listen(str(folder / "f")) as listener:
            tap = Tap(listener, back, recorder)
            failures: list[BaseException] = []

            def work() -> None:
                try:
                    run(tap, theirs)
                except BaseException as error:  # noqa: BLE001  # the test is to see it
                    failures.append(error)
                finally:
                    tap.close()

            thread = threading.Thread(target=work)
            thread.start()
            tapped = Tapped(str(folder / "f"), file, tap)
            try:
                yield tapped
            finally:
                ours.send(b"x")
                thread.join(PATIENCE)
                tapped.lines = file.read_bytes()
            assert not thread.is_alive()
            if failures:
                raise failures[0]
