"""A plugin for pytest: writes which tests met which error that cites a section, into the file that CITED names."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from pyvirtio import errors

_met: set[tuple[str, str, int, str]] = set()
_now = [""]


def pytest_configure() -> None:
    """Note each error of ours as it is made: its section, the line that makes it, and the test that runs."""
    make = errors.VirtioError.__init__

    def noted(error: errors.VirtioError, message: str, *, section: str = "") -> None:
        make(error, message, section=section)
        if section:
            frame = sys._getframe(1)
            _met.add((section, frame.f_code.co_filename.rpartition("/pyvirtio/")[2], frame.f_lineno, _now[0]))

    setattr(errors.VirtioError, "__init__", noted)  # noqa: B010  # to watch it is the purpose, which a type checker minds


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which test comes next, without its parameters."""
    _now[0] = item.nodeid.partition("[")[0]


def pytest_unconfigure() -> None:
    """Write what was noted."""
    Path(os.environ["CITED"]).write_text(json.dumps(sorted(_met)))
