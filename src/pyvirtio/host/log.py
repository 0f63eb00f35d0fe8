"""Logging that costs nothing before the first line: importing ``logging`` takes 10 ms."""

from __future__ import annotations

import sys


def warning(message: str, error: BaseException | None = None) -> None:
    """Say that something went wrong, with the traceback of ``error`` if there is one."""
    import logging

    logging.getLogger("pyvirtio").warning("%s", _one_line(message), exc_info=error)


def info(message: str) -> None:
    """Say what happened, if somebody listens: who does has imported ``logging``."""
    if logging := sys.modules.get("logging"):
        logging.getLogger("pyvirtio").info("%s", _one_line(message))


def _one_line(message: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in message)
