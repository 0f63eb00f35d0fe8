"""The engines are equal: what the reference engine does with a damaged ring, the others do."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pyvirtio.errors import LocalError, RingError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import build_native
from pyvirtio.ring import engine as engines
from pyvirtio.ring.split_records import SplitRecordQueue
from pyvirtio.testing import RawDriver
from tests.support.rings import device_queue, memory_of, rings_at

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
    # It was worth it: many were taken as records, many broke the ring, many were given back.
    assert min(found["batches"], found["broken"], found["unpopped"]) > QUICK / 20, found
    assert found["calls"] > QUICK / 20 or engine == "reference"
    assert found["handed over"] > QUICK / 50 or engine == "reference"
    assert found["parked"] > QUICK / 50 or not found["io_uring"]


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("engine", engines.ENGINES)
def test_as_the_reference_engine_a_million_times(engine: str, part: int):
    need(engine)
    assert differ(engine, f"{os.environ['PYVIRTIO_SEED']} {part}", EACH)["cases"] == EACH


@pytest.fixture(scope="module")
def command() -> list[str]:
    """The C compiler's command."""
    command = build_native.compiler()
    if command is None:
        pytest.skip("there is no C compiler, or no Python.h")
    return command


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> tuple[Path, str]:
    """Build the native engine with ASan and UBSan; returns it and the library that must be loaded first."""
    found = subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    asan = Path(found.stdout.strip())
    if not asan.is_absolute():
        pytest.skip("the compiler has no libasan")
    target = tmp_path_factory.mktemp("sanitized") / build_native.LIBRARY.name
    options = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
    assert build_native.build(command, target, *options)
    return target, str(asan.resolve())


@pytest.mark.parametrize(("mode", "cases"), [("native", 20_000), ("race", 20_000)])
@pytest.mark.long
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


def test_the_native_engine_compiles_without_warnings(tmp_path: Path, command: list[str]):
    assert build_native.build(command, tmp_path / "_native.so", *build_native.WARNINGS)


def test_its_core_and_each_part_of_that_needs_no_python_and_no_other_part_before_it(command: list[str]):
    parts = [build_native.PARTS / "core.h", *sorted((build_native.PARTS / "core").iterdir())]
    assert len(parts) > 5
    for part in parts:
        subprocess.run(
            [*command, "-std=gnu11", "-fsyntax-only", *build_native.WARNINGS, "-Wno-unused-function", "-x", "c", part],
            check=True,
        )


# How it is built.


def broken_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have `build_native` find a source that no compiler takes; returns where its library would be."""
    (folder / "native").mkdir()
    (folder / "_native.c").write_text("this is not C\n")
    monkeypatch.setattr(build_native, "SOURCE", folder / "_native.c")
    monkeypatch.setattr(build_native, "PARTS", folder / "native")
    monkeypatch.setattr(build_native, "LIBRARY", folder / "_native.so")
    monkeypatch.setattr(build_native.build, "__defaults__", (folder / "_native.so",))
    return folder / "_native.so"


@pytest.mark.usefixtures("command")
def test_a_failed_build_shows_what_the_compiler_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    library = broken_source(tmp_path, monkeypatch)
    assert build_native.main() == 1
    assert "_native.c:1" in capfd.readouterr().err
    assert not library.exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["_native.c"]


@pytest.mark.usefixtures("command")
def test_a_failed_build_removes_only_a_library_of_another_source_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    library = broken_source(tmp_path, monkeypatch)
    library.write_bytes(b"built from " + build_native.digest().encode())
    assert build_native.main() == 1
    assert library.exists()
    library.write_bytes(b"built from something else")
    capfd.readouterr()
    assert build_native.main() == 1
    assert not library.exists()
    assert "removed" in capfd.readouterr().err


def test_without_a_compiler_nothing_is_built_and_nothing_removed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build_native.main() == 2


@pytest.mark.parametrize(
    ("free_threaded", "compiler", "built"),
    [(None, "true", True), (0, "true", True), (1, "true", False), (0, "", False)],
)
def test_an_install_has_the_library_where_there_is_a_compiler_and_an_interpreter_lock(
    free_threaded: int | None, compiler: str, built: bool, monkeypatch: pytest.MonkeyPatch
):
    """A free-threaded Python has no limited API. A wheel without the library is for every machine."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("there is no Python.h")
    asked: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", asked.update)
    monkeypatch.setattr("sysconfig.get_config_var", {"Py_GIL_DISABLED": free_threaded}.get)
    monkeypatch.setenv("CC", compiler)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    assert [extension.optional for extension in asked.get("ext_modules", [])] == [True] * built
    assert ("bdist_wheel" in asked.get("options", {})) == built


# The choice.


def test_the_choice_can_be_forced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYVIRTIO_ENGINE", "reference")
    assert engines.engine() == "reference"
    for unknown in ("fastest", "numpy"):
        monkeypatch.setenv("PYVIRTIO_ENGINE", unknown)
        with pytest.raises(LocalError, match="native or reference"):
            engines.engine()


def test_without_the_native_engine_it_is_plain_python(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYVIRTIO_ENGINE", raising=False)
    monkeypatch.setattr(sys, "abiflags", "")
    monkeypatch.setitem(sys.modules, "pyvirtio.ring._native", None)
    monkeypatch.delattr("pyvirtio.ring._native", raising=False)
    assert engines.engine() == "reference"
    monkeypatch.setenv("PYVIRTIO_ENGINE", "native")
    with pytest.raises(LocalError, match="build_native"):
        engines.engine()


def test_a_library_of_other_sources_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    """A checkout moves on and its library does not: workers died of what it lacked."""
    monkeypatch.delenv("PYVIRTIO_ENGINE", raising=False)
    monkeypatch.setattr(sys, "abiflags", "")
    library = ModuleType("pyvirtio.ring._native")
    monkeypatch.setitem(sys.modules, library.__name__, library)
    monkeypatch.setattr("pyvirtio.ring._native", library, raising=False)
    for number in (None, engines.INTERFACE - 1, engines.INTERFACE + 1):
        library.__dict__.update({} if number is None else {"INTERFACE": number})
        assert engines.engine() == "reference"
        what, remedy = engines.obstacle() or ("", "")
        assert "other sources" in what
        assert "build_native" in remedy
    library.__dict__["INTERFACE"] = engines.INTERFACE
    assert engines.engine() == "native"


def test_a_free_threaded_python_never_imports_the_library(monkeypatch: pytest.MonkeyPatch):
    """It would take one that lies in the checkout for its own, and crash: the suffix says nothing of the lock."""
    monkeypatch.delenv("PYVIRTIO_ENGINE", raising=False)
    monkeypatch.setattr(sys, "abiflags", "t")
    for name in ("pyvirtio.ring._native", "pyvirtio.ring.native_device"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert engines.engine() == "reference"
    assert "pyvirtio.ring._native" not in sys.modules
    monkeypatch.setenv("PYVIRTIO_ENGINE", "native")
    with pytest.raises(LocalError, match="free-threaded"):
        engines.engine()


def test_the_variables_of_a_c_compiler_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\necho "$@" >"$0.words"\nwhile [ "$1" != -o ]; do shift; done\necho >"$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CPPFLAGS", "-DFIRST")
    monkeypatch.setenv("CFLAGS", "-g -O3")
    monkeypatch.setenv("LDFLAGS", "-s")
    assert build_native.build([str(compiler)], tmp_path / "_native.so", "-Werror")
    words = (tmp_path / "cc.words").read_text().split()
    assert {"-DFIRST", "-g", "-s", "-Werror"} <= set(words)
    assert words.index("-O2") < words.index("-O3")


def odd_memory() -> MemoryTable:
    """Memory that lies at an odd address of this process, as a front-end may have it."""
    return MemoryTable([Region(0x1000, memoryview(bytearray(0x1001))[1:])])


def test_rings_at_odd_places_go_by_the_reference_engine(monkeypatch: pytest.MonkeyPatch):
    need("native")
    monkeypatch.setenv("PYVIRTIO_ENGINE", "native")
    assert type(device_queue(RawDriver(memory_of((0x1000, 0x1000))))) is not SplitRecordQueue
    assert type(device_queue(RawDriver(odd_memory()))) is SplitRecordQueue


def test_a_ring_that_moves_to_an_odd_place_is_left_where_it_was(monkeypatch: pytest.MonkeyPatch):
    need("native")
    monkeypatch.setenv("PYVIRTIO_ENGINE", "native")
    raw = RawDriver(memory_of((0x1000, 0x1000)), 8)
    queue = device_queue(raw)
    raw.make_available(raw.request(b"x"), raw.request(b"y"))
    (chain,) = queue.pop(1)
    with pytest.raises(RingError):
        queue.relocate(rings_at(odd_memory(), raw.layout), odd_memory())
    queue.push([chain, *queue.pop()])
    assert len(raw.reap()) == 2
