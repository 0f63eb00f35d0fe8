"""Every engine has to pass the tests of the runtime."""

from __future__ import annotations

import pytest

from pyvirtio.errors import LocalError
from pyvirtio.ring import engine as engines


@pytest.fixture(params=engines.ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have each engine run the rings of this test, one after the other."""
    monkeypatch.setenv("PYVIRTIO_ENGINE", request.param)
    try:
        return engines.engine()
    except LocalError as error:
        pytest.skip(str(error))
