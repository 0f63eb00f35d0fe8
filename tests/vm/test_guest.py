"""How guests fail, with stand-ins for QEMU: each failure is an error with diagnostics, and QEMU is gone."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import GuestError, LocalError
from pyvirtio.testing.signals import interruptible
from pyvirtio.vm.machine import MACHINES, Boot, VhostUserDevice, find_machine
from pyvirtio.vm.running import Guest
from pyvirtio.vm.shell import interact
from tests.vm.conftest import LISTEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyvirtio.vm.launch import LaunchConfig

FOREVER = "exec tail -f /dev/null"  # says nothing and never ends


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_commands_give_what_a_process_gives(fake_setup: Callable[[str], LaunchConfig]) -> None:
    shown: list[str] = []
    with Guest(fake_setup(LISTEN), show=shown.append) as guest:
        assert guest.run("echo one; echo two").lines == ["one", "two"]
        mixed = guest.run("printf 'no end of line'; echo wrong >&2; exit 3")
        assert (mixed.returncode, mixed.stdout, mixed.stderr) == (3, "no end of line", "wrong\n")
        assert guest.run("printf 'nor here' >&2").stderr == "nor here"
        assert guest.run(["echo", "a  b", "$HOME"]).stdout == "a  b $HOME\n"
        assert guest.run("seq 3000").lines[-1] == "3000"
        guest.send("echo hello; echo hello")
        guest.wait_for("hello")
        guest.wait_for("hello")
        with pytest.raises(GuestError, match="ended without 'hello'; it printed:\nhello\nhello"):
            guest.wait_for("hello")
        guest.power_off()
        pid = guest.pid
    assert gone(pid)
    assert shown[0] == "booted"


def test_output_comes_as_it_is_written_byte_for_byte(fake_setup: Callable[[str], LaunchConfig]) -> None:
    data = bytes(range(256)) * 40 + b"\0"
    with Guest(fake_setup(LISTEN)) as guest, io.BytesIO() as stream:
        octal = "".join(f"\\{byte:03o}" for byte in range(256))
        result = guest.run(f"for n in $(seq 40); do printf '{octal}'; done; printf '\\0'", stdout=stream)
        assert stream.getvalue() == data
        assert (result.returncode, result.stdout) == (0, "")


def test_a_command_that_the_terminal_cannot_take_is_refused(fake_setup: Callable[[str], LaunchConfig]) -> None:
    with Guest(fake_setup(LISTEN)) as guest:
        with pytest.raises(LocalError, match="at most 4000 bytes"):
            guest.run("x" * 4001)
        with pytest.raises(LocalError, match="no bytes of 0 or 1"):
            guest.run("printf '\1'")
        assert guest.run("echo one\n\necho two").lines == ["one", "two"]


@pytest.mark.parametrize(
    ("run", "diagnostics"),
    [
        (
            "echo 'qemu: cannot connect' >&2; exit 1",
            r"QEMU ended with status 1 while .* boot\n.*\n  \| qemu: cannot conn",
        ),
        (
            "echo booting; kill -ABRT $$",
            r"QEMU was killed by signal 6 while waiting for the guest to boot\n.*\n  \| boot",
        ),
        ("exit 0", "QEMU ended with status 0 while waiting for the guest to boot$"),
        (
            "echo one; echo 'Kernel panic - not syncing: no init'; echo '---[ end ]---'; exit 0",
            r"(?s)the guest's kernel gave up .* boot: Kernel panic - .*: no init\n.*\| one\n.*\| ---\[ end \]---$",
        ),
    ],
)
def test_a_guest_that_dies(fake_setup: Callable[[str], LaunchConfig], run: str, diagnostics: str) -> None:
    with pytest.raises(GuestError, match=diagnostics), Guest(fake_setup(run)):
        pytest.fail("it never was ready")


def test_a_guest_that_never_speaks(fake_setup: Callable[[str], LaunchConfig]) -> None:
    guest = Guest(fake_setup(FOREVER), boot_limit=0.3)
    with (
        pytest.raises(GuestError, match=r"waited 0\.3 s for the guest to boot, and nothing came over the console"),
        guest,
    ):
        pass
    assert gone(guest.pid)


def test_a_guest_that_stops_half_way(fake_setup: Callable[[str], LaunchConfig]) -> None:
    guest = Guest(fake_setup(f"for i in $(seq 100); do echo line $i; done; {FOREVER}"), boot_limit=0.5)
    with (
        pytest.raises(GuestError, match=r"waited 0\.5 s for the guest to boot\n.*last lines:\n  \| line 61\n") as error,
        guest,
    ):
        pass
    assert str(error.value).endswith("| line 100")
    assert gone(guest.pid)


def test_a_panic_that_hangs_is_still_a_panic(
    fake_setup: Callable[[str], LaunchConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvirtio.vm.running.LAST_WORDS", 0.1)
    with pytest.raises(GuestError, match="gave up"), Guest(fake_setup(f"echo 'Kernel panic - x'; {FOREVER}")):
        pass


def test_a_guest_that_dies_while_a_command_runs(fake_setup: Callable[[str], LaunchConfig]) -> None:
    with Guest(fake_setup(LISTEN)) as guest:
        with pytest.raises(GuestError, match=r"QEMU was killed by signal 9 while waiting for the end of `kill"):
            guest.run("kill -KILL $PPID")
        with pytest.raises(GuestError, match="QEMU"):
            guest.run("true")


def test_a_command_that_takes_too_long(fake_setup: Callable[[str], LaunchConfig]) -> None:
    with (
        Guest(fake_setup(LISTEN)) as guest,
        pytest.raises(GuestError, match=r"waited 0\.2 s for the end of `read never"),
    ):
        guest.run("read never </dev/zero", timeout=0.2)


def test_a_guest_that_does_not_switch_off(fake_setup: Callable[[str], LaunchConfig]) -> None:
    with Guest(fake_setup(LISTEN)) as guest, pytest.raises(GuestError, match="to switch itself off"):
        guest.wait_off(0.2)


def test_qemu_that_cannot_be_started(fake_setup: Callable[[str], LaunchConfig]) -> None:
    setup = fake_setup(LISTEN)
    os.unlink(setup.qemu.prefix[0])
    with pytest.raises(GuestError, match=r"QEMU cannot be started: .*No such file"), Guest(setup):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_qemu_goes_however_the_block_is_left(
    fake_setup: Callable[[str], LaunchConfig], error: type[BaseException]
) -> None:
    guest = Guest(fake_setup(LISTEN))
    with pytest.raises(error), guest:
        raise error
    assert gone(guest.pid)


PROGRAM = """
import os, sys
from pathlib import Path
from pyvirtio.testing.signals import interruptible
from pyvirtio.vm.launch import LaunchConfig
from pyvirtio.vm.machine import find_machine
from pyvirtio.vm.qemu import Qemu
from pyvirtio.vm.running import Guest
setup = LaunchConfig(find_machine("x86_64"), Qemu((sys.argv[1],)), Path(os.devnull), Path(os.devnull))
with Guest(setup) as guest:
    print(guest.pid, flush=True)
    guest.run("tail -f /dev/null")
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_qemu_goes_when_we_are_told_to_end(fake_qemu: Callable[..., Path], number: int, status: int) -> None:
    with interruptible():
        started = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, fake_qemu(LISTEN)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    with started as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(20) == status
    assert gone(pid)


def test_sigterm_is_left_to_others_outside_the_main_thread(fake_setup: Callable[[str], LaunchConfig]) -> None:
    lines: list[str] = []

    def work() -> None:
        with Guest(fake_setup(LISTEN)) as guest:
            lines.extend(guest.run("echo from a thread").lines)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert lines == ["from a thread"]


def test_a_shell_needs_a_terminal(fake_setup: Callable[[str], LaunchConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 - closed with the next line's object
    with sys.stdin, pytest.raises(LocalError, match="needs a terminal"):
        interact(fake_setup(LISTEN))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_command_lines(machine: object, tmp_path: Path) -> None:
    assert machine in MACHINES
    device = VhostUserDevice(tmp_path / "a,b", id=45, queues=1, size=128, config_size=16)
    found = [candidate for candidate in MACHINES if candidate is machine]
    line = " ".join(found[0].arguments(Boot(tmp_path / "vmlinuz", "/proc/self/fd/3", devices=[device])))
    assert "virtio-id=45,num_vqs=1,vq_size=128,config_size=16" in line
    assert f"path={tmp_path}/a,,b" in line
    assert "share=on -machine memory-backend=mem" in line
    assert ("virtio-mmio.force-legacy=false" in line) == (found[0].transport == "mmio")


def test_kvm_takes_the_hosts_processor(tmp_path: Path) -> None:
    line = find_machine("x86_64").arguments(Boot(tmp_path, accel="kvm"))
    assert line[line.index("-cpu") + 1] == "host"
    assert "-initrd" not in line
