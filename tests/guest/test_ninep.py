"""A folder and a tree of objects under Linux's own 9P driver, in real guests. Few boots, much in each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.ninep import NineP, SharedFolder
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support.guest_files import FILES, SUMS, Touched, check, does, kill_workers, leave_and_change, sums
from tests.support.guests import disturbing, guest, pause, unremarkable

if TYPE_CHECKING:
    import random

    from pyvirtio.testing.served import ServerProcess
    from pyvirtio.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

DRIVER = "/sys/bus/virtio/drivers/9pnet_virtio"


def mount(tag: str, at: str, options: str = "") -> str:
    """Return the command that mounts."""
    return f"mkdir -p {at} && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144{options} {tag} {at}"


def test_what_programs_do_with_files(tmp_path: Path, rng: random.Random) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"what lies outside")
    seed, objects = rng.getrandbits(32), Touched()
    with (
        serving(SharedFolder(folder, "folder"), str(tmp_path / "s0")) as first,
        serving(SharedFolder(folder, "fixed", readonly=True), str(tmp_path / "s1")) as second,
        serving(NineP(objects.tree, "objects"), str(tmp_path / "s2")) as third,
    ):
        with guest(first, second, third, files=FILES) as machine:
            with unremarkable(machine):
                does(machine, mount("folder", "/n"))
                assert check(machine, "ordinary /n") == ["absolute d fifo link moved upwards", "ok"]
                assert os.readlink(folder / "absolute") == "/etc/hostile"
                assert (folder / "d/" / "/".join(["d"] * 39) / "x").read_bytes() == b"deep"
                check(machine, f"exercise /n/exercised {seed} 1000")
                check(machine, "many /n/few 300")
                check(machine, f"load /n/load {seed} 60")
                assert does(machine, f"cd /n && {SUMS}") == sums(folder)
                list_many(machine, folder)
                leave_and_change(machine, folder, outside)
                come_and_go(machine, folder)

                for cache in ("mmap", "loose"):
                    does(machine, f"umount /n && {mount('folder', '/n', f',cache={cache}')}")
                    check(machine, f"exercise /n/{cache} {seed + 1} 500")
                    check(machine, f"load /n/load-{cache} {seed} 30")
                    does(machine, "sync")
                    assert does(machine, f"cd /n && {SUMS}") == sums(folder)
                does(machine, "umount /n")

                read_only_and_objects(machine, objects)

            machine.reboot()
            with unremarkable(machine):
                does(machine, mount("folder", "/n"))
                assert does(machine, f"cd /n && {SUMS}") == sums(folder)
                does(machine, "umount /n")
        assert first.faults == second.faults == third.faults == []
        assert (outside / "secret").read_bytes() == b"what lies outside"
        assert sorted(os.listdir(outside)) == ["secret"]


def list_many(machine: Guest, folder: Path) -> None:
    names = [f"entry-{number:05}" for number in range(5000)]
    (folder / "many").mkdir()
    for name in names:
        (folder / "many" / name).touch()
    listed = "".join(f"{name}\n" for name in names).encode()
    program = (
        "import os; print(*sorted(os.listdir('/n/many')), sep='\\n')"  # busybox's ls asks for each one's attributes
    )
    assert does(machine, f'python3 -c "{program}" | sha256sum')[0].split()[0] == hashlib.sha256(listed).hexdigest()
    shutil.rmtree(folder / "many")
    assert machine.run("ls /n/many").returncode


def come_and_go(machine: Guest, folder: Path) -> None:
    """Take the driver away while files are in use, which waits until they are not, and bring it back."""
    devices = does(machine, f"ls {DRIVER} | grep ^virtio")
    for device in devices:
        does(machine, f"(echo {device} >{DRIVER}/unbind; touch /tmp/{device}) >/dev/null 2>&1 &")
    assert does(machine, "cat /n/moved/file | wc -c") == ["20"]
    gone = " && ".join(f"[ -e /tmp/{device} ]" for device in devices)
    does(machine, f"umount /n && timeout 20 sh -c 'until {gone}; do usleep 10000; done'")
    assert machine.run(mount("folder", "/n")).returncode
    for device in devices:
        does(machine, f"echo {device} >{DRIVER}/bind")
    does(machine, mount("folder", "/n"))
    assert does(machine, f"cd /n && {SUMS}") == sums(folder)


def read_only_and_objects(machine: Guest, objects: Touched) -> None:
    does(machine, mount("fixed", "/fixed"))
    assert does(machine, "cat /fixed/moved/file | wc -c") == ["20"]
    for command in ("touch /fixed/new", "rm /fixed/moved/file", "echo x >>/fixed/moved/file", "chmod 0 /fixed/moved"):
        assert "Read-only" in machine.run(command).stderr, command
    does(machine, mount("objects", "/objects"))
    assert does(machine, "find /objects | sort") == [
        "/objects",
        "/objects/counter",
        "/objects/deep",
        "/objects/deep/text",
        "/objects/input",
        "/objects/wait",
    ]
    assert does(machine, "cat /objects/counter /objects/counter /objects/deep/text") == [
        "read 1 times",
        "read 2 times",
        "at the bottom",
    ]
    does(machine, "echo some words >/objects/input")
    assert objects.written == b"some words\n"
    assert "denied" in machine.run("cat /objects/input").stderr

    # Who waits can be killed: Linux sends a Tflush then. Others are served meanwhile.
    does(machine, "cat /objects/wait >/dev/null 2>&1 & echo $! >/tmp/waits")
    assert objects.begun.wait(60)
    assert does(machine, "cat /objects/deep/text") == ["at the bottom"]
    assert not objects.ended.is_set()
    does(machine, "kill -KILL $(cat /tmp/waits)")
    assert objects.ended.wait(60)
    does(machine, "timeout 20 sh -c 'while [ -e /proc/$(cat /tmp/waits) ]; do usleep 10000; done'")
    does(machine, "umount /fixed /objects")


# A worker that dies, code that changes, and a machine that pauses, all while files are in use.

SOURCE = "from pyvirtio.devices.ninep import SharedFolder\n\n\nclass Mine(SharedFolder):\n    pass\n"


def lose_what_has_no_name(machine: Guest, server: ServerProcess, folder: Path) -> None:
    """A file without a name is gone with the process that had it open: that is an error, and never another file."""
    (folder / "file").write_text("content")
    does(machine, "mkfifo /tmp/in; files_check hold /n/file </tmp/in >/tmp/out 2>&1 & sleep 100000 >/tmp/in &")
    does(machine, "timeout 20 sh -c 'until [ -s /tmp/out ]; do usleep 10000; done'")
    (folder / "file").unlink()
    (folder / "file").write_text("another")
    kill_workers(server)
    does(machine, "echo more >/tmp/in; timeout 20 sh -c 'until grep -q Errno /tmp/out; do usleep 10000; done'")
    assert "[Errno 116]" in does(machine, "tail -1 /tmp/out")[-1]  # ESTALE
    assert does(machine, "cat /n/file; echo") == ["another"]


def unplug_in_use(machine: Guest, folder: Path) -> None:
    """Linux's driver lets go of a device that is taken away once nothing of it is mounted any more; it comes back."""
    waits = "timeout 60 sh -c 'until dmesg | grep -q \"waiting for device in use\"; do usleep 100000; done'"
    # Lazily, for the program behind that pipe may still be ending.
    machine.send(f"{waits} && cat /n/file && kill $(pidof sleep) && umount -l /n")
    machine.unplug()
    result = machine.result()
    assert (result.returncode, result.stdout) == (0, "another"), result.stderr
    assert machine.run(mount("shared", "/n")).returncode
    machine.plug()
    does(machine, f"timeout 60 sh -c 'until ls {DRIVER} | grep -q ^virtio; do usleep 10000; done'")
    does(machine, mount("shared", "/n"))
    assert does(machine, f"cd /n && {SUMS}") == sums(folder)


def test_a_mount_survives_dying_workers_changed_code_and_a_machine_that_pauses(
    tmp_path: Path, rng: random.Random
) -> None:
    folder, source = tmp_path / "folder", tmp_path / "mine.py"
    folder.mkdir()
    source.write_text(SOURCE)
    seed = rng.getrandbits(32)
    with (
        contextlib.closing(SharedFolder(folder, "shared")) as like_it,
        served(f"{source}:Mine,path={folder},tag=shared", "--reload") as server,
    ):

        def change_code() -> None:
            source.write_text(f"{SOURCE}\n# {server.lines('[device-reloaded]')}\n")

        device = VhostUserDevice.of(like_it.description(), Path(server.path))
        with guest(device, files=FILES) as machine, unremarkable(machine):
            does(machine, mount("shared", "/n"))
            disturbances = (lambda: kill_workers(server), lambda: pause(machine), change_code)
            with disturbing(*disturbances, interval=1.0) as done:
                rounds = 0
                while min(done) < 4:
                    check(machine, f"load /n/load-{rounds} {seed + rounds} 60")
                    check(machine, f"exercise /n/file-{rounds} {seed + rounds} 300")
                    rounds += 1
                check(machine, "many /n/many 300")
                does(machine, f"umount /n && {mount('shared', '/n', ',cache=loose')}")
                check(machine, f"load /n/loose {seed} 60")
                does(machine, "sync")
            assert does(machine, f"cd /n && {SUMS}") == sums(folder)
            does(machine, f"cd / && umount /n && {mount('shared', '/n')}")
            lose_what_has_no_name(machine, server, folder)
            unplug_in_use(machine, folder)
        assert server.lines("[device-reloaded]") >= 2
        assert not server.lines("[request-failed]")
        assert not server.lines("[method-failed]")
