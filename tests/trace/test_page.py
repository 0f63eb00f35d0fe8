"""What docs/trace.md shows works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.pages import blocks, run_python

PAGE = (Path(__file__).parents[2] / "docs" / "trace.md").read_text()


def test_its_program_prints_what_it_says(tmp_path: Path):
    [program] = blocks(PAGE, "python")
    assert run_python(program.text, tmp_path) == [program.text.rstrip().splitlines()[-1].removeprefix("# ")]


def test_its_options_exist():
    for command in ("trace", "tap", "serve"):
        usage = subprocess.run(
            [sys.executable, "-m", "pyvirtio", command, "--help"], check=True, capture_output=True, text=True
        ).stdout
        rows = re.findall(rf"`pyvirtio {command} [^`]*`", PAGE)
        assert rows
        assert not [option for row in rows for option in re.findall(r"--[a-z-]+", row) if option not in usage]
