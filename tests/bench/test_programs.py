"""The C programs are built from what is there, and what is missing is reported."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.vm.launch import GuestBuilder
from pyvirtio_bench import suite
from pyvirtio_bench.programs import BACKEND, FRONTEND, Programs, compile_c, compiler, destination, unpack
from pyvirtio_bench.provision import cache
from pyvirtio_bench.python_frontend import PythonFrontend
from pyvirtio_bench.runs import Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio_bench.workload import CFrontend


def test_no_warnings(programs: Programs, tmp_path: Path):
    strict = ["-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion"]
    compile_c(FRONTEND, tmp_path / "frontend.o", "-std=gnu11", *strict, "-c")


def test_no_warnings_in_the_peer(programs: Programs, peer_program: Path, tmp_path: Path):
    library = programs.library()
    include = ["-isystem", str(library), "-isystem", str(library / "include")]
    compile_c(BACKEND, tmp_path / "backend.o", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wshadow", *include, "-c")


def test_what_does_not_compile_is_reported(programs: Programs, tmp_path: Path):
    source = tmp_path / "wrong.c"
    source.write_text("int main(void) { return nothing; }\n")
    with pytest.raises(ProvisionError, match=r"(?s)wrong\.c cannot be compiled:.*nothing"):
        compile_c(source, tmp_path / "wrong")


def archive(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name in names:
            member = tarfile.TarInfo(f"qemu-9.9/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return path


def test_the_library_is_taken_out_of_qemus_sources(tmp_path: Path):
    names = [
        "subprojects/libvhost-user/libvhost-user.c",
        "include/qemu/atomic.h",
        "include/qemu/osdep.h",
        "include/standard-headers/linux/virtio_ring.h",
    ]
    unpack(archive(tmp_path / "qemu.tar.xz", names), tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"libvhost-user.c", "include/atomic.h", "standard-headers/linux/virtio_ring.h"}


def test_sources_without_the_library_are_refused(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ProvisionError, match=r"qemu\.tar\.xz has no libvhost-user\.c"):
        unpack(archive(tmp_path / "qemu.tar.xz", ["README"]), tmp_path / "out")


def test_nothing_is_unpacked_elsewhere():
    assert destination("qemu/subprojects/libvhost-user/../../../etc/passwd") == ""


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(ProvisionError, match="install gcc"):
        compiler()


def test_without_a_compiler_python_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CC", "no-such-compiler")
    report, bench = suite.prepare(suite.Options(), GuestBuilder(cache.Cache(tmp_path)))
    assert isinstance(bench.frontend, PythonFrontend)
    assert bench.peer is None
    assert ["front-end in C" in text or "C peer" in text for text in report.missing] == [True, True]
    assert all("install gcc" in text for text in report.missing)


def test_without_the_library_there_are_no_ratios(
    monkeypatch: pytest.MonkeyPatch, programs: Programs, frontend: CFrontend, tmp_path: Path
):
    def none(_self: Programs) -> Path:
        raise ProvisionError("no sources today")

    monkeypatch.setattr(Programs, "backend", none)
    options = suite.Options(names=("requests",), schedule=Schedule(0.01, 1))
    report = suite.run(options, GuestBuilder(programs.cache))
    assert "no sources today" in report.missing[0]
    assert [table.name for table in report.tables] == ["settings", "requests-absolute", "rounds-absolute"]


def test_the_compiler_has_a_version(programs: Programs):
    done = subprocess.run([*compiler(), "-dumpversion"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
