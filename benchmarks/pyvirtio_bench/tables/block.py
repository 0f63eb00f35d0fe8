"""How long a disk takes to read: the shipped block device against QEMU's storage daemon, and against C with preadv."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pyvirtio_bench import storage
from pyvirtio_bench.compare import Comparison, ratios, times
from pyvirtio_bench.storage import make_image
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyvirtio_bench.backends import Backend
    from pyvirtio_bench.bench import Bench
    from pyvirtio_bench.page import Table

OURS, C_DISK = "pyvirtio", "libvhost-user, preadv"
QUEUE_SIZE = 256  # and indirect descriptors, as Linux's driver uses a disk's queue
SMALL, LARGE = 4 << 10, 128 << 10
CACHED_GOALS = {"4 KiB, 32 kept": 0.55, "4 KiB, 128 kept": 0.5, "128 KiB, one": 0.9, "128 KiB, 32 kept": 0.9}
DEFAULT_GOALS = {"4 KiB, 32 kept": 0.3, "4 KiB, 128 kept": 0.3}
DIRECT_GOALS = {"32 kept": 1.15, "128 kept": 1.05}
DIRECT_PROCESSOR_GOALS = {"32 kept": 0.8, "128 kept": 0.8}


def measure_cached(bench: Bench) -> list[Table]:
    """Read what is in the page cache: in random order, and in large pieces one after the other."""
    small = _reads(bench, SMALL)
    large = _reads(bench, LARGE, sequential=True)
    columns = {
        "4 KiB, one": small(1, sustained=False),
        "4 KiB, 32 kept": small(32, sustained=True),
        "4 KiB, 128 kept": small(128, sustained=True),
        "128 KiB, one": large(1, sustained=False),
        "128 KiB, 32 kept": large(32, sustained=True),
    }
    with make_image(bench.images) as image:
        daemons = bench.daemons(image, direct=False)
        ours = bench.pyvirtio(OURS, f"block,path={image},readonly")
        backends = [*daemons.values(), *bench.peer("block", str(image), name=C_DISK), *ours]
        results = bench.runner.interleaved("block", backends, list(columns.values()))
    newest, default, older = _names(daemons)
    comparisons = [
        Comparison(OURS, newest, CACHED_GOALS, processor=True),
        Comparison(OURS, default, DEFAULT_GOALS),
        Comparison(C_DISK, newest),
        Comparison(older, newest),
    ]
    return [
        ratios("block", "Reading from the page cache, time per request", columns, comparisons, results),
        times("block-times", "Reading from the page cache", columns, [one.name for one in backends], results),
    ]


def measure_direct(bench: Bench) -> list[Table]:
    """Read from storage that lets one wait: direct I/O, in random order."""
    small = _reads(bench, SMALL)
    columns = {"32 kept": small(32, sustained=True), "128 kept": small(128, sustained=True)}
    with make_image(bench.images) as image:
        daemons = bench.daemons(image, direct=True)
        backends = [*daemons.values(), *bench.pyvirtio(OURS, f"block,path={image},readonly,direct")]
        results = bench.runner.interleaved("direct", backends, list(columns.values()))
    newest, default, older = _names(daemons)
    comparisons = [
        Comparison(OURS, newest, DIRECT_GOALS, processor_goals=DIRECT_PROCESSOR_GOALS),
        Comparison(OURS, default),
        Comparison(older, newest),
    ]
    return [
        ratios(
            "direct", "Reading 4 KiB past the page cache (O_DIRECT), time per request", columns, comparisons, results
        ),
        times("direct-times", "Reading past the page cache", columns, [one.name for one in backends], results),
    ]


def _names(daemons: Mapping[str, Backend]) -> list[str]:
    """Return what the tables call the daemons; a variant that is missing has no samples under its own name."""
    return [daemons[variant].name if variant in daemons else variant for variant in storage.VARIANTS]


def _reads(bench: Bench, size: int, *, sequential: bool = False) -> Callable[..., Workload]:
    return partial(
        Workload,
        load="read",
        size=size,
        span=storage.IMAGE_SIZE,
        sequential=sequential,
        seconds=bench.runner.schedule.seconds,
        queue_size=QUEUE_SIZE,
        indirect=True,
    )
