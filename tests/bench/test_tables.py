"""Every table can be measured, in a fraction of a second, and comes out as rows and as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from pyvirtio.bench import suite
from pyvirtio.bench.backends import engines, form, ours
from pyvirtio.bench.load import CFrontend, Load, Sample
from pyvirtio.bench.processes import apart, processor_time, tree
from pyvirtio.bench.runs import Bench, Pace, Results
from pyvirtio.bench.tables import exact, flatness, guest, memory, requests, start, workers
from pyvirtio.cli import main
from pyvirtio.vm.launch import GuestBuilder

if TYPE_CHECKING:
    from pyvirtio.bench.programs import Programs

BRIEF = Pace(seconds=0.02, repetitions=2)


@pytest.fixture
def bench(frontend: CFrontend, peer_program: Path) -> Bench:
    return Bench(frontend, peer_program, BRIEF)


def test_requests(bench: Bench):
    tables = requests.measure(bench)
    kinds = [f"{name}{figure}" for name in ("requests", "rounds") for figure in ("", "-cpu", "-absolute")]
    assert [table.name for table in tables] == kinds
    for columns, (ratios, _, absolute) in ((5, tables[:3]), (4, tables[3:])):
        assert len(absolute.rows) == len(ratios.rows) + 2, "the peer and the front-end itself"
        assert all("-" not in row[1:] for row in ratios.rows)
        assert len(absolute.data) == (len(ratios.rows) + 1) * columns * BRIEF.repetitions
        json.dumps(absolute.as_dict())


def test_workers(bench: Bench):
    [table] = workers.measure(bench)
    assert len(table.rows) == len([name for name in engines() if name != "numpy"]) + 1


def test_flatness_in_queue_sizes_and_regions(bench: Bench):
    sizes, regions = flatness.measure(Bench(bench.frontend, bench.peer, Pace(0.01, 1)))
    assert sizes.header[2:] == ["1024", "8192", "32768"]
    assert regions.header[2:] == ["2", "8", "32", "256"]
    assert {row[-1] for row in regions.rows if row[0] == "libvhost-user"} == {"-"}


def test_memory(bench: Bench):
    [table] = memory.measure(bench, requests=1000)
    assert [row[1] for row in table.rows[:3]] == ["back-end", "keeper", "worker"]


def test_start(bench: Bench):
    [table] = start.measure(Bench(bench.frontend, None, Pace(0, 1)))
    assert [row[0] for row in table.rows] == ["clock", "processor"]


def test_exact(bench: Bench):
    [table] = exact.measure(Bench(bench.frontend, None, Pace(0, 1)))
    assert table.rows[-1][0] == "20000!"


@pytest.mark.guest
def test_guest(frontend: CFrontend, programs: Programs, peer_program: Path):
    wanted = suite.Wanted(names=("guest",), pace=Pace(0.05, 1))
    outcome = suite.run(wanted, GuestBuilder(programs.cache))
    table = outcome.tables[-1]
    assert [row[1] for row in table.rows] == ["1", "4"] * (len(table.rows) // 2)
    assert all(min(float(row[3]), float(row[4])) > 0 for row in table.rows)


def test_other_lines_of_the_guest_do_not_matter():
    assert list(guest.parse(["", "guest-load", "x guest-load: 0 a b 1 2 3"])) == []


def test_a_given_socket_is_measured(frontend: CFrontend, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with ours("ours", form("Each"), engine_name="reference").running(tmp_path) as socket:
        assert main(["bench", "requests", "--quick", "--json", "--socket", str(socket)]) == 0
    found = json.loads(capfd.readouterr().out)
    assert "the given back-end" in {row[0] for row in found["tables"]["requests-absolute"]["rows"]}
    assert "processors" in found["settings"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nonsense"], "there is no table 'nonsense'"),
        (["workers", "--socket", "x"], "there is no table 'workers' to measure; there are requests, memory"),
        (["--guest", "--socket", "x"], "leave out --socket"),
    ],
)
def test_wrong_usage(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_turns_rotate_and_what_does_not_suit_is_left_out(tmp_path: Path):
    order = []

    class Silent:
        def __init__(self, name: str) -> None:
            self.name = name

        def running(self, folder: Path) -> _Running:
            return _Running(Path(self.name))

    class Recorder:
        streams: ClassVar[bool] = True

        def measure(self, socket: Path, load: Load) -> Sample:
            order.append(str(socket))
            return Sample(1, 1.0, None, 1.0, 1.0, 1.0)

    bench = Bench(Recorder(), pace=Pace(0, 2))
    results = bench.interleaved("x", [Silent("a"), Silent("b")], [Load()])
    assert order == ["a", "b", "b", "a"]
    assert results.spread("a", Load(), lambda sample: sample.cpu) is None
    results = bench.interleaved("x", [Silent("a"), Silent("b")], [Load()], suits=lambda one, _load: one.name == "b")
    assert results.ratio(("a", Load()), ("b", Load()), lambda sample: sample.wall) is None


class _Running:
    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __enter__(self) -> Path:
        return self._socket

    def __exit__(self, *_: object) -> None:
        pass


def test_no_results_are_no_figures():
    assert Results().spread("a", Load(), lambda sample: sample.wall) is None


def test_what_a_process_that_is_gone_uses():
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
        streams: ClassVar[bool] = True

        def measure(self, _socket: Path, _load: Load) -> Sample:
            seen["front"] = os.sched_getaffinity(0)
            return Sample(1, 1.0, None, 1.0, 1.0, 1.0)

    everywhere = os.sched_getaffinity(0)
    bench = Bench(Front(), pace=Pace(0, 1))
    bench.interleaved("x", [Back()], [Load()])
    assert (seen["front"], seen["back"]) == apart()
    assert seen["front"] != seen["back"] or len(everywhere) == 1
    bench.interleaved("x", [Back()], [Load()], together=True)
    assert seen["front"] == seen["back"] == everywhere == os.sched_getaffinity(0)
