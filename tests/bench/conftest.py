"""The C programs, built once for all tests; where they cannot be built, the tests that need them say why they skip."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.progress import Silent
from pyvirtio.vm.launch import GuestBuilder
from pyvirtio_bench.backends import Backend
from pyvirtio_bench.bench import Bench
from pyvirtio_bench.installs import Installs
from pyvirtio_bench.programs import LIBRARY, Programs
from pyvirtio_bench.provision import cache
from pyvirtio_bench.pythons import examine
from pyvirtio_bench.runs import Runner, Schedule
from pyvirtio_bench.workload import CFrontend

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def builder() -> GuestBuilder:
    return GuestBuilder(cache.Cache(cache.default_root()))


@pytest.fixture(scope="session")
def programs(builder: GuestBuilder) -> Programs:
    if shutil.which(os.environ.get("CC", "gcc").split()[0]) is None:
        pytest.skip("there is no C compiler here, and the front-end that measures is written in C: install gcc")
    return Programs(builder.cache)


@pytest.fixture(scope="session")
def frontend(programs: Programs) -> CFrontend:
    return CFrontend(programs.frontend())


@pytest.fixture(scope="session")
def peer_program(programs: Programs) -> Path:
    try:
        return programs.backend()
    except ProvisionError as error:
        pytest.skip(f"{LIBRARY} is out of reach here: {error}")


@pytest.fixture(scope="session")
def installs(builder: GuestBuilder) -> Installs:
    return Installs(builder.cache, examine(Path(sys.executable)), Silent())


@pytest.fixture
def bench(frontend: CFrontend, builder: GuestBuilder, installs: Installs) -> Bench:
    """Everything as a user has it, but for the time that it takes."""
    return Bench(Runner(frontend, Schedule(0.02, 2)), installs, builder, requests=1000)


@pytest.fixture
def ours() -> Callable[..., Backend]:
    """Return what makes a back-end of the checkout that is being tested."""

    def serve(device: str, engine: str = "reference") -> Backend:
        command = (sys.executable, "-m", "pyvirtio", "serve", device, "--socket", "{socket}")
        return Backend("ours", command, {"PYVIRTIO_ENGINE": engine})

    return serve
