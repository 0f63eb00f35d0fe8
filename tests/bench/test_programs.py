"""The C programs are built from what is there, and what is missing is reported."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio_bench.programs import BACKEND, FRONTEND, Programs, compile_c, compiler, destination, unpack

if TYPE_CHECKING:
    from pathlib import Path


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


def test_the_compiler_has_a_version(programs: Programs):
    done = subprocess.run([*compiler(), "-dumpversion"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
