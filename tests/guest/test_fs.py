"""A folder and a tree of objects under Linux's virtiofs, in real guests. Two boots, much in each."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.fs import FileSystem, SharedFolder
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support.guest_files import FILES, SUMS, Touched, check, does, kill_workers, leave_and_change, sums
from tests.support.guests import disturbing, guest, pause, unremarkable

if TYPE_CHECKING:
    import random


pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

DRIVER = "/sys/bus/virtio/drivers/virtiofs"


def mount(tag: str, at: str) -> str:
    """Return the command that mounts."""
    return f"mkdir -p {at} && mount -t virtiofs {tag} {at}"


def test_what_programs_do_with_files(tmp_path: Path, rng: random.Random) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"what lies outside")
    seed, objects = rng.getrandbits(32), Touched()
    with (
        serving(SharedFolder(folder, "folder"), str(tmp_path / "s0")) as first,
        serving(SharedFolder(folder, "fixed", readonly=True), str(tmp_path / "s1")) as second,
        serving(FileSystem(objects.tree, "objects"), str(tmp_path / "s2")) as third,
        guest(first, second, third, arch="um", files=FILES) as machine,
    ):
        with unremarkable(machine):
            does(machine, mount("folder", "/n"))
            assert check(machine, "ordinary /n") == ["absolute d fifo link moved upwards", "ok"]
            assert os.readlink(folder / "absolute") == "/etc/hostile"
            check(machine, f"exercise /n/exercised {seed} 1000")
            check(machine, "many /n/many 2000")
            check(machine, f"load /n/load {seed} 60")
            does(machine, "sync")
            assert does(machine, f"cd /n && {SUMS}") == sums(folder)
            leave_and_change(machine, folder, outside)
            does(machine, f"umount /n && {mount('folder', '/n')}")
            assert does(machine, f"cd /n && {SUMS}") == sums(folder)

            does(machine, mount("fixed", "/fixed"))
            assert does(machine, "cat /fixed/moved/file | wc -c") == ["20"]
            for command in ("touch /fixed/new", "rm /fixed/moved/file", "echo x >>/fixed/moved/file"):
                assert "Read-only" in machine.run(command).stderr, command
            does(machine, mount("objects", "/objects"))
            assert "/objects/deep/text" in does(machine, "find /objects")
            read = ["read 1 times", "read 2 times", "at the bottom"]
            assert does(machine, "cat /objects/counter /objects/counter /objects/deep/text") == read
            does(machine, "echo some words >/objects/input")
            assert objects.written == b"some words\n"
            assert "denied" in machine.run("cat /objects/input").stderr
            does(machine, "umount /n /fixed /objects")
        assert first.faults == second.faults == third.faults == []
        assert (outside / "secret").read_bytes() == b"what lies outside"
        assert os.listdir(outside) == ["secret"]


def test_a_mount_survives_dying_workers_and_a_machine_that_pauses(tmp_path: Path, rng: random.Random) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    seed = rng.getrandbits(32)
    with (
        contextlib.closing(SharedFolder(folder, "shared")) as like_it,
        served(f"fs,path={folder},tag=shared") as server,
    ):
        device = VhostUserDevice.of(like_it.description(), Path(server.path))
        with guest(device, files=FILES) as machine, unremarkable(machine):
            does(machine, mount("shared", "/n"))
            with disturbing(lambda: kill_workers(server), lambda: pause(machine), interval=1.0) as done:
                rounds = 0
                while min(done) < 4:
                    check(machine, f"load /n/load-{rounds} {seed + rounds} 60")
                    check(machine, f"exercise /n/file-{rounds} {seed + rounds} 300")
                    rounds += 1
                check(machine, "many /n/many 200")
                does(machine, "sync")
            assert does(machine, f"cd /n && {SUMS}") == sums(folder)

            # The driver lets go of it and takes it again; the guest starts anew; it is pulled out, and comes back.
            does(machine, f"cd / && umount /n; cd {DRIVER}; d=$(basename virtio*); echo $d >unbind; echo $d >bind")
            does(machine, mount("shared", "/n"))
            machine.reset()
            does(machine, mount("shared", "/n"))
            assert does(machine, f"cd /n && {SUMS}") == sums(folder)
            does(machine, "cd / && umount /n")
            machine.unplug()
            assert machine.run(mount("shared", "/n")).returncode
            machine.plug()
            does(machine, f"timeout 60 sh -c 'until ls {DRIVER} | grep -q ^virtio; do usleep 10000; done'")
            does(machine, mount("shared", "/n"))
            assert does(machine, f"cd /n && {SUMS}") == sums(folder)
        assert not server.lines("[request-failed]")
        assert not server.lines("[method-failed]")
