"""Every table can be measured, in a fraction of a second, and comes out as rows and as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from pyvirtio.cli import main
from pyvirtio.vm.launch import GuestBuilder
from pyvirtio_bench import suite
from pyvirtio_bench.backends import device_spec, pyvirtio_backend
from pyvirtio_bench.engines import TITLES, engines
from pyvirtio_bench.processes import processor_time, split_cpus, tree
from pyvirtio_bench.provision import cache
from pyvirtio_bench.python_frontend import PythonFrontend
from pyvirtio_bench.runs import Bench, Results, Schedule
from pyvirtio_bench.tables import asynchronous, boot, exact, flatness, guest, memory, requests, ring, start, workers
from pyvirtio_bench.workload import CFrontend, Sample, Workload

if TYPE_CHECKING:
    from pyvirtio_bench.programs import Programs

SHORT = Schedule(seconds=0.02, repetitions=2)


@pytest.fixture
def bench(frontend: CFrontend, peer_program: Path) -> Bench:
    return Bench(frontend, peer_program, SHORT)


@pytest.mark.long
def test_requests(bench: Bench):
    tables = requests.measure(bench)
    kinds = [f"{name}{metric}" for name in ("requests", "rounds") for metric in ("", "-cpu", "-absolute")]
    assert [table.name for table in tables] == kinds
    for columns, (ratios, _, absolute) in ((5, tables[:3]), (4, tables[3:])):
        assert len(absolute.rows) == len(ratios.rows) + 2, "the peer and the front-end itself"
        assert all("-" not in row[1:] for row in ratios.rows)
        assert len(absolute.data) == (len(ratios.rows) + 1) * columns * SHORT.repetitions
        json.dumps(absolute.as_dict())


def test_asynchronous_methods(bench: Bench):
    [table] = asynchronous.measure(bench)
    assert ["-" in row[2::2] for row in table.rows] == [True, False, False], "others are compared with the first"
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in table.rows)


def test_workers(bench: Bench):
    [table] = workers.measure(bench)
    assert len(table.rows) == len(engines()) + 1


def test_flatness_in_queue_sizes_and_regions(bench: Bench):
    sizes, ring_sizes, regions = flatness.measure(Bench(bench.frontend, bench.peer, Schedule(0.01, 1)))
    assert sizes.header[2:] == ["1024"]
    assert ring_sizes.header[1:] == ["1024", "8192", "32768"]
    assert all(min(measured["ns"]) > 0 for measured in ring_sizes.data)
    assert regions.header[2:] == ["2", "8", "32", "256"]
    assert {row[-1] for row in regions.rows if row[0] == "libvhost-user"} == {"-"}


def test_memory(bench: Bench):
    [table] = memory.measure(bench, requests=1000)
    assert [row[1] for row in table.rows[:3]] == ["back-end", "keeper", "worker"]


def test_start(bench: Bench):
    [table] = start.measure(Bench(bench.frontend, None, Schedule(0, 1)))
    assert [row[0] for row in table.rows] == ["clock", "processor"]


def test_exact(bench: Bench):
    [table] = exact.measure(Bench(bench.frontend, None, Schedule(0, 1)))
    assert table.rows[-1][0] == "20000!"


def test_ring():
    [table] = ring.measure(Bench(PythonFrontend(), None, Schedule(0.001, 1)))
    assert table.header[1:] == ["1", "8", "32", "128", "1024"]
    assert {row[0].partition(",")[0] for row in table.rows} == {TITLES[name] for name in engines()}
    assert all(float(cell) > 0 for row in table.rows for cell in row[1:])


@pytest.mark.guest
def test_boot(tmp_path: Path):
    builder = GuestBuilder(cache.Cache(cache.default_root()))
    [table] = boot.measure(Bench(PythonFrontend(), None, Schedule(0, 1)), builder)
    [measured] = table.data
    assert min(*measured["power_off_s"], *measured["first_answer_s"]) > 0


@pytest.mark.guest
def test_guest(frontend: CFrontend, programs: Programs, peer_program: Path):
    options = suite.Options(names=("guest",), schedule=Schedule(0.05, 1))
    report = suite.run(options, GuestBuilder(programs.cache))
    table = report.tables[-1]
    assert [row[1] for row in table.rows] == ["1", "4"] * (len(table.rows) // 2)
    assert all(min(float(row[3]), float(row[4])) > 0 for row in table.rows)


def test_other_lines_of_the_guest_do_not_matter():
    assert list(guest.parse(["", "guest-workload", "x guest-workload: 0 a b 1 2 3"])) == []


@pytest.mark.long
def test_a_given_socket_is_measured(frontend: CFrontend, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with pyvirtio_backend("ours", device_spec("Each"), engine_name="reference").running(tmp_path) as socket:
        assert main(["bench", "requests", "--quick", "--json", "--socket", str(socket)]) == 0
    found = json.loads(capfd.readouterr().out)
    assert "the given back-end" in {row[0] for row in found["tables"]["requests-absolute"]["rows"]}
    assert "processors" in found["settings"]


def test_turns_rotate_and_what_is_not_applicable_is_left_out(tmp_path: Path):
    order = []

    class Silent:
        def __init__(self, name: str) -> None:
            self.name = name

        def running(self, folder: Path) -> _Running:
            return _Running(Path(self.name))

    class Recorder:
        can_sustain: ClassVar[bool] = True

        def measure(self, socket: Path, workload: Workload) -> Sample:
            order.append(str(socket))
            return Sample(1, 1.0, None, 1.0, 1.0, 1.0)

    bench = Bench(Recorder(), schedule=Schedule(0, 2))
    results = bench.interleaved("x", [Silent("a"), Silent("b")], [Workload()])
    assert order == ["a", "b", "b", "a"]
    assert results.quartiles("a", Workload(), lambda sample: sample.cpu) is None
    results = bench.interleaved(
        "x", [Silent("a"), Silent("b")], [Workload()], applicable=lambda one, _: one.name == "b"
    )
    assert results.ratio(("a", Workload()), ("b", Workload()), lambda sample: sample.wall) is None


class _Running:
    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __enter__(self) -> Path:
        return self._socket

    def __exit__(self, *_: object) -> None:
        pass


def test_without_samples_there_are_no_quartiles():
    assert Results().quartiles("a", Workload(), lambda sample: sample.wall) is None


def test_a_process_that_has_ended_uses_nothing():
    assert tree(2**22 + 1) == []
    assert processor_time(2**22 + 1) == 0


def test_frontend_and_backends_have_their_own_processors(tmp_path: Path):
    seen = {}

    class Back:
        name = "back"

        def running(self, _folder: Path) -> _Running:
            seen["back"] = os.sched_getaffinity(0)
            return _Running(Path("back"))

    class Front:
        can_sustain: ClassVar[bool] = True

        def measure(self, _socket: Path, _load: Workload) -> Sample:
            seen["front"] = os.sched_getaffinity(0)
            return Sample(1, 1.0, None, 1.0, 1.0, 1.0)

    everywhere = os.sched_getaffinity(0)
    bench = Bench(Front(), schedule=Schedule(0, 1))
    bench.interleaved("x", [Back()], [Workload()])
    assert (seen["front"], seen["back"]) == split_cpus()
    assert seen["front"] != seen["back"] or len(everywhere) == 1
    bench.interleaved("x", [Back()], [Workload()], share_cpus=True)
    assert seen["front"] == seen["back"] == everywhere == os.sched_getaffinity(0)
