"""A running device as a page: what is counted, who may see it, and that the device never notices."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import open_driver
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import LocalError
from pyvirtio.spec.features import Feature
from pyvirtio.testing.served import served
from pyvirtio.trace.events import Event
from pyvirtio.trace.messages import message
from pyvirtio.trace.page.player import player
from pyvirtio.trace.recorder import load
from pyvirtio.trace.requests import requests
from pyvirtio.trace.watch.feed import Feed
from pyvirtio.trace.watch.figures import KEPT, MOST_IN_FLIGHT, Figures, QueueFigures, latency_class, latency_of
from pyvirtio.trace.watch.process import watching
from pyvirtio.trace.watch.rates import HISTORY, WINDOW, Rates, percentile
from pyvirtio.trace.watch.state import LAST, DeviceState
from pyvirtio.vhost_user import messages as m
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import guest, unremarkable
from tests.support.odd_devices import CRASH
from tests.support.vhost import ask, driven, is_running, odd, until

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from pyvirtio.testing.served import ServerProcess
    from tests.support.browser import Browser

AREAS = ("size", "descriptor_area", "driver_area", "device_area", "features", "position")
CONTRAST = (Path(__file__).parents[1] / "support" / "contrast.js").read_text()


def asked(at: int, head: int = 0, data: bytes = b"hello", room: int = 8, index: int = 1) -> list[Event]:
    described = {"head": head, "chain": [[head, 0x8000, len(data), 0, 0]], "length": len(data), "room": room}
    return [
        Event(at, "driver", "descriptors", 0, **described, data=data.hex()),
        Event(at, "driver", "available", 0, index=index & 0xFFFF, heads=[head]),
    ]


def answered(at: int, head: int = 0, data: bytes = b"done", index: int = 1) -> list[Event]:
    return [
        Event(at, "device", "used", 0, head=head, written=len(data), data=data.hex()),
        Event(at, "device", "used_index", 0, index=index & 0xFFFF),
    ]


def count(figures: QueueFigures, *events: Event) -> None:
    for event in events:
        figures.take(event)


# What is counted.


def test_a_class_of_latencies_is_narrow_and_the_classes_are_in_order(rng: random.Random):
    assert [latency_class(latency_of(number)) for number in range(255)] == list(range(255))
    for _ in range(1000):
        nanoseconds = rng.randrange(1024, 1 << rng.randrange(11, 40))
        assert abs(latency_of(latency_class(nanoseconds)) - nanoseconds) <= nanoseconds / 8


def test_requests_are_counted_and_the_last_ones_kept():
    figures = Figures().of_queue(0)
    for number in range(KEPT + 3):
        index, data = number + 1, number.to_bytes(4, "little")
        count(figures, *asked(1000 * number, data=data, index=index), Event(1, "driver", "kick", 0))
        count(figures, *answered(1000 * number + 500, data=b"x" * 100, index=index))
        count(figures, Event(2, "device", "interrupt", 0))
    counters = figures.counters()
    total = KEPT + 3
    assert counters == {
        **dict.fromkeys(("asked", "answered", "kicks", "interrupts", "kept", "available", "used"), total),
        "read": 4 * total,
        "written": 100 * total,
        "in_flight": 0,
        "oldest": 0,
    }
    assert figures.latencies()[latency_class(500)] == total
    last = figures.last()
    assert [int.from_bytes(bytes.fromhex(one["asked"]), "little") for one in last] == list(range(total - 1, 2, -1))
    assert (last[0]["latency"], last[0]["written"], len(last[0]["answer"])) == (500, 100, 64)


def test_the_oldest_request_in_flight_is_known_and_a_new_beginning_forgets_it():
    figures = Figures().of_queue(3)
    count(figures, *asked(100, 0), *asked(200, 2, index=2))
    assert (figures.counters()["in_flight"], figures.counters()["oldest"]) == (2, 100)
    count(figures, *answered(300, 0))
    assert (figures.counters()["in_flight"], figures.counters()["oldest"]) == (1, 200)
    areas = {"descriptor_area": 0, "driver_area": 0, "device_area": 0, "features": 0}
    count(figures, Event(400, "driver", "queue", 0, size=8, position=70, **areas))
    assert (figures.counters()["in_flight"], figures.counters()["oldest"]) == (0, 0)
    count(figures, *asked(500, 0, index=71), *answered(600, 0, index=68))  # one of before
    assert figures.counters()["answered"] == 2


def test_a_worker_that_follows_counts_on_and_makes_up_for_what_its_predecessor_could_not_count():
    memory = Figures()
    count(memory.of_queue(0), *asked(100), *asked(150, 2, index=2))
    count(memory.of_queue(0), *asked(300, 4, index=3), *answered(400, 4, index=3))  # two were answered and not counted
    counters = memory.of_queue(0).counters()
    assert [counters[name] for name in ("asked", "answered", "in_flight", "oldest")] == [3, 3, 0, 0]


def test_a_driver_that_names_one_head_again_and_again_fills_no_memory():
    figures = Figures().of_queue(0)
    for number in range(3 * MOST_IN_FLIGHT):
        count(figures, *asked(number, index=number))
    assert figures.counters()["asked"] == 3 * MOST_IN_FLIGHT
    assert len(figures._asked) <= MOST_IN_FLIGHT
    assert sum(map(len, figures._matching._asked.values())) <= MOST_IN_FLIGHT
    count(figures, *answered(10**6))


def test_percentiles_are_those_of_the_requests(rng: random.Random):
    latencies = sorted(rng.randrange(1000, 10**8) for _ in range(5000))
    counts = [0] * 256
    for latency in latencies:
        counts[latency_class(latency)] += 1
    for percent in (50, 90, 99):
        expected = latencies[len(latencies) * percent // 100]
        assert percentile(counts, percent) == pytest.approx(expected, rel=0.15)
    assert percentile([0] * 256, 50) is None


def test_rates_are_of_the_last_samples():
    rates = Rates()
    assert rates.values()["history"] == []
    counters = dict.fromkeys(("asked", "answered", "read", "written", "kicks", "interrupts"), 0)
    latencies = [0] * 256
    for second in range(200):
        fast = second > 100
        counters = {name: value + (50 if fast else 1) for name, value in counters.items()}
        latencies = [value + (1 if place == (40 if fast else 80) else 0) for place, value in enumerate(latencies)]
        rates.sample(float(second), counters, latencies)
    values = rates.values()
    assert values["rates"] == dict.fromkeys(values["rates"], 50.0)
    assert values["latency"] == dict.fromkeys(("p50", "p90", "p99", "max"), latency_of(40))
    assert values["history"] == [50.0] * HISTORY
    assert len(rates._samples) == WINDOW + 1


# What is known beside it.


def test_features_connections_and_stops_are_known():
    state = DeviceState()
    state.take(Event(1, "device", "device", name="It\n", id=2, features=1 << 32, sizes=[8], config="00ff"))
    state.take(Event(2, "front-end", "connected", connection=1))
    features = m.Number(1 << 32 | 1).pack()
    state.take(message(3, "front-end", m.Request.SET_FEATURES, 1, features, 0))
    areas = {"descriptor_area": 0, "driver_area": 0, "device_area": 0}
    state.take(Event(4, "driver", "queue", 0, size=8, **areas, features=1 << 32 | 1, position=0))
    values = state.values()
    assert values["features"] == [[0, "of the device type"], [32, "VERSION_1"]]
    assert values["device"]["name"] == "It\\x0a"
    assert state.queues[0]["runs"]
    state.take(message(5, "back-end", m.Request.GET_VRING_BASE, 5, m.VringState(0, 7).pack(), 0))
    assert not state.queues[0]["runs"]
    state.take(Event(6, "device", "config", config="01ff"))
    state.take(Event(7, "recorder", "disconnected", connection=1, why="gone"))
    assert (state.values()["config"], state.values()["connection"]["is_open"]) == ("01ff", False)


def test_messages_that_make_no_sense_and_many_of_them_do_no_harm(rng: random.Random):
    state = DeviceState()
    for number in range(5 * LAST):
        payload = rng.randbytes(rng.randrange(20))
        state.take(message(number, "front-end", rng.randrange(50), rng.randrange(16), payload, 0))
        state.take(Event(number, "recorder", "log", name="worker-ended", text=f"\x1b[2J{number}"))
    values = state.values()
    assert (len(values["messages"]), len(values["log"]), values["restarts"]) == (LAST, LAST, 5 * LAST)
    assert values["log"][0]["text"] == f"\\x1b[2J{5 * LAST - 1}"
    json.dumps(values)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)
    os.close(reading)


def test_what_does_not_fit_into_the_pipe_is_lost_counted_and_never_waited_for(pipe: tuple[int, int]):
    reading, writing = pipe
    feed = Feed(Figures(), writing)
    for number in range(10_000):
        feed.note("recorder", "log", name="x", text=f"{number}")
    data = os.read(reading, 1 << 20)
    lines = [json.loads(line) for line in data.splitlines()]
    assert [line["text"] for line in lines] == [str(number) for number in range(len(lines))]
    feed.note("recorder", "log", name="x", text="later")
    lost, later = [json.loads(line) for line in os.read(reading, 1 << 20).splitlines()]
    assert (lost["what"], lost["count"], later["text"]) == ("missed", 10_000 - len(lines), "later")
    feed.note("recorder", "log", name="x", text="y" * 100_000)
    assert len(json.loads(os.read(reading, 1 << 20))["text"]) == 1024
    feed.note("device", "device", name="x", id=1, features=0, sizes=[1] * 10_000, config="")
    feed.note("recorder", "log", name="x", text="after what is too long")
    assert len(os.read(reading, 1 << 20).splitlines()) == 2
    feed.close()


def test_a_feed_that_nobody_reads_any_more_says_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    feed = Feed(Figures(), writing)
    feed.note("recorder", "log", name="x", text="y")
    feed.close()
    os.close(writing)


# Who may see it.


def address_of(server: ServerProcess) -> tuple[int, str]:
    """Return the port and the path of the page."""
    line = server.wait_for("[watch-ready]")
    (port, path) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\S+/)", line)[0]
    return int(port), path


def get(port: int, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    """Ask for something; headers have - for _."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def values(server: ServerProcess) -> dict[str, Any]:
    """Return what the page shows now."""
    port, path = address_of(server)
    response = get(port, f"{path}state")
    assert response.status == 200
    found: dict[str, Any] = json.loads(response.body)  # type: ignore[attr-defined]
    return found


def first_queue(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(values(server)["queues"]), {})
    return found


def test_only_who_names_the_token_and_this_host_sees_anything_and_nobody_changes_it():
    with served("factorial", "--watch") as server:
        port, path = address_of(server)
        assert get(port, path).status == get(port, f"{path}state", Host=f"localhost:{port}").status == 200
        token = path.strip("/")
        assert len(token) >= 32
        refused = [
            get(port, "/"),
            get(port, "/state"),
            get(port, f"/{token[:-1]}/"),
            get(port, f"/{token}x/state"),
            get(port, f"/{token}"),
            get(port, "//"),
            get(port, path, Host="evil.example"),
            get(port, path, Host="127.0.0.1"),
            get(port, path, Host=f"127.0.0.1.evil.example:{port}"),
            get(port, f"{path}state", Origin="http://evil.example"),
            get(port, f"{path}state", Origin="null"),
            get(port, f"{path}state", Origin=f"http://127.0.0.1:{port + 1}"),
            get(port, path, "POST", Host="evil.example"),
        ]
        assert [response.status for response in refused] == [403] * len(refused)
        assert not [response for response in refused if token in response.body.decode()]  # type: ignore[attr-defined]
        for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert get(port, path, method).status == 405
        assert get(port, f"{path}other").status == get(port, f"{path}../").status == 404
        response = get(port, path)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in response.headers
        assert server.lines(token) == 1
        for pid in (server.keeper, *server.workers()):
            assert token not in Path(f"/proc/{pid}/cmdline").read_text()
            assert token not in Path(f"/proc/{pid}/environ").read_text(errors="replace")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), timeout=5)  # an address of this machine, and not that one


def test_two_names_of_the_host_and_half_a_request_are_refused():
    with served("factorial", "--watch") as server:
        port, path = address_of(server)
        for request in (
            f"GET {path} HTTP/1.0\r\n\r\n",
            f"GET {path}\r\n\r\n",
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil\r\n\r\n",
            "GARBAGE\r\n\r\n",
            f"GET {path} HTTP/1.1\r\n" + "X: y\r\n" * 1000 + "\r\n",
            f"GET /{'x' * 100_000} HTTP/1.1\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                sock.sendall(request.encode())
                answer = b""
                while data := _received(sock):
                    answer += data
                assert b"200 OK" not in answer
                assert b"queues" not in answer
        assert get(port, path).status == 200


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 16)
    except ConnectionError:
        return b""


def test_a_port_that_is_taken_or_is_none_is_an_error_that_says_so(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "pyvirtio", "serve", "factorial", "--socket", str(tmp_path / "s"), "--watch"]
        done = subprocess.run([*command, str(taken.getsockname()[1])], check=False, capture_output=True, text=True)
        assert (done.returncode, "in use" in done.stderr) == (1, True)
    done = subprocess.run([*command, "99999"], check=False, capture_output=True, text=True)
    assert (done.returncode, "99999" in done.stderr) == (1, True)
    done = subprocess.run([*command, "many"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    with pytest.raises(LocalError), watching(1 << 20):
        pass


# What happens to the device meanwhile.


def test_what_a_driver_does_is_shown_and_recorded_too(tmp_path: Path):
    file = tmp_path / "run.jsonl"
    with served("factorial", "--watch", "0", "--trace", str(file)) as server:
        with open_driver(FactorialDriver, f"vhost-user:{server.path}") as driver:
            assert [driver.factorial(n) for n in (5, 6)] == [120, 720]
            until(lambda: first_queue(server).get("answered") == 2)
            state = values(server)
            assert state["connection"] == {"number": 1, "is_open": True, "at": state["connection"]["at"]}
            assert [32, "VERSION_1"] in state["features"]
            assert (state["device"]["id"], len(state["config"])) == (45, 32)
            assert [one["asked"][:8] for one in state["requests"]] == ["06000000", "05000000"]
            assert first_queue(server)["runs"]
        until(lambda: not values(server)["connection"]["is_open"])
        with open_driver(FactorialDriver, f"vhost-user:{server.path}") as driver:
            assert driver.factorial(7) == 5040
            until(lambda: first_queue(server).get("answered") == 3)
            assert values(server)["connection"]["number"] == 2
    found = requests(load(str(file)).events)
    assert [int.from_bytes(request.data[:4], "little") for request in found] == [5, 6, 7]
    logged = [event["name"] for event in load(str(file)).events if event.what == "log"]
    assert logged.count("connected") == logged.count("disconnected") == 2


def test_workers_that_die_are_counted_and_the_figures_go_on():
    with served(odd(), "--watch") as server, driven(server) as queue:
        assert ask(queue, 1, CRASH, 2) == [2, None, 4]
        _, worker = server.workers()
        os.kill(worker, signal.SIGKILL)
        assert ask(queue, 3) == [6]
        until(lambda: values(server)["restarts"] == 4 and first_queue(server)["answered"] == 4)
        state = values(server)
        assert state["queues"][0]["in_flight"] == 0
        assert [line["name"] for line in state["log"]].count("worker-ended") == 4
        assert "SIGKILL" in state["log"][0]["text"]
        assert state["failures"] >= 1


def test_a_reload_and_several_workers_are_seen(tmp_path: Path):
    device = tmp_path / "mine.py"
    text = (
        "from pyvirtio import Device, Queue, Struct, le32\n"
        "class Number(Struct):\n    value: int = le32()\n"
        "class Mine(Device):\n    device_id = 63\n    one = Queue(Number, Number, size=64)\n"
        "    other = Queue(Number, Number, size=64)\n"
        "    @one.each\n    def answer(self, request):\n        return {0} * request.value\n"
        "    @other.each\n    def answer_too(self, request):\n        return {0} * request.value\n"
    )
    device.write_text(text.format(2))
    with served(f"{device}:Mine", "--reload", "--workers", "2", "--watch") as server:
        for index, number in ((0, 20), (1, 30)):
            with driven(server, index=index) as queue:
                assert ask(queue, number) == [2 * number]
        device.write_text(text.format(3))
        until(lambda: values(server)["reloads"] == 2)
        with driven(server, index=1) as queue:
            assert ask(queue, 5) == [15]
            until(lambda: [one["answered"] for one in values(server)["queues"]] == [1, 2])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_page_whose_process_is_gone_or_stands_still_harms_nobody(number: signal.Signals):
    with served("factorial", "--watch") as server:
        watcher, _ = server.workers()
        os.kill(watcher, number)
        for _ in range(3):
            with open_driver(FactorialDriver, f"vhost-user:{server.path}") as driver:
                assert list(driver.factorials([5] * 300)) == [120] * 300


def test_the_page_ends_with_the_keeper_however_that_ends():
    with served("factorial", "--watch") as server:
        port, path = address_of(server)
        watcher, worker = server.workers()
        server.end(signal.SIGKILL)
        until(lambda: not is_running(watcher) and not is_running(worker))
        with pytest.raises(ConnectionRefusedError):
            get(port, path)


@pytest.mark.long
def test_tabs_that_never_read_or_ask_take_turns_from_each_other_alone():
    with served("factorial", "--watch") as server:
        port, path = address_of(server)
        idle = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(100)]
        for sock in idle[::2]:
            sock.sendall(f"GET {path}state HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode())
        with open_driver(FactorialDriver, f"vhost-user:{server.path}") as driver:
            assert driver.factorial(5) == 120

        def is_answered() -> bool:
            try:
                return get(port, path).status == 200
            except (ConnectionError, http.client.HTTPException):
                return False

        until(is_answered)  # as soon as the patience with the first ones is over
        watcher, _ = server.workers()
        assert len(os.listdir(f"/proc/{watcher}/task")) < 50
        for sock in idle:
            sock.close()


def test_without_the_option_nothing_of_it_is_there():
    with served("factorial") as server:
        assert len(server.workers()) == 1
        assert server.lines("watch") == 0
    program = (
        "import sys; import pyvirtio.cli.serve, pyvirtio.host.serve; "
        "print([name for name in sys.modules if name.startswith(('pyvirtio.trace', 'http'))])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"


# In a browser.


@pytest.mark.guest
@pytest.mark.long
def test_a_browser_shows_the_device_as_it_runs(window: Browser):
    with served(odd(), "--watch") as server, driven(server) as queue:
        port, path = address_of(server)
        window.open(f"http://127.0.0.1:{port}{path}")
        window.wait_for("#name", "Odd")
        window.wait_for("#status", "A front-end is connected (connection 1).")
        assert ask(queue, *range(10)) == [2 * number for number in range(10)]
        window.wait_for("#requests tbody", "09 00 00 00")
        assert "runs, 64" in window.text("#queues tbody tr")
        window.wait(lambda: figure(window, "answered in all") == "10")
        assert "VERSION_1" in window.text("#features")
        _, worker = server.workers()
        os.kill(worker, signal.SIGKILL)
        window.wait(lambda: figure(window, "workers ended") == "1")
        assert "SIGKILL" in window.text("#log")
        window.click("#pause")
        assert ask(queue, 11) == [22]
        window.click("#pause")
        window.wait(lambda: figure(window, "answered in all") == "11")
        for _ in range(8):  # more than a browser has connections to one host
            window.driver.switch_to.new_window("tab")
            window.open(f"http://127.0.0.1:{port}{path}")
            window.wait(lambda: figure(window, "answered in all") == "11")
        for scheme in ("light", "dark"):
            window.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
            window.wait_for("#theme", "Dark" if scheme == "light" else "Light")
            assert window.run(CONTRAST) == []
        window.resize(360, 740)
        assert window.run("return document.documentElement.scrollWidth") <= 360
        nodes = window.accessible()
        named = {role: [node["name"] for node in nodes if node["role"] == role] for role in {n["role"] for n in nodes}}
        assert {"Queues", "Last requests", "Log", "Messages"} <= set(named["region"])
        assert {"p50", "p99", "in flight"} <= set(named["columnheader"])
        assert len(named["status"]) == 1
        assert window.complaints() == []
        server.end()
        window.wait_for("#status", "No answer")
        assert [line for line in window.complaints() if "ERR_CONNECTION_REFUSED" not in line] == []


HOSTILE = '</script><script>window.pwned = 1</script><img src="x" onerror="window.pwned = 1">\u2028'


@pytest.mark.guest
@pytest.mark.long
def test_whatever_is_told_is_shown_and_never_obeyed(window: Browser):
    with watching(0) as (feed, address):
        feed.note("device", "device", name=HOSTILE, id=2, features=1 << 63, sizes=[8], config="")
        feed.note("recorder", "log", name=HOSTILE, text=HOSTILE)
        feed.note(HOSTILE, "message", request=1, name=HOSTILE, flags=1, payload="", fds=0)
        feed.note("driver", "damaged", 0, error=HOSTILE)
        for queue in (0, 1 << 20, -1):  # a queue that cannot be is not shown
            feed.note("driver", "queue", queue, **dict.fromkeys(AREAS, 0))
        for number in range(3):
            feed.record(asked(number, data=HOSTILE.encode(), index=number + 1))
            feed.record(answered(number, data=HOSTILE.encode(), index=number + 1))
        window.open(address)
        window.wait_for("#name", HOSTILE.rstrip("\u2028"))
        for place in ("#log", "#messages"):
            window.wait_for(place, "<script>window.pwned")
        assert window.run("return [window.pwned ?? null, document.images.length, document.scripts.length]") == [
            None,
            0,
            2,
        ]
        assert window.complaints() == []


@pytest.mark.guest
@pytest.mark.long
def test_a_real_guest_is_seen_while_it_runs_and_in_its_recording(window: Browser, tmp_path: Path, rng: random.Random):
    image, file = tmp_path / "disk.img", tmp_path / "run.jsonl"
    image.write_bytes(rng.randbytes(1 << 20))
    with served(f"block,path={image}", "--watch", "--trace", str(file)) as server:
        port, path = address_of(server)
        window.open(f"http://127.0.0.1:{port}{path}")
        window.wait_for("#status", "No front-end")
        disk = VhostUserDevice(Path(server.path), id=2, queues=1, size=128, config_size=60)
        with guest(disk) as machine, unremarkable(machine):
            assert machine.run("printf seen | dd of=/dev/vda bs=512 seek=9 conv=notrunc,fsync").returncode == 0
            window.wait_for("#status", "A front-end is connected")
            window.wait_for("#requests tbody", "01 00 00 00 ")  # a write
            window.wait_for("#queues tbody", "runs, 128")
            machine.stop()
            window.wait_for("#queues tbody", "stopped")
            machine.cont()
            window.wait_for("#queues tbody", "runs")
            _, worker = server.workers()
            os.kill(worker, signal.SIGKILL)
            before = first_queue(server)["answered"]
            assert machine.run("dd if=/dev/vda of=/dev/null bs=4096 count=64 iflag=direct").returncode == 0
            until(lambda: first_queue(server)["answered"] >= before + 64)
            window.wait(lambda: figure(window, "workers ended") == "1")
        window.wait_for("#status", "The front-end is gone")
        assert {"VERSION_1", "EVENT_IDX"} <= {name for _, name in values(server)["features"]}
    page = tmp_path / "run.html"
    page.write_bytes(player(load(str(file))))
    window.open(page.as_uri())
    window.wait_for("#facts", "requests")
    window.run("goToRequest(1)")
    window.wait_for("#request-title", "Request 1 of ")
    assert "block device" in window.driver.title
    assert [line for line in window.complaints() if "ERR_CONNECTION_REFUSED" not in line] == []


def figure(window: Browser, name: str) -> str:
    """Return one of the figures at a glance."""
    chosen = "[...document.querySelectorAll('.figure')].find((one) => one.firstChild.textContent === arguments[0])"
    return str(window.run(f"return {chosen}?.lastChild.textContent", name))


def test_feature_bits_of_rings_have_names():
    state = DeviceState()
    assert state.values()["offered"] == []
    state.take(Event(1, "device", "device", name="It", id=2, features=sum(Feature), sizes=[8], config=""))
    assert {name for _, name in state.values()["offered"]} == {str(bit.name) for bit in Feature}
