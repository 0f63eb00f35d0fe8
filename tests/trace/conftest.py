"""A browser for the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.browser import Browser, browser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    """A browser with one window; the test is skipped where there is none."""
    folder = tmp_path / "browser"
    folder.mkdir()
    with browser(folder) as opened:
        yield opened
        assert not opened.complaints()
