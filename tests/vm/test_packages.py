"""The private apt: its settings, what it does when a download fails, and that nothing half-done stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio.vm.cache import Cache
from pyvirtio.vm.kernel import Kernel
from pyvirtio.vm.machine import find_machine
from pyvirtio.vm.module import module_key, tool_environment
from pyvirtio.vm.packages import Registry, Suites
from pyvirtio.vm.provision import Provision
from pyvirtio.vm.qemu import find_qemu

BOOKWORM = Suites("bookworm")

APT_GET = """#!/bin/sh
echo "$@" >>{log}
for word in "$@"; do case $word in
APT::Status-Fd=*) echo dlstatus:1:50.0:Retrieving >/proc/self/fd/${{word#*=}} ;;
esac; done
case "$*" in
*update*) {update} ;;
*download*) {download} ;;
esac
"""
DPKG_DEB = """#!/bin/sh
mkdir -p "$3/usr" && touch "$3/usr/$(basename "$2")"
"""
APT_CACHE = """#!/bin/sh
printf 'Package: x\\nDepends: linux-image-6.1-cloud (= 1), kmod | other, linux-base\\n'
"""


class FakeMachine:
    """A Debian whose apt is a script."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.log = root / "log"
        (root / "etc").mkdir()
        (root / "bin").mkdir()
        (root / "etc/sources.list").write_text(
            "deb [signed-by=/own.gpg] http://mirror.example/debian bookworm main\n"
            "deb http://mirror.example/security bookworm-security main\n"
        )
        (root / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
        monkeypatch.setenv("PATH", f"{root}/bin:/usr/bin:/bin")
        self.script("dpkg-deb", DPKG_DEB)
        self.script("apt-cache", APT_CACHE)
        self.apt()

    def apt(self, *, update: str = "exit 0", download: str = "touch one_1.deb two_2.deb") -> None:
        self.script("apt-get", APT_GET.format(log=self.log, update=update, download=download))

    def script(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def registry(self) -> Registry:
        return Registry(Cache(self.root / "cache"), etc=self.root / "etc", os_release=self.root / "os-release")

    def calls(self, word: str) -> int:
        return sum(word in line.split() for line in self.log.read_text().splitlines())


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
        ("exit 0", "kill -KILL $$", "it gave no reason"),
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
    with pytest.raises(ProvisionError, match="apt-get is not there"):
        machine.registry().check()


def test_another_architecture(machine: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ProvisionError, match="nothing can be provisioned on riscv64"):
        machine.registry().unpack(BOOKWORM, ["one"], tmp_path / "out")


def test_an_unknown_kernel_version(machine: FakeMachine) -> None:
    with pytest.raises(LocalError, match=r"no recipe for kernel 2\.6; there are 6\.1"):
        Provision(machine.registry()).kernel("x86_64", "2.6")


def test_a_provision_without_qemu_is_an_error(machine: FakeMachine) -> None:
    with pytest.raises(ProvisionError, match="no dynamic loader"):
        find_qemu(find_machine("x86_64"), "", Provision(machine.registry()).qemu)


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


def test_a_build_does_not_inherit_what_make_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-n")
    monkeypatch.setenv("MAKELEVEL", "1")
    environment = tool_environment(Path("/tools"))
    assert not [name for name in environment if name.startswith("MAKE")]
    assert environment["PATH"].startswith("/tools/usr/bin:")
