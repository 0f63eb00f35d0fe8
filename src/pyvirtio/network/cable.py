"""The end of a cable that options name."""

from __future__ import annotations

from pyvirtio.errors import UsageError
from pyvirtio.network.function import FunctionEnd
from pyvirtio.network.sockets import DatagramEnd, StreamEnd
from pyvirtio.network.tap import TapEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio.network.end import End


def end_of(
    end: End | None = None,
    *,
    tap: str | None = None,
    dgram: Path | None = None,
    remote: Path | None = None,
    stream: Path | None = None,
    listen: bool = False,
    function: str | None = None,
) -> End:
    """Return ``end``, or the one that the only option describes; see `pyvirtio.devices.net.Net`.

    Raises:
        UsageError: none is given, or several are.
    """
    ends = [
        *([end] if end is not None else []),
        *([TapEnd(tap)] if tap is not None else []),
        *([DatagramEnd(dgram, remote)] if dgram is not None and remote is not None else []),
        *([StreamEnd(stream, listen=listen)] if stream is not None else []),
        *([FunctionEnd.named(function)] if function is not None else []),
    ]
    if len(ends) != 1 or (dgram is None) != (remote is None):
        raise UsageError("a network card has one cable: give one of tap, dgram with remote, stream, function")
    return ends[0]
