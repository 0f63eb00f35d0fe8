"""The front-end without a compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.bench.backends import Backend, form, ours
from pyvirtio.bench.load import Load
from pyvirtio.bench.python_frontend import PythonFrontend
from pyvirtio.errors import LocalError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("indirect", [False, True])
def test_our_backend_answers(indirect: bool, tmp_path: Path):
    with ours("ours", form("Each"), engine_name="reference").running(tmp_path) as socket:
        for in_flight in (1, 32, 200):
            load = Load(in_flight=in_flight, seconds=0, requests=400, indirect=indirect)
            sample = PythonFrontend().measure(socket, load)
            assert sample.requests >= 400
            assert (sample.p99 or 0) >= (sample.p50 or 0) > 0


def test_the_c_peer_answers(peer: Backend, tmp_path: Path):
    with peer.running(tmp_path) as socket:
        assert PythonFrontend().measure(socket, Load(in_flight=8, seconds=0, requests=80)).requests == 80


def test_nobody_serves(tmp_path: Path):
    with pytest.raises(LocalError, match="nobody serves"):
        PythonFrontend().measure(tmp_path / "none", Load())
