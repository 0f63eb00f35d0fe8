"""How guests fail, with stand-ins for QEMU: each failure is an error with diagnostics, and QEMU is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import GuestError, LocalError
from pyvirtio.testing.signals import interruptible
from pyvirtio.vm.guest import Guest, LaunchConfig
from pyvirtio.vm.launch import run_once
from pyvirtio.vm.machine import MACHINES, Boot, VhostUserDevice, find_machine
from pyvirtio.vm.shell import interact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOREVER = "exec tail -f /dev/null"  # says nothing and never ends
LISTEN = """
echo "pyvirtio-guest: ready"
echo "pyvirtio-guest: listening"
while read -r command; do
    case $command in
    poweroff*) exit 0 ;;
    esac
    sh -c "$command"
    echo "pyvirtio-guest: exit $?"
done
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_commands_give_status_and_lines(fake_setup: Callable[[str], LaunchConfig]) -> None:
    shown: list[str] = []
    with Guest(fake_setup(LISTEN), show=shown.append) as guest:
        assert guest.run("echo one; echo two").lines == ["one", "two"]
        assert guest.run("printf 'no end of line'; exit 3").output == "no end of line\n"
        assert guest.run("exit 7").status == 7
        assert guest.run("seq 3000").lines[-1] == "3000"
        guest.send("echo hello")
        assert guest.wait_for("hello") == ["hello"]
        assert guest.result().status == 0
        guest.power_off()
        pid = guest.pid
    assert gone(pid)
    assert shown[0] == "pyvirtio-guest: ready"


def test_a_command_that_the_terminal_cannot_take_is_refused(fake_setup: Callable[[str], LaunchConfig]) -> None:
    with Guest(fake_setup(LISTEN)) as guest:
        for command in ("x" * 4000, "one\ntwo"):
            with pytest.raises(LocalError, match="at most 4000 bytes"):
                guest.run(command)


def test_run_once_runs_what_the_initramfs_holds(fake_setup: Callable[[str], LaunchConfig]) -> None:
    # The stand-in prints the overlay that it was given, which ends the archive.
    run = """
    for word in "$@"; do case $word in /proc/self/fd/*) initrd=$word ;; esac; done
    echo "pyvirtio-guest: ready"
    tr -c '[:print:]' '\\n' <$initrd | grep factorial
    echo "pyvirtio-guest: exit 0"
    """
    assert run_once(fake_setup(run), ["factorial", "5", "a b"]).lines == ["factorial 5 'a b'"]


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
    monkeypatch.setattr("pyvirtio.vm.guest.LAST_WORDS", 0.1)
    with pytest.raises(GuestError, match="gave up"), Guest(fake_setup(f"echo 'Kernel panic - x'; {FOREVER}")):
        pass


def test_a_guest_that_dies_while_a_command_runs(fake_setup: Callable[[str], LaunchConfig]) -> None:
    with Guest(fake_setup(LISTEN)) as guest:
        with pytest.raises(GuestError, match=r"QEMU was killed by signal 9 while waiting for a command"):
            guest.run("kill -KILL $PPID")
        with pytest.raises(GuestError, match="QEMU"):
            guest.run("true")


def test_a_command_that_takes_too_long(fake_setup: Callable[[str], LaunchConfig]) -> None:
    with (
        Guest(fake_setup(LISTEN)) as guest,
        pytest.raises(GuestError, match=r"waited 0\.2 s for a command in the guest"),
    ):
        guest.run("read never </dev/zero", timeout=0.2)


def test_a_guest_that_does_not_switch_off(fake_setup: Callable[[str], LaunchConfig]) -> None:
    ready = f"echo 'pyvirtio-guest: ready'; {FOREVER}"
    with Guest(fake_setup(ready)) as guest, pytest.raises(GuestError, match="to switch itself off"):
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
from pyvirtio.vm.guest import Guest, LaunchConfig
from pyvirtio.vm.machine import find_machine
from pyvirtio.vm.qemu import Qemu
setup = LaunchConfig(find_machine("x86_64"), Qemu((sys.argv[1],)), Path(os.devnull), Path(os.devnull))
with Guest(setup) as guest:
    print(guest.pid, flush=True)
    guest.wait_for("never")
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
