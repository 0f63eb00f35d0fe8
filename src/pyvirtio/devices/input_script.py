r"""What an input device is to do, as a text: one step a line.

::

    # a comment; empty lines are nothing
    type Hello, world!          every character to the end of the line, without the blanks around
    tap KEY_LEFTCTRL KEY_C      press in this order, release in the other
    press KEY_LEFTSHIFT         and hold
    release KEY_LEFTSHIFT
    move 10 -5                  a mouse: to the right, down
    wheel -1                    a mouse or tablet
    point 16000 8000            a tablet: from 0 to 32767 in both directions
    touch 100 200               a touch screen; a third number says which finger, from 0 on
    lift                        or lift 1
    wait 0.5                    seconds

The steps are the methods of `Input`. A line that the device cannot do is refused before it begins.
"""

from __future__ import annotations

from functools import partial

from pyvirtio.errors import LocalError, UsageError
from pyvirtio.spec.input_codes import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from pyvirtio.devices.input import Input


class Step:
    """One step: after ``seconds``, ``act`` is called."""

    def __init__(self, act: Callable[[], object] = lambda: None, seconds: float = 0.0) -> None:
        self.act = act
        self.seconds = seconds


def _key(text: str) -> Key:
    if text not in Key.__members__:
        raise ValueError(f"there is no key {text}")
    return Key[text]


STEPS: dict[str, tuple[Callable[[str], Any], int, int]] = {
    "tap": (_key, 1, 10),
    "press": (_key, 1, 10),
    "release": (_key, 1, 10),
    "move": (int, 2, 2),
    "wheel": (int, 1, 1),
    "point": (int, 2, 2),
    "touch": (int, 2, 3),
    "lift": (int, 0, 1),
}
"""What the words of a step are, and the fewest and the most of them."""


def read_script(path: Path, device: Input, rehearsal: Input) -> list[Step]:
    """Return the steps of the script ``path`` for ``device``; ``rehearsal``, one like it, has done them all.

    Raises:
        UsageError: a line makes no sense, or is nothing that this device can do; the message names it.
        OSError: the script cannot be read.
    """
    steps = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            for step in _steps(text, rehearsal):
                step.act()
            steps += _steps(text, device)
        except (LocalError, ValueError) as error:
            raise UsageError(f"{path}, line {number}: {text!r}: {error}") from error
    return steps


def _steps(text: str, device: Input) -> list[Step]:
    word, _, rest = text.partition(" ")
    if word == "type":
        return [Step(partial(device.type, character)) for character in rest.strip()]
    if word == "wait":
        return [Step(seconds=max(0.0, float(rest)))]
    if word not in STEPS:
        raise ValueError(f"there is no step {word!r}; there are: type, wait, {', '.join(STEPS)}")
    convert, fewest, most = STEPS[word]
    words = [convert(item) for item in rest.split()]
    if not fewest <= len(words) <= most:
        raise ValueError(f"{word} takes {fewest} to {most} words behind it")
    return [Step(partial(getattr(device, word), *words))]
