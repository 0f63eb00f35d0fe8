"""The private apt: its settings, what it does when a download fails, and that nothing half-done stays."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.packages import Suites
from tests.support.debian import FakeMachine

if TYPE_CHECKING:
    from pathlib import Path

BOOKWORM = Suites("bookworm")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    return FakeMachine(tmp_path, monkeypatch)


def test_packages_are_unpacked_and_listed(machine: FakeMachine, tmp_path: Path) -> None:
    names = machine.registry().unpack(BOOKWORM, ["one", "two"], tmp_path / "out", unwanted=lambda name: name == "two")
    assert names == ["one_1.deb"]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == ["PACKAGES", "one_1.deb"]


def test_the_lists_are_fetched_once(machine: FakeMachine, tmp_path: Path) -> None:
    for name in ("a", "b"):
        machine.registry().unpack(BOOKWORM, ["one"], tmp_path / name)
    assert machine.calls("update") == 1


def test_a_failed_download_is_tried_again_with_fresh_lists(machine: FakeMachine, tmp_path: Path) -> None:
    once = f"[ -e {tmp_path}/tried ] || {{ touch {tmp_path}/tried; echo 'E: 404' >&2; exit 100; }}"
    machine.apt(download=f"touch one_1.deb; {once}")
    assert machine.registry().unpack(BOOKWORM, ["one"], tmp_path / "out") == ["one_1.deb"]
    assert machine.calls("update") == 2


@pytest.mark.parametrize(
    ("update", "download", "text"),
    [
        (
            "echo 'E: no network' >&2; exit 100",
            "exit 0",
            "update failed: E: no network\nCheck that `apt-get update` works",
        ),
        ("exit 0", "echo 'E: Unable to locate package one' >&2; exit 100", "Unable to locate package one"),
        ("exit 0", "echo half >one_1.deb; echo 'E: No space left on device' >&2; exit 100", "no room left on the disk"),
        ("exit 0", "kill -KILL $$", "no reason was printed"),
    ],
)
def test_failures_tell_what_to_do_and_leave_nothing(
    machine: FakeMachine, update: str, download: str, text: str
) -> None:
    machine.apt(update=update, download=download)
    registry = machine.registry()

    def make(folder: Path) -> None:
        registry.unpack(BOOKWORM, ["one"], folder)

    with pytest.raises(ProvisionError) as error:
        registry.cache.entry("kind", "key", make)
    assert text in str(error.value)
    assert not registry.cache.has("kind", "key")
    assert not list((registry.cache.root / "partial").glob("*"))


def test_a_broken_package_is_an_error(machine: FakeMachine, tmp_path: Path) -> None:
    machine.script("dpkg-deb", "#!/bin/sh\necho 'dpkg-deb: error: not a Debian archive' >&2; exit 2\n")
    with pytest.raises(ProvisionError, match="not a Debian archive"):
        machine.registry().unpack(BOOKWORM, ["one"], tmp_path / "out")


def test_settings_are_private(machine: FakeMachine, tmp_path: Path) -> None:
    machine.registry().unpack(Suites("trixie", backports=True), ["one:arm64"], tmp_path / "out")
    [settings] = (tmp_path / "cache/apt").glob("trixie-backports-*/apt.conf")
    text = settings.read_text()
    assert f'Dir::State "{settings.parent}/state"' in text
    assert '"arm64";' in text
    stanzas = (settings.parent / "sources/debian.sources").read_text()
    assert "URIs: http://mirror.example/debian\nSuites: trixie trixie-updates trixie-backports\n" in stanzas
    assert "URIs: http://mirror.example/security\nSuites: trixie-security\n" in stanzas
    assert "/own.gpg" in stanzas


def test_dependencies_of_a_package(machine: FakeMachine) -> None:
    assert machine.registry().depends(BOOKWORM, "x") == ["linux-image-6.1-cloud", "kmod", "linux-base"]


def test_without_apt(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ProvisionError, match="apt-get"):
        machine.registry().check()


def test_another_architecture(machine: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ProvisionError, match="nothing can be provisioned on riscv64"):
        machine.registry().unpack(BOOKWORM, ["one"], tmp_path / "out")
