"""KVM is believed when a guest speaks under it, and never waited for longer than its time limit."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import GuestError, LocalError
from pyvirtio.provision.cache import Cache
from pyvirtio.vm import accel
from pyvirtio.vm.accel import choose_accelerator, kvm_obstacle, try_kvm
from pyvirtio.vm.machine import MACHINES
from pyvirtio.vm.qemu import Qemu

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

NATIVE = [machine for machine in MACHINES if machine.arch == platform.machine()]
FOREIGN = [machine for machine in MACHINES if machine.arch != platform.machine()]
pytestmark = pytest.mark.skipif(not NATIVE, reason="no machine of this architecture")


class Notes:
    """A progress that remembers its notices."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def step(self, title: str) -> AbstractContextManager[Callable[[float], None]]:
        raise AssertionError(title)

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have KVM."""
    monkeypatch.setattr(accel, "kvm_obstacle", lambda machine: "" if machine in NATIVE else "it is foreign")
    monkeypatch.setattr(accel, "_boot_id", lambda: "this boot")


def choose(wanted: str, qemu: Path, root: Path, *, foreign: bool = False) -> tuple[str, list[str]]:
    notes = Notes()
    machine = (FOREIGN if foreign else NATIVE)[0]
    choice = choose_accelerator(wanted, machine, Qemu((str(qemu),)), root / "kernel", cache=Cache(root), progress=notes)
    return choice, notes.notices


@pytest.mark.usefixtures("kvm")
def test_kvm_is_used_where_a_kernel_speaks(fake_qemu: Callable[..., Path], tmp_path: Path) -> None:
    qemu = fake_qemu("echo 'Linux version 6.1'; exec tail -f /dev/null")
    assert choose("auto", qemu, tmp_path) == ("kvm", [])
    assert choose("kvm", qemu, tmp_path) == ("kvm", [])
    assert choose("tcg", qemu, tmp_path) == ("tcg", [])


@pytest.mark.usefixtures("kvm")
@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ("exec tail -f /dev/null", "a guest under KVM hangs on this machine (no line within 0.2 s)"),
        ("echo 'firmware'; exec tail -f /dev/null", "a guest under KVM hangs on this machine (no line within 0.2 s)"),
        ("echo 'no CPU for KVM' >&2; exit 1", "QEMU with KVM ended: no CPU for KVM"),
    ],
)
def test_tcg_is_used_where_kvm_fails(
    fake_qemu: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, reason: str
) -> None:
    monkeypatch.setattr(try_kvm, "__defaults__", (0.2,))
    qemu = fake_qemu(run)
    assert choose("auto", qemu, tmp_path) == ("tcg", [f"emulating the processor (TCG): {reason}"])
    with pytest.raises(GuestError, match="leave --accel out"):
        choose("kvm", qemu, tmp_path)


@pytest.mark.usefixtures("kvm")
def test_the_answer_is_kept_until_the_machine_restarts(
    fake_qemu: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = fake_qemu("exit 1")
    assert choose("auto", qemu, tmp_path)[0] == "tcg"
    monkeypatch.setattr(accel, "try_kvm", lambda *_: pytest.fail("asked again"))
    assert choose("auto", qemu, tmp_path)[0] == "tcg"
    monkeypatch.setattr(accel, "_boot_id", lambda: "the next boot")
    monkeypatch.setattr(accel, "try_kvm", lambda *_: "")
    assert choose("auto", qemu, tmp_path)[0] == "kvm"


@pytest.mark.usefixtures("kvm")
def test_a_damaged_note_is_replaced(fake_qemu: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / f"notes/kvm-{NATIVE[0].arch}").write_text("[1, 2")
    assert choose("auto", fake_qemu("exit 1"), tmp_path)[0] == "tcg"


@pytest.mark.usefixtures("kvm")
def test_a_foreign_guest_is_emulated_silently(fake_qemu: Callable[..., Path], tmp_path: Path) -> None:
    assert choose("auto", fake_qemu(), tmp_path, foreign=True) == ("tcg", [])


def test_an_unknown_accelerator(fake_qemu: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="auto, kvm, tcg"):
        choose("xen", fake_qemu(), tmp_path)


def test_obstacles_that_need_no_try(tmp_path: Path) -> None:
    assert FOREIGN[0].arch in kvm_obstacle(FOREIGN[0])
    assert "there is no" in kvm_obstacle(NATIVE[0], tmp_path / "kvm")
    (tmp_path / "kvm").touch()
    assert kvm_obstacle(NATIVE[0], tmp_path / "kvm") == ""


def test_qemu_that_cannot_be_started_is_an_obstacle(tmp_path: Path) -> None:
    assert "cannot be started" in try_kvm(NATIVE[0], Qemu((str(tmp_path / "missing"),)), tmp_path)
