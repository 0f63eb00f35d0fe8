"""The C programs are built from what is there, and what is missing is said."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from pyvirtio.bench import suite
from pyvirtio.bench.programs import BACK_END, FRONT_END, Programs, compile_c, compiler, place, unpack
from pyvirtio.bench.python_frontend import PythonFrontend
from pyvirtio.bench.runs import Pace
from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache
from pyvirtio.vm.launch import GuestBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio.bench.load import CFrontend


def test_no_warnings(programs: Programs, tmp_path: Path):
    strict = ["-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion"]
    compile_c(FRONT_END, tmp_path / "frontend.o", "-std=gnu11", *strict, "-c")


def test_no_warnings_in_the_peer(programs: Programs, peer_program: Path, tmp_path: Path):
    library = programs.library()
    include = ["-isystem", str(library), "-isystem", str(library / "include")]
    compile_c(BACK_END, tmp_path / "backend.o", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wshadow", *include, "-c")


def test_what_does_not_compile_is_told(programs: Programs, tmp_path: Path):
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
    assert place("qemu/subprojects/libvhost-user/../../../etc/passwd") == ""


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(ProvisionError, match="install gcc"):
        compiler()


def test_without_a_compiler_python_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CC", "no-such-compiler")
    outcome, bench = suite.prepare(suite.Wanted(), GuestBuilder(Cache(tmp_path)))
    assert isinstance(bench.frontend, PythonFrontend)
    assert bench.peer is None
    assert ["front-end in C" in text or "C peer" in text for text in outcome.missing] == [True, True]
    assert all("install gcc" in text for text in outcome.missing)


def test_without_the_library_there_are_no_ratios(
    monkeypatch: pytest.MonkeyPatch, programs: Programs, frontend: CFrontend, tmp_path: Path
):
    def none(_self: Programs) -> Path:
        raise ProvisionError("no sources today")

    monkeypatch.setattr(Programs, "backend", none)
    wanted = suite.Wanted(names=("requests",), pace=Pace(0.01, 1))
    outcome = suite.run(wanted, GuestBuilder(programs.cache))
    assert "no sources today" in outcome.missing[0]
    assert [table.name for table in outcome.tables] == ["settings", "requests-absolute", "rounds-absolute"]


def test_the_compiler_has_a_version(programs: Programs):
    done = subprocess.run([*compiler(), "-dumpversion"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
