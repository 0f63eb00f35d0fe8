"""The 9P device: driven in this process, and served by `pyvirtio serve` to a front-end that may do anything."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import open_driver
from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.devices.ninep import LONGEST_TAG, MOUNT_TAG, Config, NineP, SharedFolder, tagged
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.drivers.ninep import NinePDriver
from pyvirtio.errors import LocalError
from pyvirtio.files import Objects
from pyvirtio.files.structures import Open
from pyvirtio.ninep.messages import pack, unpack
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from tests.support.killing import killing
from tests.support.ninep import CONTENT, folder_of_one
from tests.support.ninep_hostile import BEGINNING, HUGE, MESSAGES, ORDINARY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.testing.frontend import RawQueue
    from pyvirtio.testing.served import ServerProcess
    from tests.support.uapi import Uapi


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of_one(tmp_path)


class Raw(Driver):
    device_id = 9
    features = MOUNT_TAG
    requests = RequestQueue(size=128)


# In this process.


@pytest.mark.guest  # it needs what is provisioned for guests
def test_the_configuration_space_is_that_of_linux(uapi: Uapi):
    header, structure = "linux/virtio_9p.h", "virtio_9p_config"
    bits = {"VIRTIO_9P_MOUNT_TAG": MOUNT_TAG}
    assert not uapi.differences(header, structs={Config: structure}, bits=bits)
    assert re.findall(r"\bVIRTIO_9P_\w+", (uapi.headers / header).read_text()) == list(bits)
    config = tagged("name")
    assert uapi.evaluate(header, [f"__builtin_offsetof(struct {structure}, tag)"]) == [type(config).offset_of("tag")]
    assert config.pack() == b"\x04\0name"


@pytest.mark.parametrize("tag", ["t", "some name", "ä" * 100, "x" * LONGEST_TAG])
def test_the_name_to_be_mounted(folder, tag):
    with open_driver(NinePDriver, SharedFolder(folder, tag)) as driver:
        assert driver.tag() == tag
        length = len(tag.encode())
        assert driver.transport.read_config(0, 2) == length.to_bytes(2, "little")
        assert len(driver.transport.read_config(0, 256)) == 2 + length


@pytest.mark.parametrize("tag", ["", "x" * (LONGEST_TAG + 1), "ä" * 128])
def test_a_name_that_cannot_be_mounted_is_refused(folder, tag):
    with pytest.raises(LocalError, match="1 to 254"):
        SharedFolder(folder, tag)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(LocalError, match="cannot be served"):
        SharedFolder(tmp_path / "missing")


def test_what_a_driver_does_with_files(folder, rng):
    with open_driver(NinePDriver, SharedFolder(folder)) as driver:
        driver.mount()
        data = rng.randbytes(300_000)
        driver.mkdir("sub")
        driver.write("sub/new", data)
        assert driver.read("sub/new") == data == (folder / "sub/new").read_bytes()
        assert driver.attributes("sub/new").size == len(data)
        driver.truncate("sub/new", 5)
        assert driver.read("sub/new") == data[:5]
        driver.symlink("link", "sub/new")
        assert driver.readlink("link") == "sub/new"
        driver.rename("sub/new", "moved")
        assert driver.names() == ["file", "link", "moved", "sub"]
        driver.remove("moved")
        driver.remove("sub", directory=True)
        assert driver.names() == ["file", "link"]
        with pytest.raises(FileNotFoundError):
            driver.read("moved")
        with pytest.raises(FileNotFoundError):
            driver.read("missing/deeper")


def test_a_read_only_folder(folder):
    with open_driver(NinePDriver, SharedFolder(folder, readonly=True)) as driver:
        driver.mount()
        assert driver.read("file") == CONTENT
        with pytest.raises(OSError, match="Read-only"):
            driver.write("new", b"")


def test_a_tree_of_objects():
    switched: list[bytes] = []
    tree = Objects({"greeting": lambda: "hello", "switch": (None, switched.append)})
    with open_driver(NinePDriver, NineP(tree, "objects")) as driver:
        driver.mount()
        assert driver.names() == ["greeting", "switch"]
        assert driver.read("greeting") == b"hello"
        with driver.walked("switch") as fid:
            driver.ask("Tlopen", fid=fid, flags=Open.WRITE_ONLY)
            driver.exchange(pack("Twrite", 0, fid=fid, offset=0, count=2, data_length=2) + b"on", "Twrite")
    assert switched == [b"on"]


def test_hostile_messages_in_this_process(folder):
    transport = InProcessTransport(SharedFolder(folder))
    with Raw(transport) as driver:
        check_hostile(lambda request: driver.requests.call(request, room=8192), folder)
    assert transport.faults == []


def test_what_cannot_be_answered_fails_and_the_queue_goes_on(folder):
    transport = InProcessTransport(SharedFolder(folder))
    with Raw(transport) as driver:
        for request in BEGINNING:
            driver.requests.call(request, room=8192)
        for length in range(1, 7):
            answer = unpack(driver.requests.call(ORDINARY[:length], room=100))
            assert (answer.kind, answer.ecode) == ("Rlerror", 5)
        for room in range(11):
            assert driver.requests.call(ORDINARY, room=room) == b""
        assert driver.requests.call(ORDINARY, room=100)[11:] == CONTENT
    assert transport.faults


def check_hostile(ask: Any, folder: Path) -> None:
    for request in BEGINNING:
        assert unpack(ask(request)).kind != "Rlerror"
    for what, (request, expected) in MESSAGES.items():
        answer = unpack(ask(request))
        assert (answer.kind, answer.ecode) == ("Rlerror", expected), what
    assert ask(HUGE)[11:] == ask(ORDINARY)[11:] == CONTENT
    assert os.listdir(folder) == ["file"]


# Served.


@pytest.fixture
def server(folder: Path) -> Iterator[ServerProcess]:
    with served(f"9p,path={folder},tag=shared") as process:
        yield process


def started(frontend: RawFrontend, memory: SharedMemory) -> RawQueue:
    frontend.negotiate()
    frontend.share(memory)
    queue = frontend.queue(memory, size=128)
    queue.start()
    return queue


def test_hostile_messages_over_a_socket(server, folder):
    with RawFrontend(server.path) as frontend, SharedMemory() as memory:
        queue = started(frontend, memory)
        (worker,) = server.workers()
        before = server.memory(worker)
        check_hostile(lambda request: queue.ask(request, room=8192)[0], folder)
        for indirect in (False, True):
            assert queue.ask(HUGE, room=65536, indirect=indirect)[0][11:] == CONTENT
        for length in range(1, 7):
            assert unpack(queue.ask(ORDINARY[:length], room=100)[0]).kind == "Rlerror"
        assert server.memory(*server.workers()) - before < 8 << 20
        assert queue.ask(ORDINARY, room=100)[0][11:] == CONTENT
    assert not server.lines("[worker-ended]")


def test_a_mount_survives_its_workers(server, folder, rng):
    with open_driver(NinePDriver, f"vhost-user:{server.path}") as driver:
        driver.mount()
        with killing(server, rng) as killer, driver.walked("") as held:
            driver.ask("Tlcreate", fid=held, name=b"held", flags=Open.READ_WRITE, mode=0o644, gid=0)
            number = 0
            while len(killer.killed) < 10:
                killer.step()
                data = bytes([number % 256]) * 20_000
                driver.mkdir(f"d{number}")
                driver.write(f"d{number}/new", data)
                driver.rename(f"d{number}/new", f"d{number}/file")
                assert driver.read(f"d{number}/file") == data
                driver.exchange(
                    pack("Twrite", 0, fid=held, offset=4 * number, count=4, data_length=4) + b"line", "Twrite"
                )
                if number % 2:
                    driver.remove(f"d{number}/file")
                    driver.remove(f"d{number}", directory=True)
                number += 1
        assert driver.read("held") == b"line" * number
        expected = ["file", "held", *(f"d{n}" for n in range(0, number, 2))]
        assert driver.names() == sorted(expected) == sorted(os.listdir(folder))
    assert not server.lines("[request-failed]")
    assert not server.lines("[method-failed]")


def test_another_front_end_finds_nothing_of_the_last_one(server):
    for _ in range(2):
        with RawFrontend(server.path) as frontend, SharedMemory() as memory:
            queue = started(frontend, memory)
            assert unpack(queue.ask(ORDINARY, room=100)[0]).kind == "Rlerror"
            for request in BEGINNING:
                assert unpack(queue.ask(request, room=8192)[0]).kind != "Rlerror"
            (worker,) = server.workers()
            os.kill(worker, signal.SIGKILL)
            assert queue.ask(ORDINARY, room=100)[0][11:] == CONTENT
            assert server.workers() != [worker]


def test_changed_code_goes_on_with_the_same_fids(tmp_path, folder):
    source = tmp_path / "mine.py"
    text = "from pyvirtio.devices.ninep import SharedFolder\n\nclass Mine(SharedFolder):\n    pass\n"
    source.write_text(text)
    with (
        served(f"{source}:Mine,path={folder}", "--reload") as server,
        open_driver(NinePDriver, f"vhost-user:{server.path}") as driver,
    ):
        driver.mount()
        with driver.walked("file") as fid:
            driver.ask("Tlopen", fid=fid, flags=0)
            source.write_text(text + "# changed\n")
            server.wait_for("[device-reloaded]")
            assert driver.exchange(pack("Tread", 0, fid=fid, offset=0, count=0), "Tread").count == 0
            assert driver.read("file") == CONTENT


def test_options(folder):
    with (
        served(f"9p,path={folder},tag=name,readonly") as server,
        open_driver(NinePDriver, f"vhost-user:{server.path}") as driver,
    ):
        assert driver.tag() == "name"
        driver.mount()
        with pytest.raises(OSError, match="Read-only"):
            driver.mkdir("new")


def test_the_example_of_the_page(tmp_path):
    page = (Path(__file__).parents[2] / "docs/devices/9p.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example
    (tmp_path / "lamp.py").write_text(example[1])
    with (
        served(f"{tmp_path}/lamp.py:Lamp") as server,
        open_driver(NinePDriver, f"vhost-user:{server.path}") as driver,
    ):
        driver.mount()
        assert driver.tag() == "lamp"
        assert driver.names("host") == ["name", "time"]
        assert float(driver.read("host/time")) > 0
        assert driver.read("lamp") == b"0\n"
        driver.write("lamp", b"1\n")
        assert driver.read("lamp") == b"1\n"
