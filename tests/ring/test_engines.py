"""The engines are equal: what the reference engine does with a damaged ring, the others do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvirtio.errors import LocalError
from pyvirtio.ring import SplitDeviceQueue, build_native
from pyvirtio.ring import engine as engines
from tests.support.rings import device_queue, memory_of

ROOT = Path(__file__).parents[2]
QUICK, EACH = 50_000, 125_000
"""Cases in `make check`; and in each of eight parts in `make test`, a million together."""

# A sanitizer wants to be the first library of the process, and to see every allocation. Python itself leaks on purpose.
SANITIZED = """
import importlib.util, runpy, sys
spec = importlib.util.spec_from_file_location("pyvirtio.ring._native", sys.argv[1])
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.argv[:2] = []
sys.argv.insert(0, "differ")
runpy.run_module("tests.support.differ", run_name="__main__")
"""


def differ(
    *arguments: object, program: tuple[object, ...] = ("-m", "tests.support.differ"), **environment: str
) -> dict[str, int]:
    """Compare in a process of its own, whose coverage nobody measures: that would take most of the time."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    result = subprocess.run(
        [sys.executable, *map(str, program), *map(str, arguments)],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not result.returncode, result.stderr[-5000:]
    found: dict[str, int] = ast.literal_eval(result.stdout)
    return found


def need(engine: str) -> None:
    try:
        os.environ["PYVIRTIO_ENGINE"] = engine
        engines.engine()
    except LocalError as error:
        pytest.skip(str(error))
    finally:
        del os.environ["PYVIRTIO_ENGINE"]


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_as_the_reference_engine(engine: str):
    need(engine)
    found = differ(engine, os.environ["PYVIRTIO_SEED"], QUICK)
    assert found["cases"] == QUICK
    # It was worth it: many were taken as records, many broke the ring.
    assert min(found["batches"], found["broken"]) > QUICK / 10


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("engine", engines.ENGINES)
def test_as_the_reference_engine_a_million_times(engine: str, part: int):
    need(engine)
    assert differ(engine, f"{os.environ['PYVIRTIO_SEED']} {part}", EACH)["cases"] == EACH


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Build the accelerator with ASan and UBSan; gives it and the library that must be loaded first."""
    command = build_native.compiler()
    if command is None:
        pytest.skip("there is no C compiler, or no Python.h")
    found = subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    asan = Path(found.stdout.strip())
    if not asan.is_absolute():
        pytest.skip("the compiler has no libasan")
    target = tmp_path_factory.mktemp("sanitized") / "_native.abi3.so"
    options = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
    assert build_native.build(target, *options)
    return target, str(asan.resolve())


@pytest.mark.parametrize(("mode", "cases"), [("native", 20_000), ("race", 20_000)])
def test_sanitizers_find_nothing(mode: str, cases: int, sanitized: tuple[Path, str]):
    target, asan = sanitized
    found = differ(
        target,
        mode,
        os.environ["PYVIRTIO_SEED"],
        cases,
        program=("-c", SANITIZED),
        LD_PRELOAD=asan,
        ASAN_OPTIONS="detect_leaks=0",
        PYTHONMALLOC="malloc",
        PYVIRTIO_ENGINE="native",
    )
    assert found.get("popped", found.get("batches", 0)) > cases / 10


def test_no_warnings(tmp_path: Path):
    if build_native.compiler() is None:
        pytest.skip("there is no C compiler, or no Python.h")
    assert build_native.build(tmp_path / "_native.abi3.so", *build_native.WARNINGS)


def test_the_choice_can_be_forced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYVIRTIO_ENGINE", "reference")
    assert engines.engine() == "reference"
    monkeypatch.setenv("PYVIRTIO_ENGINE", "fastest")
    with pytest.raises(LocalError, match="native or reference"):
        engines.engine()


def test_without_the_native_engine_it_is_plain_python(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYVIRTIO_ENGINE", raising=False)
    monkeypatch.setattr(engines, "_has_native", lambda: False)
    assert engines.engine() == "reference"
    monkeypatch.setenv("PYVIRTIO_ENGINE", "native")
    with pytest.raises(LocalError, match="build_native"):
        engines.engine()


def test_rings_at_odd_places_go_another_way(monkeypatch: pytest.MonkeyPatch):
    from pyvirtio.memory import MemoryTable, Region
    from pyvirtio.testing import RawDriver

    need("native")
    monkeypatch.setenv("PYVIRTIO_ENGINE", "native")
    plain = RawDriver(memory_of((0x1000, 0x1000)))
    assert type(device_queue(plain)).__name__ == "NativeDeviceQueue"
    odd = RawDriver(MemoryTable([Region(0x1000, memoryview(bytearray(0x1001))[1:])]))
    queue = device_queue(odd)
    assert type(queue).__name__ != "NativeDeviceQueue"
    assert isinstance(queue, SplitDeviceQueue)
