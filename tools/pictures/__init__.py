"""The pictures of docs/explanation, which `make docs` draws: from a run of a queue, and from texts beside them."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from pictures import boxes, ring_picture, ring_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FOLDER = "docs/explanation/pictures"


def pictures(root: Path) -> Mapping[str, Callable[[], str]]:
    """Return what draws each picture of the checkout at ``root``, by the name of its file."""
    texts = sorted((root / FOLDER).glob("*.txt"))
    made = {f"{FOLDER}/{path.stem}.svg": partial(_from_text, path) for path in texts}
    steps = [(None, ring_run.out_of_order()), *pairwise([None, *ring_run.one_request()])]
    return made | {f"{FOLDER}/{now.name}.svg": partial(ring_picture.draw, now, before) for before, now in steps if now}


def _from_text(path: Path) -> str:
    return boxes.draw(path.read_text())
