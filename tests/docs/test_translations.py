"""The pages in Chinese say what the English ones say: tools/translated notices what has changed."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "translated"

ENGLISH = """# One

See [design](docs/design.md).

## Two

```console
$ true
## no heading
```

## Three

The end.
"""
CHINESE = """# 一

见[设计](../design.md)。

## 二

```console
$ true
## no heading
```

## 三

完。
"""


@pytest.fixture(scope="module")
def tool() -> Any:
    loader = SourceFileLoader("translated", str(TOOL))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_each_page_in_chinese_is_a_translation_of_what_the_english_one_says_now():
    done = subprocess.run([sys.executable, TOOL, "--check"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_has_changed_since_is_named_until_it_is_stamped(tool):
    first = tool.stamped(ENGLISH, CHINESE)
    assert tool.changed(ENGLISH, CHINESE) == ["# One", "## Two", "## Three"]
    assert tool.changed(ENGLISH, first) == []
    assert tool.changed(ENGLISH.replace("The end", "The\nend"), first) == [], "lines that end elsewhere"
    later = ENGLISH.replace("The end.", "It goes on.")
    assert tool.changed(later, first) == ["## Three"]
    assert tool.changed(later, tool.stamped(later, first)) == []
    assert tool.STAMP.sub("", tool.stamped(later, first)) == CHINESE


@pytest.mark.parametrize(
    ("before", "after", "section"),
    [
        ("$ true", "$ 真", "二"),
        ("```console\n$ true\n## no heading\n```\n", "", "二"),
        ("../design.md", "../glossary.md", "一"),
        ("见[设计](../design.md)。", "", "一"),
    ],
    ids=["other code", "no code", "another link", "no link"],
)
def test_code_and_links_are_those_of_the_original(tool, before, after, section):
    assert tool.differences(ENGLISH, CHINESE) == []
    [said] = tool.differences(ENGLISH, CHINESE.replace(before, after))
    assert section in said


def test_a_section_that_is_missing_is_noticed(tool):
    [said] = tool.differences(ENGLISH, CHINESE[: CHINESE.index("## 三")])
    assert "2 sections" in said
