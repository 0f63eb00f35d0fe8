"""Every shipped device is tested in this process and behind a socket, as its users may have it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.served import served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from pyvirtio import Device


@pytest.fixture(params=["in this process", "over a socket"])
def place(request: pytest.FixtureRequest) -> Callable[..., AbstractContextManager[Device | str]]:
    """Return what makes a device available for `open_driver`: from a constructor, or from a command line."""

    @contextmanager
    def available(make: Callable[[], Device], command: str, *options: str) -> Iterator[Device | str]:
        if request.param == "in this process":
            yield make()
            return
        with served(command, *options) as server:
            yield f"vhost-user:{server.path}"

    return available
