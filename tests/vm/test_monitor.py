"""QEMU's monitor, spoken to by a stand-in: answers, refusals, events before and after, and a QEMU that goes."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.errors import GuestError
from pyvirtio.vm import monitor
from pyvirtio.vm.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GREETING: dict[str, Any] = {"QMP": {"version": {}, "capabilities": []}}
GONE = {"event": "DEVICE_DELETED", "data": {"device": "device0", "path": "/machine"}}
OTHER = {"event": "DEVICE_DELETED", "data": {"path": "/machine"}}


@pytest.fixture
def connect() -> Iterator[Callable[..., tuple[Monitor, list[Any]]]]:
    """Make a monitor whose QEMU sends these messages, those of a list after each command; and what it is sent."""
    ours, theirs = socket.socketpair()
    opened = Monitor(ours)
    threads: list[threading.Thread] = []

    def make(*answers: list[dict[str, Any]]) -> tuple[Monitor, list[Any]]:
        received: list[Any] = []

        def serve() -> None:
            with theirs, theirs.makefile("rw") as stream:
                for number, messages in enumerate(answers):
                    if number:
                        if not (line := stream.readline()):
                            return
                        received.append(json.loads(line))
                    for message in messages:
                        stream.write(json.dumps(message) + "\n")
                    stream.flush()

        threads.append(threading.Thread(target=serve))
        threads[0].start()
        return opened, received

    yield make
    opened.close()
    theirs.close()
    for thread in threads:
        thread.join()


def test_a_command_gives_its_result(connect: Callable[..., tuple[Monitor, list[Any]]]) -> None:
    opened, received = connect([GREETING], [{"return": {}}], [GONE, {"return": {"status": "paused"}}])
    assert opened.execute("query-status", {"x": 1}) == {"status": "paused"}
    assert received == [
        {"execute": "qmp_capabilities", "arguments": {}},
        {"execute": "query-status", "arguments": {"x": 1}},
    ]


def test_an_event_may_be_the_first_thing_that_is_awaited(connect: Callable[..., tuple[Monitor, list[Any]]]) -> None:
    opened, received = connect([GREETING], [{"return": {}}, OTHER, GONE])
    assert opened.wait_for("DEVICE_DELETED", device="device0") == GONE["data"]
    assert [message["execute"] for message in received] == ["qmp_capabilities"]


def test_an_event_counts_whether_it_came_before_or_comes_later(
    connect: Callable[..., tuple[Monitor, list[Any]]],
) -> None:
    opened, _ = connect([GREETING], [{"return": {}}], [OTHER, GONE, {"return": {}}, GONE])
    opened.execute("device_del", {"id": "device0"})
    assert opened.wait_for("DEVICE_DELETED", device="device0") == GONE["data"]
    assert opened.wait_for("DEVICE_DELETED", device="device0") == GONE["data"]
    with pytest.raises(GuestError, match="closed its monitor while DEVICE_DELETED"):
        opened.wait_for("DEVICE_DELETED", device="device0")
    assert opened.wait_for("DEVICE_DELETED") == OTHER["data"], "it was not taken by the others"


def test_a_refusal_is_an_error_with_qemus_words(connect: Callable[..., tuple[Monitor, list[Any]]]) -> None:
    refusal = {"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}
    opened, _ = connect([GREETING], [{"return": {}}], [refusal], [{"return": "still there"}])
    with pytest.raises(GuestError, match="refused device_del: Device 'x' not found"):
        opened.execute("device_del", {"id": "x"})
    assert opened.execute("query-name") == "still there"


def test_a_qemu_that_says_nothing_is_given_up(
    connect: Callable[..., tuple[Monitor, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "LIMIT", 0.2)
    opened, _ = connect([GREETING], [{"return": {}}], [], [])
    with pytest.raises(GuestError, match=r"said nothing for 0\.2 s while stop"):
        opened.execute("stop")
    with pytest.raises(GuestError, match=r"QEMU (ended|closed)"):
        opened.execute("cont")
