"""``pyvirtio bench`` in a checkout, and where the benchmarks are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyvirtio
from pyvirtio.cli import main
from pyvirtio.cli.bench import EXAMPLES
from pyvirtio_bench import command
from pyvirtio_bench.suite import TABLES

SOURCE = Path(pyvirtio.__file__).parents[1]


@pytest.mark.parametrize("arguments", [[], ["--quick", "echo"], ["--help"]], ids=" ".join)
def test_without_the_benchmarks_one_line_says_where_they_are(arguments: list[str]):
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pyvirtio", "bench", *arguments],  # -S: the package alone, no path files
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "make bench" in done.stderr


def test_a_broken_benchmark_is_not_taken_for_a_missing_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyvirtio_bench.command", None)
    with pytest.raises(ModuleNotFoundError, match="command"):
        main(["bench"])


def test_help_comes_from_the_benchmarks(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: pyvirtio bench" in printed
    assert all(name in printed for name in TABLES)
    assert all(typed in printed for typed, _ in EXAMPLES)


@pytest.mark.parametrize("typed", [typed for typed, _ in EXAMPLES])
def test_the_examples_are_understood(typed: str):
    chosen = command._parser().parse_args(typed.split()[2:])
    assert set(chosen.tables) <= TABLES.keys()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nonsense"], "nonsense"),
        (["flat", "--socket", "x"], "echo, memory"),
        (["--guest", "--socket", "x"], "--socket"),
        (["--write", "echo"], "go before --write"),
    ],
)
def test_wrong_usage(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
