"""The doctor looks without writing, and says what fixes what is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache
from pyvirtio.vm import doctor
from pyvirtio.vm.doctor import MISSING, OK, OPTIONAL, examine, fix
from pyvirtio.vm.launch import GuestBuilder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    results = {result.name: result for result in examine(GuestBuilder(Cache(tmp_path / "cache")))}
    assert results["QEMU for x86_64"].state == MISSING
    assert results["QEMU for x86_64"].found == "no qemu-system-x86_64 on the PATH"
    assert results["QEMU for x86_64"].remedy == "pyvirtio doctor --fix"
    assert results["kernel for aarch64"].state == MISSING
    assert results["package registry"].state == MISSING
    assert results["KVM"].state == OPTIONAL
    assert not (tmp_path / "cache").exists(), "looking writes nothing"
    assert json.dumps([result.as_dict() for result in results.values()])


def test_a_qemu_on_the_path_is_found(
    fake_qemu: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake_qemu(name="qemu-system-aarch64")
    monkeypatch.setenv("PATH", str(path.parent))
    results = {result.name: result for result in examine(GuestBuilder(Cache(tmp_path / "cache")))}
    assert (results["QEMU for aarch64"].state, results["QEMU for aarch64"].remedy) == (OK, "")
    assert results["QEMU for aarch64"].found == f"version 11.1.3, {path}"


def test_a_full_disk_and_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_SPACE", 2**80)
    results = {result.name: result for result in examine(GuestBuilder(Cache(tmp_path / "cache")))}
    assert results["cache folder"].state == MISSING
    assert "XDG_CACHE_HOME" in results["cache folder"].remedy


def test_system_packages_are_installed_by_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ProvisionError, match="run as root: apt-get install"):
        fix(GuestBuilder(Cache(tmp_path / "cache")))


def test_nothing_is_advised_that_no_index_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    remedies = [result.remedy for result in examine(GuestBuilder(Cache(tmp_path))) if "pip" in result.remedy]
    assert remedies == ["pip install rich"]
