"""The C programs, built once for all tests; where they cannot be built, the tests that need them say why they skip."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio_bench.backends import Backend, c_peer
from pyvirtio_bench.programs import LIBRARY, Programs
from pyvirtio_bench.provision import cache
from pyvirtio_bench.workload import CFrontend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def programs() -> Programs:
    if shutil.which(os.environ.get("CC", "gcc").split()[0]) is None:
        pytest.skip("there is no C compiler here, and the front-end that measures is written in C: install gcc")
    return Programs(cache.Cache(cache.default_root()))


@pytest.fixture(scope="session")
def frontend(programs: Programs) -> CFrontend:
    return CFrontend(programs.frontend())


@pytest.fixture(scope="session")
def peer_program(programs: Programs) -> Path:
    try:
        return programs.backend()
    except ProvisionError as error:
        pytest.skip(f"{LIBRARY} is out of reach here: {error}")


@pytest.fixture
def peer(peer_program: Path) -> Backend:
    return c_peer(peer_program, queues=4)
