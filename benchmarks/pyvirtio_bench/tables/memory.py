"""What keeper and worker have resident, and that it does not grow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyvirtio_bench import storage
from pyvirtio_bench.page import Table
from pyvirtio_bench.storage import make_image
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from typing import Any

    from pyvirtio_bench.bench import Bench
    from pyvirtio_bench.runs import Runnable
    from pyvirtio_bench.workload import Memory

WARM_UP = 100_000
NOISE = 256  # KiB; less is not growth
HEADER = ("back-end, device", "process", "more requests", "before", "after", "growth")


def measure(bench: Bench) -> list[Table]:
    """Run many requests through each back-end, and look at the memory of its processes before and after."""
    rows: list[list[str]] = []
    data: list[dict[str, Any]] = []
    once = replace(bench.runner, schedule=replace(bench.runner.schedule, repetitions=1))

    def run(device: str, backends: list[Runnable], load: Workload, requests: int) -> None:
        load = replace(load, sustained=True, seconds=0, requests=requests, warm_up=WARM_UP, indirect=True)
        results = once.interleaved(f"memory, {device}", backends, [load])
        data.extend(results.as_data())
        for backend in backends:
            [sample] = results.of(backend.name, load)
            names = ("keeper", "worker") if len(sample.memory) > 1 else ("",)
            rows.extend(
                [f"{backend.name}, {device}", name, f"{requests:,}", *_cells(process)]
                for name, process in zip(names, sample.memory, strict=False)
            )

    small, frame = Workload(128), Workload(128, load="echo", size=1512)
    ours = bench.measured(bench.pyvirtio("pyvirtio", "factorial"))
    run("factorial", [*bench.peer("factorial"), *ours], small, bench.requests)
    if bench.given is None:
        run("echo", [*bench.pyvirtio("pyvirtio", "echo")], frame, bench.requests)
        with make_image(bench.images) as image:
            read = Workload(128, load="read", size=4096, span=storage.IMAGE_SIZE)
            disk = bench.pyvirtio("pyvirtio", f"block,path={image},readonly")
            run("block", [*disk], read, bench.requests // 10)  # a read takes ten times as long
    title = f"Resident memory without what is shared with the driver, MiB, after {WARM_UP:,} requests and after more"
    return [Table("memory", title, HEADER, rows, data)]


def _cells(process: Memory) -> list[str]:
    growth = process.after - process.before
    sizes = [f"{kibibytes / 1024:.1f}" for kibibytes in (process.before, process.after)]
    return [*sizes, f"{growth} KiB" if growth > NOISE else "none"]
