"""What tests/conftest.py promises: it catches each kind of thing left behind, and guests skipped unseen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long  # each starts a run of pytest

ROOT = Path(__file__).parent.parent

HEAD = """
import os, socket, subprocess, tempfile, time
import pytest
from tests.support import leaks
leaks.GRACE_SECONDS = 0.3
"""

LEAVE = """
def test_fd(): os.open("/dev/null", os.O_RDONLY)
def test_fd_replaced(): os.dup2(os.open("/dev/zero", os.O_RDONLY), 0)
def test_file(): tempfile.mkdtemp()
def test_zombie():
    if os.fork() == 0: os._exit(0)
def test_process():
    if os.fork() == 0: time.sleep(10); os._exit(0)
def test_orphan(): subprocess.run(["sh", "-c", "sleep 10 >/dev/null 2>&1 &"], check=True)
def test_socket(tmp_path):
    with socket.socket(socket.AF_UNIX) as bound: bound.bind(str(tmp_path / "s"))
"""

TIDY = """
def test_orphan_that_ends(): subprocess.run(["sh", "-c", "sleep 0.1 & exit"], check=True)
def test_child_waited_for(): os.waitpid(os.fork() or os._exit(0), 0)
def test_file_in_tmp_path(tmp_path): (tmp_path / "kept").write_text("")
@pytest.mark.leaves("fd")
def test_says_so(): os.open("/dev/null", os.O_RDONLY)
"""

GUEST = """
@pytest.mark.guest
def test_guest(): pytest.skip("no QEMU here")
"""

DRAW = """
def test_draw(rng): pytest.fail(f"drew {rng.random()}")
"""


def run_tests(folder: Path, tests: str, **environment: str) -> str:
    """Run those tests in a pytest of their own; return what it printed."""
    file = folder / "test_inner.py"
    file.write_text(HEAD + tests)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-q"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(file)]
    kept = {name: value for name, value in os.environ.items() if name != "PYVIRTIO_REQUIRE_GUEST"}
    # Into a file: whoever is left behind would keep a pipe open.
    output = folder / "output"
    with output.open("wb") as stream:
        subprocess.run(command, cwd=ROOT, env=kept | environment, stdout=stream, stderr=stream, timeout=60, check=False)
    return output.read_text()


def test_what_a_test_leaves_behind_fails_it(tmp_path):
    printed = run_tests(tmp_path, LEAVE)
    for pid in re.findall(r"^  process (\d+): (?!ended)", printed, re.MULTILINE):
        os.kill(int(pid), 9)
    complaints = dict(re.findall(r"at teardown of (\w+) .*?left behind:\n  (.*?)\n", printed, re.DOTALL))
    for test, complaint in {
        "test_fd": r"fd \d+ -> /dev/null",
        "test_fd_replaced": r"fd 0 -> /dev/zero",
        "test_file": r"file /.*/tmp\w+",
        "test_zombie": r"process \d+: ended, and nobody waited for it",
        "test_process": r"process \d+: .*pytest.*",
        "test_orphan": r"process \d+: sleep 10",
        "test_socket": r"socket /.*/s",
    }.items():
        assert re.fullmatch(complaint, complaints[test]), printed


def test_what_tidies_up_passes(tmp_path):
    printed = run_tests(tmp_path, TIDY)
    assert "4 passed" in printed, printed
    assert "error" not in printed


def test_a_guest_may_be_skipped(tmp_path):
    assert "1 skipped" in run_tests(tmp_path, GUEST)


def test_a_guest_may_not_be_skipped_where_guests_must_run(tmp_path):
    printed = run_tests(tmp_path, GUEST, PYVIRTIO_REQUIRE_GUEST="1")
    assert "1 failed" in printed
    assert "may not be skipped here" in printed
    assert "no QEMU here" in printed


def test_a_printed_seed_repeats_the_run(tmp_path):
    printed = [run_tests(tmp_path, DRAW, PYVIRTIO_SEED=seed) for seed in ("7", "7", "8")]
    assert "PYVIRTIO_SEED=7" in printed[0]
    first, again, other = (re.findall(r"drew [0-9.]+", text)[0] for text in printed)
    assert first == again != other


def test_a_fork_is_no_warning():
    # Python 3.12 and later warn of forks in a process with threads, which every worker of xdist is.
    if (pid := os.fork()) == 0:
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
