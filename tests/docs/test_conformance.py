"""docs/conformance.md has each check that cites VIRTIO, and the test that it names makes this very check object."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = ROOT / "src/pyvirtio"
ROWS = re.findall(
    r"^\| ([\d.]+) \| .+ \| `(\S+\.py)` \| `(\S+)` \|$", (ROOT / "docs/conformance.md").read_text(), re.MULTILINE
)


def citations() -> list[tuple[str, str, range]]:
    """Return the sections that errors cite, and the files and lines in which they do."""
    return [
        (str(keyword.value.value), str(path.relative_to(SOURCE)), range(node.lineno, (node.end_lineno or 0) + 1))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "section" and isinstance(keyword.value, ast.Constant)
    ]


def test_each_citation_of_an_error_has_its_row():
    assert Counter((section, file) for section, file, _ in ROWS) == Counter(where[:2] for where in citations())


@pytest.mark.long
def test_the_tests_that_are_named_break_these_rules(tmp_path: Path):
    named = sorted({f"tests/{test}" for *_, test in ROWS})
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "tests.support.cited", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *named],
        cwd=ROOT,
        env={**os.environ, "CITED": str(tmp_path / "met")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    met = json.loads((tmp_path / "met").read_text())
    by_test = {(section, file, test) for section, file, _, test in met}
    assert [row for row in ROWS if (row[0], row[1], f"tests/{row[2]}") not in by_test] == []
    lines = {(section, file, line) for section, file, line, _ in met}
    assert [cited for cited in citations() if not any((*cited[:2], line) in lines for line in cited[2])] == []
