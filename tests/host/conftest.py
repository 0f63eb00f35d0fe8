"""The record in which devices of other processes note what their methods were given."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


class Record:
    """What the methods of `tests.support.slow_devices` were given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        self.environment = {"SLOW_RECORD": str(path)}

    def lines(self) -> list[str]:
        """Return the notes, oldest first."""
        return self._path.read_text().splitlines()

    def calls(self) -> Counter[int]:
        """Return how often each request was given to a method."""
        return Counter(map(int, self.lines()))


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")
