"""Every engine has to pass the tests of the ring's device side, and of what serves it: fixtures for all tests."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import LocalError
from pyvirtio.ring import build_native
from pyvirtio.ring import engine as engines

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(params=engines.ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have each engine run the rings of this test, one after the other."""
    monkeypatch.setenv("PYVIRTIO_ENGINE", request.param)
    try:
        return engines.engine()
    except LocalError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def mortal_native(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Build the native engine such that it can die before any of its stores."""
    command = build_native.compiler()
    if command is None:
        pytest.skip("there is no C compiler, or no Python.h")
    target: Path = tmp_path_factory.mktemp("mortal") / build_native.LIBRARY.name
    assert build_native.build(command, target, "-DRING_STORE_HOOK", *build_native.WARNINGS)
    spec = importlib.util.spec_from_file_location("pyvirtio.ring._native", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mortal_engine(engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have each engine run the rings of this test, and let a test end its process before any of its stores."""
    if engine == "native":
        native = request.getfixturevalue("mortal_native")
        monkeypatch.setattr("pyvirtio.ring.native_device._native", native)
    return engine
