"""What a guest is made of comes from the machine's registry, and what is built is named by its sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio.provision.cache import Cache
from pyvirtio.vm.guest_packages import GuestPackages
from pyvirtio.vm.kernel import Kernel
from pyvirtio.vm.machine import find_machine
from pyvirtio.vm.module_build import build_module, module_key, tool_environment
from pyvirtio.vm.qemu import find_qemu
from tests.support.debian import FakeMachine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    return FakeMachine(tmp_path, monkeypatch)


def test_an_unknown_kernel_version(machine: FakeMachine) -> None:
    with pytest.raises(LocalError, match=r"2\.6.*6\.1"):
        GuestPackages(machine.registry()).kernel("x86_64", "2.6", "cloud")
    with pytest.raises(LocalError, match=r"'tiny'.*cloud, full"):
        GuestPackages(machine.registry()).kernel("x86_64", "6.1", "tiny")


def test_a_provision_without_qemu_is_an_error(machine: FakeMachine) -> None:
    with pytest.raises(ProvisionError, match="remove that folder"):
        find_qemu(find_machine("x86_64"), "", GuestPackages(machine.registry()).qemu)


def test_a_module_is_named_by_what_it_is_made_of(tmp_path: Path) -> None:
    sources, headers = tmp_path / "sources", tmp_path / "headers"
    sources.mkdir()
    headers.mkdir()
    (sources / "driver.c").write_text("one")
    (sources / "Kbuild").write_text("obj-m := driver.o")
    kernel = Kernel(tmp_path / "vmlinuz", "6.1", headers=headers)
    first = module_key(kernel, sources)
    (sources / "driver.o").write_text("left by an earlier build")
    (sources / "driver.mod.c").write_text("so is this")
    assert module_key(kernel, sources) == first
    (headers / "Module.symvers").write_text("symbols")
    second = module_key(kernel, sources)
    (sources / "driver.c").write_text("two")
    assert len({first, second, module_key(kernel, sources)}) == 3


def test_a_build_that_fails_for_the_compilers_age_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, sources, headers = tmp_path / "bin/make", tmp_path / "sources", tmp_path / "headers"
    for folder in (make.parent, sources, headers / "include/config"):
        folder.mkdir(parents=True)
    make.write_text("#!/bin/sh\necho 'driver.c:1: error: unknown option' >&2; exit 2\n")
    make.chmod(0o755)
    monkeypatch.setenv("PATH", f"{make.parent}:/usr/bin:/bin")
    kernel = Kernel(tmp_path / "vmlinuz", "7.3", headers=headers)
    for version, said in ((150200, "built with gcc-15 and drivers are built with gcc-14"), (120200, "does not build")):
        (headers / "include/config/auto.conf").write_text(f"CONFIG_X=y\nCONFIG_GCC_VERSION={version}\n")
        with pytest.raises(ProvisionError, match=rf"{said}.*\n  \| driver.c:1: error: unknown option"):
            build_module(Cache(tmp_path / "cache"), kernel, "x86_64", sources, toolchain=lambda _gcc: tmp_path)


def test_a_build_does_not_inherit_what_make_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-n")
    monkeypatch.setenv("MAKELEVEL", "1")
    environment = tool_environment(Path("/tools"))
    assert not [name for name in environment if name.startswith("MAKE")]
    assert environment["PATH"].startswith("/tools/usr/bin:")
