"""Programs that were unpacked run through the loader that lies beside them, wherever their folder is moved."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.own_libraries import use_own_libraries

LOADER = """#!/bin/sh
echo "loader $1 ${2##*/packages/} $3 ${4##*/} ${5##*/packages/}"
shift 5
echo "$@"
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder of packages whose loader says what it is to start."""
    root = tmp_path / "packages"
    for folder in ("usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/bin", "usr/libexec/gcc/14"):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/x86_64-linux-gnu/libc.so.6").touch()
    (root / "usr/lib/aarch64-linux-gnu").mkdir()  # of a cross compiler, without a C library for this machine
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    loader.write_text(LOADER)
    for name in ("usr/bin/tool", "usr/libexec/gcc/14/cc1", "usr/libexec/gcc/14/plugin.so"):
        (root / name).write_bytes(b"\x7fELF and the rest")
        (root / name).chmod(0o755)
    (root / "usr/bin/script").write_text("#!/bin/sh\n")
    for path in (loader, root / "usr/bin/script"):
        path.chmod(0o755)
    (root / "usr/bin/link").symlink_to("tool")
    return root


def test_each_program_is_started_through_its_loader(packages: Path, tmp_path: Path) -> None:
    use_own_libraries(packages, ["usr/bin", "usr/libexec"])
    moved = shutil.move(packages, tmp_path / "else/packages")
    for name, real in (
        ("bin/tool", "bin/tool"),
        ("bin/link", "bin/tool"),
        ("libexec/gcc/14/cc1", "libexec/gcc/14/cc1"),
    ):
        program = Path(moved, "usr", name)
        done = subprocess.run([program, "a b", "c"], capture_output=True, text=True, check=True)
        first, second = done.stdout.splitlines()
        _, option, libraries, argv0, called, started = first.split()
        assert option == "--library-path"
        assert libraries.endswith("usr/lib/x86_64-linux-gnu")
        assert (argv0, called) == ("--argv0", program.name), "a program finds its parts by its own name"
        assert started.endswith(f"{Path(real).name}.elf")
        assert second == "a b c"
    assert Path(moved, "usr/bin/script").read_text() == "#!/bin/sh\n"
    assert Path(moved, "usr/libexec/gcc/14/plugin.so").read_bytes().startswith(b"\x7fELF")


def test_packages_without_a_loader_are_incomplete(packages: Path) -> None:
    (packages / "usr/lib64/ld-linux-x86-64.so.2").unlink()
    with pytest.raises(ProvisionError, match="remove that folder"):
        use_own_libraries(packages, ["usr/bin"])
