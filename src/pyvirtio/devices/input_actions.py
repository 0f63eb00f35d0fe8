"""What a program can do with an input device: the methods of `pyvirtio.devices.input.Input` that send events."""

from __future__ import annotations

from pyvirtio.errors import LocalError
from pyvirtio.spec.input_codes import KEYS_OF, Abs, Key, Rel, Type

LARGEST = 32767
"""The right and lower edge of tablets and touch screens; the others are 0."""

FINGERS = 10
"""How many fingers touch a screen at once."""


class Actions:
    """Turns what a person would do into events."""

    _touches = 0

    def __init__(self) -> None:
        self._fingers: dict[int, int] = {}

    def emit(self, *events: tuple[Type, int, int]) -> None:
        """Send events that belong together."""
        raise NotImplementedError

    def press(self, *keys: Key) -> None:
        """Press keys or buttons, and hold them."""
        for key in keys:
            self.emit((Type.EV_KEY, key, 1))

    def release(self, *keys: Key) -> None:
        """Release keys or buttons."""
        for key in keys:
            self.emit((Type.EV_KEY, key, 0))

    def tap(self, *keys: Key) -> None:
        """Press keys or buttons one after the other, and release them."""
        self.press(*keys)
        self.release(*reversed(keys))

    def type(self, text: str) -> None:
        """Type ``text`` on a keyboard of the United States.

        Raises:
            LocalError: such a keyboard has no key for a character; nothing is typed.
        """
        if missing := sorted(set(text) - KEYS_OF.keys()):
            raise LocalError(
                f"there is no key for {missing[0]!r} on a keyboard of the United States; "
                "leave it out, or tap a key of your own"
            )
        for key, shift in map(KEYS_OF.__getitem__, text):
            self.tap(*([Key.KEY_LEFTSHIFT] * shift), key)

    def move(self, dx: int, dy: int) -> None:
        """Move a mouse to the right and down."""
        self.emit((Type.EV_REL, Rel.REL_X, dx), (Type.EV_REL, Rel.REL_Y, dy))

    def wheel(self, steps: int) -> None:
        """Turn the wheel, away from the user."""
        self.emit((Type.EV_REL, Rel.REL_WHEEL, steps))

    def point(self, x: int, y: int) -> None:
        """Point a tablet's pen at a place, from 0 to `LARGEST` in both directions."""
        self.emit((Type.EV_ABS, Abs.ABS_X, _on_screen(x)), (Type.EV_ABS, Abs.ABS_Y, _on_screen(y)))

    def touch(self, x: int, y: int, finger: int = 0) -> None:
        """Touch a screen with a finger, or move it there."""
        if not 0 <= finger < FINGERS:
            raise LocalError(f"there is no finger {finger}; name one of {FINGERS}, from 0 on")
        is_first = not self._fingers
        if finger not in self._fingers:
            self._touches = self._fingers[finger] = (self._touches + 1) & 0xFFFF
        places = (Abs.ABS_MT_POSITION_X, x), (Abs.ABS_MT_POSITION_Y, y), (Abs.ABS_X, x), (Abs.ABS_Y, y)
        self.emit(
            (Type.EV_ABS, Abs.ABS_MT_SLOT, finger),
            (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, self._fingers[finger]),
            *((Type.EV_ABS, axis, _on_screen(place)) for axis, place in places),
            *([(Type.EV_KEY, Key.BTN_TOUCH, 1)] if is_first else []),
        )

    def lift(self, finger: int = 0) -> None:
        """Lift a finger from the screen."""
        if self._fingers.pop(finger, None) is None:
            raise LocalError(f"finger {finger} does not touch the screen; put it down first")
        self.emit(
            (Type.EV_ABS, Abs.ABS_MT_SLOT, finger),
            (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, -1),
            *([] if self._fingers else [(Type.EV_KEY, Key.BTN_TOUCH, 0)]),
        )


def _on_screen(place: int) -> int:
    if not 0 <= place <= LARGEST:
        raise LocalError(f"{place} is beyond the edge; give a place from 0 to {LARGEST}")
    return place
