"""Memory that outlives workers, and requests that come again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Queue, Struct, le32, open_driver, serving
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import LocalError
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from tests.support import keeping_devices
from tests.support.keeping_devices import COUNT, DIE, TELL
from tests.support.vhost import ask, driven, is_running, until

if TYPE_CHECKING:
    from pyvirtio.testing.served import ServerProcess

FILE = Path(keeping_devices.__file__)
KINDS = ["Keeping", "KeepingStream", "KeepingLater"]
ENGINES = ["reference", "native"]


@pytest.fixture(params=ENGINES)
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "native":
        pytest.importorskip("pyvirtio.ring._native", reason="the native engine is not built", exc_type=ImportError)
    return {"PYVIRTIO_ENGINE": request.param}


def kill(server: ServerProcess) -> None:
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)
        until(lambda worker=worker: not is_running(worker))  # type: ignore[misc]  # a lambda's defaults


@pytest.mark.parametrize("kind", KINDS)
def test_memory_outlives_workers(environment, kind):
    with served(f"{FILE}:{kind}", environment=environment) as server, driven(server) as queue:
        assert ask(queue, COUNT, COUNT) == [1, 2]
        for number in range(3, 6):
            kill(server)
            assert ask(queue, COUNT, TELL) == [number, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_in_which_a_worker_died_comes_again_and_says_so(environment, kind):
    with served(f"{FILE}:{kind}", environment=environment) as server, driven(server) as queue:
        for _ in range(3):
            assert ask(queue, DIE, TELL, TELL)[0] == 1
            assert ask(queue, TELL, TELL, TELL) == [0, 0, 0], "what follows is new"


def test_what_was_answered_in_the_same_turn_and_not_published_comes_again(environment):
    with served(f"{FILE}:KeepingLater", environment=environment) as server, driven(server) as queue:
        first, second, died = ask(queue, COUNT, TELL, DIE)
        assert died == 1
        # Either they were published before the worker died, or they were carried out twice, and then knew it.
        assert (first, second) in {(1, 0), (2, 1)}


def test_another_front_end_finds_nothing(environment):
    with served(f"{FILE}:Keeping", environment=environment) as server:
        for _ in range(3):
            with driven(server) as queue:
                assert ask(queue, COUNT, COUNT) == [1, 2]
                kill(server)
                assert ask(queue, COUNT) == [3]


def test_workers_of_one_device_share_the_memory():
    with (
        served(f"{FILE}:KeepingStream", "--workers", "2") as server,
        RawFrontend(server.path) as frontend,
        SharedMemory() as memory,
    ):
        frontend.negotiate()
        frontend.share(memory)
        queues = [frontend.queue(memory, index, size=64) for index in range(2)]
        for queue in queues:
            queue.start()
        for number in range(1, 9, 2):
            assert [ask(queue, COUNT) for queue in queues] == [[number], [number + 1]]
            kill(server)


def test_the_keeper_holds_one_file_for_it(tmp_path):
    with served(f"{FILE}:Keeping") as server:
        assert sum("pyvirtio-kept" in name for name in server.fds()) == 1
        with driven(server) as queue:
            ask(queue, COUNT)
        assert sum("pyvirtio-kept" in name for name in server.fds()) == 1
    with served("factorial") as server:
        assert not any("pyvirtio-kept" in name for name in server.fds())


def test_changed_code_has_the_memory_unless_it_wants_another_size(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(FILE.read_text())
    with served(f"{source}:Keeping", "--reload") as server, driven(server) as queue:
        assert ask(queue, COUNT) == [1]
        source.write_text(FILE.read_text() + "\n# changed\n")
        server.wait_for("[device-reloaded]")
        assert ask(queue, COUNT) == [2]
        source.write_text(FILE.read_text().replace("4096", "8192"))
        assert "kept memory" in server.wait_for("[device-refused]")
        assert ask(queue, COUNT) == [3]


class Number(Struct):
    value: int = le32()


class Asking(Device):
    """Tells whether it has memory."""

    kept_size = 64
    requests = Queue(Number, Number)

    @requests.each
    def answer(self, _request: Number) -> int:
        return int(self.kept_memory is not None)


class AskingDriver(Driver):
    device_id = 38
    requests = RequestQueue(Number, Number)


def test_in_ones_own_process_there_is_none(tmp_path):
    with open_driver(AskingDriver, Asking()) as driver:
        assert driver.requests.call(Number()).value == 0
    path = str(tmp_path / "s")
    with serving(Asking(), path), open_driver(AskingDriver, f"vhost-user:{path}") as driver:
        assert driver.requests.call(Number()).value == 0


@pytest.mark.parametrize("size", [-1, 1.5, None, (1 << 30) + 1])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(LocalError, match="kept_size"):
        type("Impossible", (Asking,), {"kept_size": size})
