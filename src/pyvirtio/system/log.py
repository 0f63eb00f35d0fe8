"""Logging that costs nothing before the first line, and that nobody can stop by not reading it.

Importing ``logging`` takes 10 ms, so it is imported for the first line. A pipe or socket that is full loses lines
rather than stopping whoever writes them: a keeper that waits for a reader of its log stops a virtual machine.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys

from pyvirtio.system.events import EVENTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

_STDERR = 2


def warning(event: str, message: str, error: BaseException | None = None) -> None:
    """Say that something went wrong: an event of `EVENTS`, in words, with the traceback of ``error``, if any."""
    import logging

    assert event in EVENTS, event
    if not isinstance(logging.lastResort, _stderr_handler()):
        logging.lastResort = _stderr_handler()()
        logging.lastResort.setLevel(logging.WARNING)
    logging.getLogger("pyvirtio").warning("%s [%s]", one_line(message), event, exc_info=error, extra={"event": event})


def refused(message: str) -> None:
    """Say that a message of the front-end was refused."""
    warning("message-refused", message)


def info(event: str, message: str) -> None:
    """Say what happened, if somebody listens: a listener has imported ``logging``."""
    assert event in EVENTS, event
    if logging := sys.modules.get("logging"):
        logging.getLogger("pyvirtio").info("%s [%s]", one_line(message), event, extra={"event": event})


def to_stderr(*, verbose: bool) -> None:
    """Send what is logged to stderr: warnings, and with ``verbose`` what happens."""
    import logging

    handler = _stderr_handler()()
    handler.setFormatter(logging.Formatter("pyvirtio: %(message)s"))
    level = logging.INFO if verbose else logging.WARNING
    handler.setLevel(level)  # others may listen to more
    logging.basicConfig(level=level, handlers=[handler])


@contextlib.contextmanager
def heard(hear: Callable[[str, str], object]) -> Iterator[None]:
    """Have ``hear`` called with the name and the words of each event while the block runs, here and in forks."""
    import logging

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            name = getattr(record, "event", "")
            hear(name, record.getMessage().removesuffix(f" [{name}]"))

    logger, listener = logging.getLogger("pyvirtio"), Listener()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


def one_line(message: str) -> str:
    r"""Return a message with what is not printable, a guest's for example, as escapes.

    >>> one_line("two\nlines")
    'two\\x0alines'
    """
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in message)


_handlers: list[type[logging.Handler]] = []


def _stderr_handler() -> type[logging.Handler]:
    """Return the class of the handler, which can only be made once ``logging`` is imported."""
    if _handlers:
        return _handlers[0]
    import logging

    class StderrHandler(logging.Handler):
        """Writes to stderr, and drops what nobody takes."""

        def emit(self, record: logging.LogRecord) -> None:
            write(self.format(record) + "\n")

    _handlers.append(StderrHandler)
    return StderrHandler


def write(text: str) -> bool:
    """Write ``text`` to stderr without waiting; return False where it, or its end, is lost."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        kind = os.fstat(_STDERR).st_mode
        if stat.S_ISFIFO(kind):
            return _write_to_pipe(data)
        if stat.S_ISSOCK(kind):
            return _write_to_socket(data)
        return os.write(_STDERR, data) == len(data)
    except OSError:
        return False


def _write_to_pipe(data: bytes) -> bool:
    # Opened again, the pipe has flags of our own: others who share stderr may rely on its waiting.
    try:
        fd = os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no descriptors are left, which may be what there is to say
        return _write_to_roomy_pipe(data)
    try:
        return os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def _write_to_roomy_pipe(data: bytes) -> bool:
    """Write without another descriptor what a pipe surely takes: it is writable where it has room for PIPE_BUF."""
    poll = select.poll()
    poll.register(_STDERR, select.POLLOUT)
    ready = any(events & select.POLLOUT for _, events in poll.poll(0))
    return ready and os.write(_STDERR, data[: select.PIPE_BUF]) == len(data)


def _write_to_socket(data: bytes) -> bool:
    import socket

    sock = socket.socket(fileno=os.dup(_STDERR))
    with sock:
        return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(data)
