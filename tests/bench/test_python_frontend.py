"""The front-end without a compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import LocalError
from pyvirtio_bench.backends import Backend, device_spec, pyvirtio_backend
from pyvirtio_bench.python_frontend import PythonFrontend
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("indirect", [False, True])
def test_our_backend_answers(indirect: bool, tmp_path: Path):
    with pyvirtio_backend("ours", device_spec("Each"), engine_name="reference").running(tmp_path) as socket:
        for in_flight in (1, 32, 200):
            workload = Workload(in_flight=in_flight, seconds=0, requests=400, indirect=indirect)
            sample = PythonFrontend().measure(socket, workload)
            assert sample.requests >= 400
            assert (sample.p99 or 0) >= (sample.p50 or 0) > 0


def test_the_c_peer_answers(peer: Backend, tmp_path: Path):
    with peer.running(tmp_path) as socket:
        assert PythonFrontend().measure(socket, Workload(in_flight=8, seconds=0, requests=80)).requests == 80


def test_nobody_serves(tmp_path: Path):
    with pytest.raises(LocalError, match="nobody serves"):
        PythonFrontend().measure(tmp_path / "none", Workload())
