"""Why a request fails without its method's doing, and what its driver sees of one that failed."""

from __future__ import annotations

from pyvirtio.device.streams import open_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device.streams import Writer
    from pyvirtio.ring import Chain


class StruckOut(Exception):
    """A request ended its worker too often."""


class TookTooLong(Exception):
    """A request took longer than the device's patience."""


class WasHeld(Exception):
    """A request was held when its queue stopped, and its method did not answer it."""


def write_failure(chain: Chain, failure: Callable[[Writer], object]) -> Exception | None:
    """Write what a driver sees of a failed request; return what ``failure``, the device's method, raised instead."""
    _, writer = open_streams(chain)
    try:
        failure(writer)
    except Exception as error:  # noqa: BLE001  # the author's code may raise anything; the queue goes on
        chain.written = 0
        return error
    finally:
        writer.close()
    return None
