"""A folder and a tree of objects under Linux's own 9P driver, in real guests. Few boots, much in each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import serving
from pyvirtio.devices.ninep import NineP, SharedFolder
from pyvirtio.errors import ProvisionError
from pyvirtio.ninep import Objects
from pyvirtio.testing.served import served
from pyvirtio.vm.guest import Guest
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.launch import GuestOptions, default_builder
from pyvirtio.vm.machine import VhostUserDevice
from tests.guest.conftest import PROGRAMS, unremarkable
from tests.support import qmp
from tests.support.full_kernel import full_kernel

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from pyvirtio.testing.served import ServerProcess
    from pyvirtio.vm.guest import LaunchConfig

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

DRIVER = "/sys/bus/virtio/drivers/9pnet_virtio"


def prepared(*devices: VhostUserDevice, extra: tuple[str, ...] = ()) -> LaunchConfig:
    """Return a guest with the 9P driver and the checking program in it."""
    builder, overlay = default_builder(), Initramfs()
    overlay.file("bin/files_check", (PROGRAMS / "files_check.py").read_bytes(), mode=0o755)
    try:
        guest_options = GuestOptions(accel="tcg", kernel=full_kernel(builder))
        config = builder.prepare(guest_options, devices, modules=["9pnet_virtio", "9p"])
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")
    return replace(config, overlay=overlay, extra=extra)


def mount(tag: str, at: str, options: str = "") -> str:
    """Return the command that mounts."""
    return f"mkdir -p {at} && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144{options} {tag} {at}"


def does(guest: Guest, command: str, timeout: float = 240) -> list[str]:
    """Run a command that has to succeed; return what it printed."""
    result = guest.run(command, timeout)
    assert result.status == 0, f"{command}\n{result.output}"
    return result.lines


def check(guest: Guest, command: str) -> list[str]:
    lines = does(guest, f"files_check {command}")
    assert lines[-1] == "ok", "\n".join(lines)
    return lines


def sums(folder: Path) -> list[str]:
    """Return the checksums of a folder's files as ``sha256sum`` prints them, by name."""
    files = {f"./{path.relative_to(folder)}": path for path in folder.rglob("*")}
    return [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}"
        for name, path in sorted(files.items())
        if path.is_file() and not path.is_symlink()
    ]


SUMS = "find . -type f | sort | xargs sha256sum"


@contextlib.contextmanager
def three_devices(folder: Path, sockets: Path) -> Iterator[tuple[list[VhostUserDevice], dict[str, Any]]]:
    """Serve a folder, the same folder to be read only, and objects."""
    state: dict[str, Any] = {"written": b"", "reads": 0, "begun": threading.Event(), "ended": threading.Event()}

    def read() -> str:
        state["reads"] += 1
        return f"read {state['reads']} times\n"

    def write(data: bytes) -> None:
        state["written"] = data

    async def wait() -> str:
        state["begun"].set()
        try:
            await asyncio.Event().wait()
        finally:
            state["ended"].set()
        return ""

    objects = Objects({"counter": read, "input": (None, write), "wait": wait, "deep": {"text": "at the bottom\n"}})
    with contextlib.ExitStack() as stack:
        devices: list[VhostUserDevice] = []
        for device in (
            SharedFolder(folder, "folder"),
            SharedFolder(folder, "fixed", readonly=True),
            NineP(objects, "objects"),
        ):
            path = sockets / f"s{len(devices)}"
            server = stack.enter_context(serving(device, str(path)))
            stack.callback(check_faults, server.faults)
            devices.append(VhostUserDevice.of(device.description(), path))
        yield devices, state


def check_faults(faults: list[str]) -> None:
    assert faults == []


def test_what_programs_do_with_files(tmp_path: Path, rng: random.Random) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"what lies outside")
    seed = rng.getrandbits(32)
    with three_devices(folder, tmp_path) as (devices, state):
        config = prepared(*devices, extra=("-action", "reboot=reset"))
        with Guest(config) as guest, unremarkable(guest):
            does(guest, mount("folder", "/n"))
            assert check(guest, "ordinary /n") == ["absolute d fifo link moved upwards", "ok"]
            assert os.readlink(folder / "absolute") == "/etc/hostile"
            assert (folder / "d/" / "/".join(["d"] * 39) / "x").read_bytes() == b"deep"
            check(guest, f"exercise /n/exercised {seed} 1000")
            check(guest, "many /n/few 300")
            check(guest, f"load /n/load {seed} 60")
            assert does(guest, f"cd /n && {SUMS}") == sums(folder)
            list_many(guest, folder)
            leave_and_change(guest, folder, outside)
            come_and_go(guest, folder)

            for cache in ("mmap", "loose"):
                does(guest, f"umount /n && {mount('folder', '/n', f',cache={cache}')}")
                check(guest, f"exercise /n/{cache} {seed + 1} 500")
                check(guest, f"load /n/load-{cache} {seed} 30")
                does(guest, "sync")
                assert does(guest, f"cd /n && {SUMS}") == sums(folder)
            does(guest, "umount /n")

            read_only_and_objects(guest, state)

            guest.send("reboot -f")
            guest.wait_for("pyvirtio-guest: listening")
            does(guest, mount("folder", "/n"))
            assert does(guest, f"cd /n && {SUMS}") == sums(folder)
            does(guest, "umount /n")
        assert (outside / "secret").read_bytes() == b"what lies outside"
        assert sorted(os.listdir(outside)) == ["secret"]


def list_many(guest: Guest, folder: Path) -> None:
    names = [f"entry-{number:05}" for number in range(5000)]
    (folder / "many").mkdir()
    for name in names:
        (folder / "many" / name).touch()
    listed = "".join(f"{name}\n" for name in names).encode()
    program = (
        "import os; print(*sorted(os.listdir('/n/many')), sep='\\n')"  # busybox's ls asks for each one's attributes
    )
    assert does(guest, f'python3 -c "{program}" | sha256sum')[0].split()[0] == hashlib.sha256(listed).hexdigest()
    shutil.rmtree(folder / "many")
    assert guest.run("ls /n/many").status


def leave_and_change(guest: Guest, folder: Path, outside: Path) -> None:
    """Links lead within the guest, and what is changed on this side is seen there."""
    (folder / "to-outside").symlink_to(outside)
    (folder / "swapped").mkdir()
    (folder / "swapped/secret").write_text("inside")
    assert guest.run(f"cat /n/to-outside/secret {outside}/secret").status
    assert does(guest, "cat /n/swapped/secret; echo")[-1] == "inside"
    (folder / "swapped").rename(folder / "was-swapped")
    (folder / "swapped").symlink_to(outside)
    assert guest.run("cat /n/swapped/secret").status
    assert guest.run("echo hostile >/n/swapped/new").status
    for link in ("to-outside", "swapped"):
        (folder / link).unlink()

    (folder / "shared").write_text("first")
    assert does(guest, "exec 3</n/shared; cat <&3; echo") == ["first"]
    (folder / "shared").write_text("second, and longer")
    assert does(guest, "cat /n/shared; echo") == ["second, and longer"]
    (folder / "shared").unlink()
    assert guest.run("cat /n/shared").status
    (folder / "shared").mkdir()
    assert does(guest, "ls -ld /n/shared | cut -c1") == ["d"]
    (folder / "shared").rmdir()


def come_and_go(guest: Guest, folder: Path) -> None:
    """Take the driver away while files are in use, which waits until they are not, and bring it back."""
    devices = does(guest, f"ls {DRIVER} | grep ^virtio")
    for device in devices:
        does(guest, f"(echo {device} >{DRIVER}/unbind; touch /tmp/{device}) >/dev/null 2>&1 &")
    assert does(guest, "cat /n/moved/file | wc -c") == ["20"]
    gone = " && ".join(f"[ -e /tmp/{device} ]" for device in devices)
    does(guest, f"umount /n && timeout 20 sh -c 'until {gone}; do usleep 10000; done'")
    assert guest.run(mount("folder", "/n")).status
    for device in devices:
        does(guest, f"echo {device} >{DRIVER}/bind")
    does(guest, mount("folder", "/n"))
    assert does(guest, f"cd /n && {SUMS}") == sums(folder)


def read_only_and_objects(guest: Guest, state: dict[str, Any]) -> None:
    does(guest, mount("fixed", "/fixed"))
    assert does(guest, "cat /fixed/moved/file | wc -c") == ["20"]
    for command in ("touch /fixed/new", "rm /fixed/moved/file", "echo x >>/fixed/moved/file", "chmod 0 /fixed/moved"):
        assert "Read-only" in guest.run(command).output, command
    does(guest, mount("objects", "/objects"))
    assert does(guest, "find /objects | sort") == [
        "/objects",
        "/objects/counter",
        "/objects/deep",
        "/objects/deep/text",
        "/objects/input",
        "/objects/wait",
    ]
    assert does(guest, "cat /objects/counter /objects/counter /objects/deep/text") == [
        "read 1 times",
        "read 2 times",
        "at the bottom",
    ]
    does(guest, "echo some words >/objects/input")
    assert state["written"] == b"some words\n"
    assert "denied" in guest.run("cat /objects/input").output or guest.run("cat /objects/input").status

    # Who waits can be killed: Linux sends a Tflush then. Others are served meanwhile.
    does(guest, "cat /objects/wait >/dev/null 2>&1 & echo $! >/tmp/waits")
    assert state["begun"].wait(60)
    assert does(guest, "cat /objects/deep/text") == ["at the bottom"]
    assert not state["ended"].is_set()
    does(guest, "kill -KILL $(cat /tmp/waits)")
    assert state["ended"].wait(60)
    does(guest, "timeout 20 sh -c 'while [ -e /proc/$(cat /tmp/waits) ]; do usleep 10000; done'")
    does(guest, "umount /fixed /objects")


# A worker that dies, code that changes, and a machine that pauses, all while files are in use.

SOURCE = "from pyvirtio.devices.ninep import SharedFolder\n\n\nclass Mine(SharedFolder):\n    pass\n"


@contextlib.contextmanager
def disturbing(*disturbances: Callable[[], object]) -> Iterator[list[int]]:
    """Do these in turn, one each second, while the block runs; yield a list of how often each was done."""
    done = [0] * len(disturbances)
    is_over = threading.Event()

    def disturb() -> None:
        while not is_over.wait(1.0):
            number = done.index(min(done))
            disturbances[number]()
            done[number] += 1

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield done
    finally:
        is_over.set()
        thread.join()


def kill_workers(server: ServerProcess) -> None:
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)


def lose_what_has_no_name(guest: Guest, server: ServerProcess, folder: Path) -> None:
    """A file without a name is gone with the process that had it open: that is an error, and never another file."""
    (folder / "file").write_text("content")
    does(guest, "mkfifo /tmp/in; files_check hold /n/file </tmp/in >/tmp/out 2>&1 & sleep 100000 >/tmp/in &")
    does(guest, "timeout 20 sh -c 'until [ -s /tmp/out ]; do usleep 10000; done'")
    (folder / "file").unlink()
    (folder / "file").write_text("another")
    kill_workers(server)
    does(guest, "echo more >/tmp/in; timeout 20 sh -c 'until grep -q Errno /tmp/out; do usleep 10000; done'")
    assert "[Errno 116]" in does(guest, "tail -1 /tmp/out")[-1]  # ESTALE
    assert does(guest, "cat /n/file; echo") == ["another"]


def unplug_in_use(guest: Guest, monitor: qmp.Monitor) -> None:
    """Linux's driver lets go of a device that is taken away once nothing of it is mounted any more."""
    monitor.execute("device_del", id="files")
    assert does(guest, "cat /n/file; echo") == ["another"]
    does(guest, "kill $(pidof sleep); umount -l /n")  # lazily, for the program behind that pipe may still be ending
    does(guest, "timeout 60 sh -c 'until [ ! -e /sys/bus/virtio/devices/virtio0 ]; do usleep 10000; done'")


def test_a_mount_survives_dying_workers_changed_code_and_a_machine_that_pauses(
    tmp_path: Path, rng: random.Random
) -> None:
    folder, source, monitor_path = tmp_path / "folder", tmp_path / "mine.py", tmp_path / "m"
    folder.mkdir()
    source.write_text(SOURCE)
    seed = rng.getrandbits(32)
    with contextlib.closing(SharedFolder(folder, "shared")) as like_it:
        description = like_it.description()
    with served(f"{source}:Mine,path={folder},tag=shared", "--reload") as server:
        device = replace(VhostUserDevice.of(description, Path(server.path)), bus="port0", name="files")
        port = ("-device", "pcie-root-port,id=port0,chassis=1,slot=1")
        config = prepared(device, extra=(*qmp.options(monitor_path), *port))
        with Guest(config) as guest, qmp.monitor(monitor_path) as monitor, unremarkable(guest):

            def change_code() -> None:
                source.write_text(f"{SOURCE}\n# {server.lines('[device-reloaded]')}\n")

            does(guest, mount("shared", "/n"))
            with disturbing(lambda: kill_workers(server), monitor.pause, change_code) as done:
                rounds = 0
                while min(done) < 4:
                    check(guest, f"load /n/load-{rounds} {seed + rounds} 60")
                    check(guest, f"exercise /n/file-{rounds} {seed + rounds} 300")
                    rounds += 1
                check(guest, "many /n/many 300")
                does(guest, f"umount /n && {mount('shared', '/n', ',cache=loose')}")
                check(guest, f"load /n/loose {seed} 60")
                does(guest, "sync")
            assert does(guest, f"cd /n && {SUMS}") == sums(folder)
            does(guest, f"cd / && umount /n && {mount('shared', '/n')}")
            lose_what_has_no_name(guest, server, folder)
            unplug_in_use(guest, monitor)
        assert server.lines("[device-reloaded]") >= 2
        assert not server.lines("[request-failed]")
        assert not server.lines("[method-failed]")
