"""Runs by turns: who comes when, on which processor, and what is made of the samples."""

from __future__ import annotations

import os
from pathlib import Path

from pyvirtio_bench.processes import split_cpus
from pyvirtio_bench.runs import Results, Runner, Schedule, clock, processor
from pyvirtio_bench.workload import Sample, Workload

SAMPLE = Sample(1, 1.0, None, 1.0, 1.0, 1.0)


class Running:
    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __enter__(self) -> Path:
        return self._socket

    def __exit__(self, *_: object) -> None:
        pass


class Silent:
    def __init__(self, name: str) -> None:
        self.name = name

    def running(self, folder: Path) -> Running:
        return Running(Path(self.name))


def test_turns_rotate_and_what_is_not_applicable_is_left_out():
    order = []

    class Recorder:
        def measure(self, socket: Path, workload: Workload) -> Sample:
            order.append(str(socket))
            return SAMPLE

    runner = Runner(Recorder(), Schedule(0, 2))
    results = runner.interleaved("x", [Silent("a"), Silent("b")], [Workload()])
    assert order == ["a", "b", "b", "a"]
    assert results.quartiles(("a", Workload()), processor) is None
    results = runner.interleaved(
        "x", [Silent("a"), Silent("b")], [Workload()], applicable=lambda one, _: one.name == "b"
    )
    assert results.ratio(("a", Workload()), ("b", Workload()), clock) is None


def test_without_samples_there_are_no_quartiles():
    assert Results().quartiles(("a", Workload()), clock) is None


def test_a_single_request_is_measured_by_its_median_latency():
    sample = Sample(10, wall=3.0, cpu=2.0, p50=1.0, p99=9.0, frontend=1.0)
    assert (clock(sample, Workload()), clock(sample, Workload(32))) == (1.0, 3.0)
    assert processor(sample, Workload()) == 2.0


def test_frontend_and_backends_have_their_own_processors():
    seen = {}

    class Back:
        name = "back"

        def running(self, _folder: Path) -> Running:
            seen["back"] = os.sched_getaffinity(0)
            return Running(Path("back"))

    class Front:
        def measure(self, _socket: Path, _load: Workload) -> Sample:
            seen["front"] = os.sched_getaffinity(0)
            return SAMPLE

    everywhere = os.sched_getaffinity(0)
    Runner(Front(), Schedule(0, 1)).interleaved("x", [Back()], [Workload()])
    assert (seen["front"], seen["back"]) == split_cpus()
    assert seen["front"] != seen["back"] or len(everywhere) == 1
    assert os.sched_getaffinity(0) == everywhere
