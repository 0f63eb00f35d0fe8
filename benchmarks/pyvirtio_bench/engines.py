"""Which ring engines can run here, and how a measurement forces one of them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError
from pyvirtio.ring.engine import engine

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "PYVIRTIO_ENGINE"
TITLES = {"native": "accelerator", "reference": "plain Python"}
"""What the tables call each engine; the fastest first."""
BATCHING = ("native",)
"""The engines that call a device's batch method."""


def engines() -> list[str]:
    """Return the engines that can run here, the fastest first."""
    return [name for name in TITLES if _is_available(name)]


def _is_available(name: str) -> bool:
    with forced(name):
        try:
            engine()
        except LocalError:
            return False
    return True


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """Have this process, and the processes that it starts meanwhile, use one engine."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
