"""The doctor looks without writing, and says what mends what is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache
from pyvirtio.vm import doctor
from pyvirtio.vm.doctor import MISSING, OK, OPTIONAL, examine, mend
from pyvirtio.vm.launch import GuestBuilder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = {finding.name: finding for finding in examine(GuestBuilder(Cache(tmp_path / "cache")))}
    assert findings["QEMU for x86_64"].state == MISSING
    assert findings["QEMU for x86_64"].found == "no qemu-system-x86_64 on the PATH"
    assert findings["QEMU for x86_64"].remedy == "pyvirtio doctor --fix"
    assert findings["kernel for aarch64"].state == MISSING
    assert findings["package registry"].state == MISSING
    assert findings["KVM"].state == OPTIONAL
    assert not (tmp_path / "cache").exists(), "looking writes nothing"
    assert json.dumps([finding.as_dict() for finding in findings.values()])


def test_a_qemu_on_the_path_is_found(
    fake_qemu: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake_qemu(name="qemu-system-aarch64")
    monkeypatch.setenv("PATH", str(path.parent))
    findings = {finding.name: finding for finding in examine(GuestBuilder(Cache(tmp_path / "cache")))}
    assert (findings["QEMU for aarch64"].state, findings["QEMU for aarch64"].remedy) == (OK, "")
    assert findings["QEMU for aarch64"].found == f"version 11.1.3, {path}"


def test_a_full_disk_and_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_SPACE", 2**80)
    findings = {finding.name: finding for finding in examine(GuestBuilder(Cache(tmp_path / "cache")))}
    assert findings["cache folder"].state == MISSING
    assert "XDG_CACHE_HOME" in findings["cache folder"].remedy


def test_system_packages_are_installed_by_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ProvisionError, match="run as root: apt-get install"):
        mend(GuestBuilder(Cache(tmp_path / "cache")))
