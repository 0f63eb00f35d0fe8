"""Ends by name, as on a command line."""

from __future__ import annotations

from pyvirtio.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.ends.end import End

KINDS = {"pty": "pty or pty:LINK", "unix": "unix:PATH", "file": "file:PATH", "none": "none"}
"""What there is, and how it is written."""


def end_of(name: str) -> End:
    """Return the end that ``name`` says: ``pty``, ``pty:LINK``, ``unix:PATH``, ``file:PATH`` or ``none``.

    Raises:
        UsageError: it says none of these.
    """
    from pathlib import Path

    kind, _, place = name.partition(":")
    if kind == "pty":
        from pyvirtio.ends.pty import PtyEnd

        return PtyEnd(Path(place) if place else None)
    if kind == "unix" and place:
        from pyvirtio.ends.sockets import UnixEnd

        return UnixEnd(Path(place))
    if kind == "file" and place:
        from pyvirtio.ends.file import FileEnd

        return FileEnd(Path(place))
    if name == "none":
        from pyvirtio.ends.end import End

        return End()
    raise UsageError(f"{name!r} is no place for a stream of bytes; there are: {', '.join(KINDS.values())}")


def split_list(text: str) -> list[str]:
    """Split a list at each plus sign; one that belongs to an item is written twice.

    >>> split_list("pty+unix:/tmp/c++/s")
    ['pty', 'unix:/tmp/c+/s']
    """
    return [item.replace("\0", "+") for item in text.replace("++", "\0").split("+")]
