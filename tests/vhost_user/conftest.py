"""One factorial device for a whole file of tests: it has to live through all of them, and each is checked for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from tests.support.vhost import answers_rightly, idle_fds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.testing.frontend import RawQueue
    from pyvirtio.testing.served import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with served("factorial") as server:
        yield server


@pytest.fixture
def unharmed(server: ServerProcess) -> Iterator[None]:
    """Whatever a test does: the keeper and its worker live on, hold what they held, and answer rightly."""
    before, workers = idle_fds(server), server.workers()
    yield
    assert server.is_alive()
    assert idle_fds(server) == before
    assert server.workers() == workers
    answers_rightly(server.path)


@pytest.fixture
def frontend(server: ServerProcess, unharmed: None) -> Iterator[RawFrontend]:
    """A front-end that has negotiated everything."""
    with RawFrontend(server.path) as frontend:
        frontend.negotiate()
        yield frontend


@pytest.fixture
def memory(unharmed: None) -> Iterator[SharedMemory]:
    with SharedMemory() as memory:
        yield memory


@pytest.fixture
def queue(frontend: RawFrontend, memory: SharedMemory) -> RawQueue:
    """A queue that runs."""
    assert frontend.share(memory)
    queue = frontend.queue(memory)
    queue.start()
    return queue
