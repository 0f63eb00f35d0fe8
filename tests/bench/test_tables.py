"""Every table can be measured, in a fraction of a second, and comes out as rows and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio.cli import main
from pyvirtio.errors import ProvisionError
from pyvirtio.ring.engine import obstacle
from pyvirtio_bench import storage, suite
from pyvirtio_bench.picture import figures
from pyvirtio_bench.programs import Programs
from pyvirtio_bench.runs import Schedule
from pyvirtio_bench.tables import (
    block,
    boot,
    console,
    echo,
    factorial,
    fio,
    flatness,
    guest,
    memory,
    net,
    start,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.vm.launch import GuestBuilder
    from pyvirtio_bench.backends import Backend
    from pyvirtio_bench.bench import Bench
    from pyvirtio_bench.page import Table
    from pyvirtio_bench.workload import CFrontend


@pytest.fixture
def small_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "IMAGE_SIZE", 8 << 20)


def goals_of(table: Table) -> list[float]:
    """Return the goals of a table, each of which has a figure."""
    return [figure.goal for figure in figures({table.name: [table.header, *table.rows]})]


@pytest.mark.long
def test_the_factorial(bench: Bench, peer_program: Path):
    ratios, times = factorial.measure(bench)
    measured = [row[0] for row in times.rows]
    assert measured[:2] == ["libvhost-user", "pyvirtio"]
    assert not any("-" in row[1:] for row in times.rows)
    numpy_goals = factorial.NUMPY_GOALS.values() if factorial.NUMPY in measured else ()
    assert goals_of(ratios) == [*factorial.GOALS.values(), *numpy_goals]
    assert len(times.data) == len(measured) * 5 * bench.runner.schedule.repetitions
    json.dumps(times.as_dict())


def test_the_echo(bench: Bench, peer_program: Path):
    ratios, times = echo.measure(bench)
    assert goals_of(ratios) == list(echo.GOALS.values())
    assert [row[0] for row in times.rows] == ["libvhost-user", "pyvirtio"]


@pytest.mark.long
def test_the_disk(bench: Bench, peer_program: Path, small_image: None):
    ratios, times = block.measure_cached(bench)
    assert {"pyvirtio", "libvhost-user, preadv"} <= {row[0] for row in times.rows}
    daemons = [row[0] for row in times.rows if row[0].startswith("storage daemon")]
    if len(daemons) < 3:
        pytest.skip(f"the storage daemon is out of reach here: {bench.missing}")
    assert goals_of(ratios) == [*block.CACHED_GOALS.values(), *block.DEFAULT_GOALS.values()]


def test_the_disk_past_the_page_cache(bench: Bench, small_image: None):
    ratios, times = block.measure_direct(bench)
    if len(times.rows) < 4:
        pytest.skip(f"the storage daemon is out of reach here: {bench.missing}")
    assert goals_of(ratios) == [*block.DIRECT_GOALS.values(), *block.DIRECT_PROCESSOR_GOALS.values()]


@pytest.mark.long
def test_queue_sizes_and_regions(bench: Bench):
    sizes, regions = flatness.measure(replace(bench, runner=replace(bench.runner, schedule=Schedule(0.01, 1))))
    assert sizes.header[1:] == ["1024", "8192", "32768"]
    assert all(min(measured["ns"]) > 0 for measured in sizes.data)
    assert regions.header[1:] == ["2", "8", "32", "256"]
    assert {row[-1] for row in regions.rows if row[0] == "libvhost-user"} <= {"-"}, "it takes 32 at most"


@pytest.mark.skipif(obstacle() is not None, reason="operations are the native engine's")
def test_waiting_and_kicks(bench: Bench):
    times, kicks = waiting.measure(bench)
    assert len(times.rows) == len(waiting.ROWS)
    assert all(int(cell) > 0 for row in times.rows for cell in row[2::2])
    assert kicks.rows[0][2].startswith("1.00")
    json.dumps([times.as_dict(), kicks.as_dict()])


def test_memory(bench: Bench, peer_program: Path, small_image: None):
    [table] = memory.measure(bench)
    assert [row[1] for row in table.rows] == ["", *3 * ["keeper", "worker"]]
    assert all(float(row[3]) > 0 for row in table.rows)
    assert [row[2] for row in table.rows[::3]] == ["1,000", "1,000", "100"]


def test_start(bench: Bench):
    [table] = start.measure(replace(bench, runner=replace(bench.runner, schedule=Schedule(0, 1))))
    assert [row[0] for row in table.rows] == ["clock", "processor"]


@pytest.mark.guest
def test_boot(bench: Bench):
    [table] = boot.measure(replace(bench, runner=replace(bench.runner, schedule=Schedule(0, 1))))
    [measured] = table.data
    assert min(*measured["power_off_s"], *measured["first_answer_s"]) > 0


@pytest.mark.guest
def test_guest(bench: Bench):
    [table] = guest.measure(replace(bench, runner=replace(bench.runner, schedule=Schedule(0.05, 1))))
    assert [row[1] for row in table.rows] == ["1", "4"] * (len(table.rows) // 2)
    assert all(min(float(row[3]), float(row[4])) > 0 for row in table.rows)


@pytest.mark.guest
def test_the_network(bench: Bench):
    [table] = net.measure(replace(bench, runner=replace(bench.runner, schedule=Schedule(0.25, 1))))
    assert goals_of(table) == list(net.GOALS.values())
    assert [row[-1] for row in table.rows if row[-1]] == [*3 * ["QEMU"], "user-mode Linux"]
    assert all(float(row[3]) > 0 for row in table.rows if row[3])


@pytest.mark.guest
def test_a_serial_port(bench: Bench):
    [table] = console.measure(bench)
    assert [row[0] for row in table.rows][2:] == list(console.TITLES.values())
    assert all(value > 0 for entry in table.data for value in entry["seconds"])


@pytest.mark.guest
def test_fio(bench: Bench, small_image: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fio, "MACHINES", fio.MACHINES[-1:])
    [table] = fio.measure(bench)
    assert {row[1] for row in table.rows} > {fio.OURS, fio.MACHINES[0].own}
    assert all(value > 0 for entry in table.data for value in entry["seconds"])


def test_other_lines_of_the_guest_do_not_matter():
    assert list(guest.parse(["", "guest-workload", "x guest-workload: 0 a b 1 2 3"])) == []


@pytest.mark.long
def test_a_given_socket_is_measured(
    frontend: CFrontend, ours: Callable[..., Backend], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with ours("echo").running(tmp_path) as socket:
        assert main(["bench", "echo", "--quick", "--json", "--socket", str(socket)]) == 0
    found = json.loads(capfd.readouterr().out)
    assert "the given back-end" in {row[0] for row in found["tables"]["echo-times"]["rows"]}
    assert "profile-guided optimisation" in found["settings"]["Python"]


def test_a_daemon_that_does_not_start_is_left_out(monkeypatch: pytest.MonkeyPatch, bench: Bench, tmp_path: Path):
    monkeypatch.setattr(storage.Release, "program", lambda *_: Path("/bin/false"))
    assert bench.daemons(tmp_path, direct=False) == {}
    assert all("does not start" in text for text in bench.missing)
    assert len(bench.missing) == len(storage.VARIANTS)


def test_without_the_library_there_are_no_ratios(monkeypatch: pytest.MonkeyPatch, bench: Bench, builder: GuestBuilder):
    def none(_self: Programs) -> Path:
        raise ProvisionError("no sources today")

    monkeypatch.setattr(Programs, "backend", none)
    ratios, times = echo.measure(bench)
    assert (ratios.rows, [row[0] for row in times.rows]) == ([], ["pyvirtio"])
    assert "no sources today" in bench.missing[0]


def test_without_a_compiler_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, builder: GuestBuilder):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ProvisionError, match="install gcc"):
        suite.run(suite.Options(), builder)


def test_what_measures_each_table_can_be_imported():
    for name, place in suite.TABLES.items():
        module, function = place.split(":")
        found = import_module(f"pyvirtio_bench.tables.{module}")
        assert callable(getattr(found, function)), name
