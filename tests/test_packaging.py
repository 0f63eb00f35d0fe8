"""What a wheel and an sdist hold."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from pyvirtio import __version__
from pyvirtio.ring import build_native
from tests.support.archives import extract
from tests.support.checkout import ROOT, copy_checkout

pytestmark = pytest.mark.long  # both are built

_FOR_OTHERS = (".html", ".css", ".js", ".lua")
GUEST_FILES = {f"pyvirtio/guest/{name}" for name in ("init", "factorial", "linux/Kbuild", "linux/virtio_test.c")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both from a copy of the files that git knows, with the setuptools at hand, and return their folder."""
    folder = tmp_path_factory.mktemp("packaging")
    source, target = copy_checkout(folder / "source"), folder / "built"
    run_setuptools("build_sdist", source, target, PATH="/nonexistent")
    run_setuptools("build_wheel", source, target, PATH="/nonexistent")  # without a compiler
    return target


def run_setuptools(step: str, source: Path, target: Path, **environment: str) -> None:
    program = f"import sys; from setuptools import build_meta; build_meta.{step}(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", program, target],
        cwd=source,
        env={"HOME": str(source)} | environment,
        capture_output=True,
        check=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def wheel(built: Path) -> set[str]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist(built: Path) -> set[str]:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def test_the_wheel_has_what_a_guest_and_a_type_checker_need(wheel: set[str]):
    assert wheel >= GUEST_FILES | {"pyvirtio/py.typed"}


def test_the_wheel_has_what_pages_and_dissectors_are_made_of(wheel: set[str]):
    trace = ROOT / "src" / "pyvirtio" / "trace"
    files = {f"pyvirtio/trace/{path.relative_to(trace)}" for path in trace.rglob("*") if path.suffix in _FOR_OTHERS}
    assert len(files) == 11
    assert files <= wheel


def test_both_have_the_sources_of_the_native_engine(wheel: set[str], sdist: set[str]):
    ring = ROOT / "src" / "pyvirtio" / "ring"
    sources = {f"pyvirtio/ring/{path.relative_to(ring)}" for path in [ring / "_native.c", *ring.glob("native/**/*.*")]}
    assert len(sources) > 1
    assert sources <= wheel
    assert {f"src/{name}" for name in sources} <= sdist


def test_the_wheel_has_the_manual_pages_and_the_sdist_what_makes_them(wheel: set[str], sdist: set[str]):
    pages = {f"{'-'.join(['pyvirtio', *words])}.1" for words in ([], ["serve"], ["vm", "run"], ["block", "read"])}
    assert pages <= {name.rpartition(".data/data/share/man/man1/")[2] for name in wheel}
    assert "tools/generate-man" in sdist


def test_the_wheel_is_lean(built: Path, wheel: set[str]):
    """What is there for its own tests, its documentation and its builds stays in the sdist."""
    assert {name.partition("/")[0].rpartition(".")[2] for name in wheel} == {"pyvirtio", "data", "dist-info"}
    kinds = {Path(name).suffix for name in wheel if name.startswith("pyvirtio/") and "/guest/" not in name}
    assert kinds.isdisjoint({".pyc", ".so", ".o", ".md", ".svg", ".lock", ".toml"})
    assert not [name for name in wheel if Path(name).name.startswith(("test_", "conftest")) and name.endswith(".py")]
    assert next(built.glob("*.whl")).stat().st_size < 1_000_000


def test_both_have_the_templates_of_projects(wheel: set[str], sdist: set[str]):
    source = ROOT / "src"
    templates = {
        str(path.relative_to(source)) for path in source.glob("pyvirtio/scaffold/templates/**/*") if path.is_file()
    }
    assert len(templates) > 40
    assert templates <= wheel
    assert {f"src/{name}" for name in templates} <= sdist


def test_neither_has_benchmarks(wheel: set[str], sdist: set[str]):
    assert [name for name in wheel | sdist if "bench/" in name or name.startswith("benchmarks/")] == []
    linked = {Path(name).name for name in wheel if name.endswith(".c")}
    assert linked == {"_native.c", "virtio_test.c"}


def test_the_wheel_is_mit_but_for_the_kernel_driver(built: Path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "MIT AND GPL-2.0-only"
    assert metadata.get_all("License-File") == ["LICENSE", "LICENSES/GPL-2.0-only.txt"]


def test_the_sdist_has_its_tests_and_documentation(sdist: set[str]):
    assert sdist >= {"tests/conftest.py", "tests/support/leaks.py", "docs/design.md", "CHANGELOG.md", "Makefile"}


def test_without_a_compiler_the_wheel_is_for_every_machine(built: Path, wheel: set[str]):
    assert next(built.glob("*.whl")).name.endswith("-py3-none-any.whl")
    assert [name for name in wheel if name.endswith(".so")] == []


def from_source(built: Path, folder: Path, **environment: str) -> zipfile.ZipFile:
    """Build a wheel from the sdist, where a compiler can be found, and return its archive."""
    if not build_native.compiler():
        pytest.skip("there is no C compiler, or no Python.h")
    source = extract(next(built.glob("*.tar.gz")), folder / "source")
    run_setuptools("build_wheel", source, folder, PATH=os.environ["PATH"], **environment)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.long
def test_with_a_compiler_an_install_from_source_has_the_library_that_a_checkout_builds(built: Path, tmp_path: Path):
    with from_source(built, tmp_path) as archive:
        library = archive.read("pyvirtio/ring/_native.abi3.so")
        assert f"pyvirtio-{__version__}.data/data/share/man/man1/pyvirtio.1" in archive.namelist()
    assert build_native.digest().encode() in library
    assert "-cp311-abi3-linux_" in next(tmp_path.glob("*.whl")).name


@pytest.mark.long
def test_a_library_that_does_not_compile_is_left_out(built: Path, tmp_path: Path):
    with from_source(built, tmp_path, CFLAGS="-no-such-option") as archive:
        names = archive.namelist()
    assert "pyvirtio/ring/_native.c" in names
    assert [name for name in names if name.endswith(".so")] == []
