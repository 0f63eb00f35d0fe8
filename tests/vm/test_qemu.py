"""A QEMU is chosen by what it can do, and asked the one question that is safe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.vm.machine import find_machine
from pyvirtio.vm.qemu import Qemu, find_qemu, write_starters

from .conftest import SUITABLE, UNSUITABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MACHINE = find_machine("x86_64")


@pytest.fixture
def nothing_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")
    (tmp_path / "bin").mkdir()


def provision_folder(tmp_path: Path, probe: str) -> Path:
    """Make what unpacked packages of QEMU look like, with a C library that does `probe` for the emulator."""
    root = tmp_path / "provisioned"
    for folder in ("usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/x86_64-linux-gnu/libc.so.6").touch()
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    loader.write_text(f"#!/bin/sh\n{probe}\n")
    loader.chmod(0o755)
    (root / "usr/bin/qemu-system-x86_64").touch()
    write_starters(root)
    return root


def test_the_one_that_the_user_names_is_taken(fake_qemu: Callable[..., Path]) -> None:
    path = fake_qemu(name="mine")
    assert find_qemu(MACHINE, str(path)).prefix == (str(path),)


def test_the_one_that_the_user_names_must_have_the_device(fake_qemu: Callable[..., Path]) -> None:
    path = fake_qemu(probe=UNSUITABLE, version="7.2.22")
    with pytest.raises(ProvisionError, match=r"\(version 7\.2\.22\) has no vhost-user-test-device-pci; QEMU 10\.2"):
        find_qemu(MACHINE, str(path), lambda: pytest.fail("the user's word is final"))


def test_one_that_does_not_run_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="does not run"):
        find_qemu(MACHINE, str(tmp_path / "missing"))


@pytest.mark.usefixtures("nothing_on_path")
def test_the_path_comes_before_the_cache(fake_qemu: Callable[..., Path]) -> None:
    path = fake_qemu(name=MACHINE.emulator)
    assert find_qemu(MACHINE, "", lambda: pytest.fail("not needed")).prefix == (str(path),)


@pytest.mark.usefixtures("nothing_on_path")
def test_one_is_provisioned_when_that_on_the_path_is_too_old(fake_qemu: Callable[..., Path], tmp_path: Path) -> None:
    fake_qemu(name=MACHINE.emulator, probe=UNSUITABLE, version="7.2.22")
    root = provision_folder(tmp_path, SUITABLE)
    assert find_qemu(MACHINE, "", lambda: root).prefix == (f"{root}/bin/qemu-system-x86_64",)


def test_a_provisioned_qemu_runs_by_hand_with_its_own_libraries(tmp_path: Path) -> None:
    root = provision_folder(tmp_path, 'echo "$QEMU_MODULE_DIR" "$@"')
    (tmp_path / "link").symlink_to(root / "bin/qemu-system-x86_64")
    for command in (root / "bin/qemu-system-x86_64", tmp_path / "link"):
        modules, option, libraries, emulator, *rest = Qemu((str(command),)).ask("-M", "a b").split(" ")
        assert (option, libraries) == ("--library-path", f"{root}/usr/lib/x86_64-linux-gnu")
        assert modules == f"{libraries}/qemu"
        assert emulator == f"{root}/usr/bin/qemu-system-x86_64"
        assert rest[-3:] == ["-M", "a", "b\n"]


@pytest.mark.usefixtures("nothing_on_path")
def test_without_any_the_user_is_told_what_to_do(fake_qemu: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match=r"no qemu-system-x86_64 on the PATH. Run `pyvirtio doctor --fix`, or"):
        find_qemu(MACHINE)
    with pytest.raises(ProvisionError, match=r"the provisioned qemu-system-x86_64 .* give --qemu PATH"):
        find_qemu(MACHINE, "", lambda: provision_folder(tmp_path, "exit 0"))


def test_an_exit_status_proves_nothing(fake_qemu: Callable[..., Path]) -> None:
    # QEMU answers `-device unknown,help` with status 0.
    assert not Qemu((str(fake_qemu(probe=UNSUITABLE)),)).has_device("x")
    assert Qemu((str(fake_qemu()),)).has_device("x")
    assert Qemu((str(fake_qemu(version="10.2.0~rc1")),)).version() == "10.2.0"


def test_a_damaged_provision_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="remove that folder"):
        write_starters(tmp_path)


def test_another_binary_in_the_same_place_is_another_qemu(fake_qemu: Callable[..., Path]) -> None:
    qemu = Qemu((str(fake_qemu()),))
    before = qemu.identity()
    assert qemu.identity() == before
    fake_qemu(version="12.0.0-rc1")
    assert qemu.identity() != before
