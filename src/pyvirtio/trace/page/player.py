"""The page that plays a recording."""

from __future__ import annotations

from pyvirtio.trace.page.joining import join
from pyvirtio.trace.page.steps import page_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.trace.events import Recording


def player(recording: Recording) -> bytes:
    """Return one file of HTML that plays a recording, step by step, without a network."""
    data = page_data(recording)
    return join("player", data["title"] or "A recording of virtio", data).encode()
