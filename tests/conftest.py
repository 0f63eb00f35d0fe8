"""What holds for every test: a seed that is printed, nothing left behind, no guest skipped unseen.

Environment:

- `PYVIRTIO_SEED=N` repeats the random choices of an earlier run, which printed N at its top.
- `CI` makes the examples the same in every run.
- `PYVIRTIO_REQUIRE_GUEST=1` turns a skipped guest test into a failure.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support import leaks
from tests.support.engines import engine, mortal_engine, mortal_native  # noqa: F401  # fixtures, for whoever asks
from tests.support.uapi import uapi  # noqa: F401  # the same

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_KINDS = ("process", "fd", "socket", "file")
_SCRATCH = pytest.StashKey[Path]()

hypothesis.settings.register_profile("random", deadline=None, print_blob=True)
hypothesis.settings.register_profile("same", deadline=None, print_blob=True, derandomize=True, database=None)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed once, before xdist starts its workers, which inherit it."""
    fixed = bool(os.environ.get("CI"))
    seed = os.environ.setdefault("PYVIRTIO_SEED", "0" if fixed else str(random.SystemRandom().getrandbits(32)))
    hypothesis.settings.load_profile("same" if fixed else "random")
    if not fixed and config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = seed

    # A folder for temporary files that no other process uses, so that whatever appears in it is the test's.
    # Short, for the path of a Unix socket has only 107 bytes. pytest's own folders stay where they were.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    config.stash[_SCRATCH] = Path(tempfile.mkdtemp(prefix="pv-", dir=os.environ["PYTEST_DEBUG_TEMPROOT"]))
    tempfile.tempdir = os.environ["TMPDIR"] = str(config.stash[_SCRATCH])

    leaks.adopt_orphans()
    leaks.watch_forks()


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through what lives as long as the run, for each test that leaves cycles."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder for temporary files."""
    shutil.rmtree(config.stash[_SCRATCH], ignore_errors=True)


def pytest_report_header() -> str:
    """Print how to repeat this run."""
    return f"random choices: repeat them with PYVIRTIO_SEED={os.environ['PYVIRTIO_SEED']}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Print it again where somebody reads who sees a failure."""
    if exitstatus:
        terminalreporter.write_line(pytest_report_header())


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers for this test: the same ones for the same seed, whatever else runs."""
    return random.Random(f"{os.environ['PYVIRTIO_SEED']} {request.node.nodeid}")


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that leaves a process, a file descriptor, a socket file or a temporary file behind."""
    allowed: set[str] = set()
    for marker in request.node.iter_markers("leaves"):
        allowed.update(marker.args)
    if unknown := allowed.difference(_KINDS):
        pytest.fail(f"the marker 'leaves' knows {', '.join(_KINDS)}, not {', '.join(sorted(unknown))}")

    scratch = request.config.stash[_SCRATCH]
    leaks.forget_forks()
    before = leaks.Snapshot.take(scratch)
    yield
    for phase in ("setup", "call"):
        caplog.get_records(phase).clear()  # an exception that was logged keeps the memory that its frames saw
    own = [folder for folder in (request.node.funcargs.get("tmp_path"),) if folder is not None]
    new = leaks.left_behind(before, lambda: leaks.Snapshot.take(scratch, *own))
    if found := [f"{kind} {thing}" for kind in new if kind not in allowed for thing in new[kind]]:
        pytest.fail("this test left behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a guest test that was skipped where guests must run, in whatever way it was skipped."""
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("guest")
        and os.environ.get("PYVIRTIO_REQUIRE_GUEST")
    ):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"a guest test may not be skipped here (PYVIRTIO_REQUIRE_GUEST is set): {reason}"
    return report
