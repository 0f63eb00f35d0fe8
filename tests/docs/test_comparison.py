"""docs/comparison.md counts the lines of code that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "comparison.md").read_text()


def code_lines(text: str, comment: str) -> int:
    return sum(not re.fullmatch(rf"\s*({comment}.*)?", line) for line in text.splitlines())


def test_the_lines_of_the_factorial_are_those_that_there_are():
    ours = (ROOT / "src/pyvirtio/devices/article.py").read_text()
    assert f"{code_lines(ours, '#')}: [article.py]" in TEXT
    in_c = (ROOT / "benchmarks/pyvirtio_bench/c/backend.c").read_text()
    others = re.findall(r"^static unsigned answer_(?:echo|block)\(.*?^}$", in_c, re.M | re.S)
    assert len(others) == 2
    for other in others:
        in_c = in_c.replace(other, "")
    number = code_lines(in_c, r"/?\*")
    assert f"{number}: [backend.c]" in TEXT
