"""The kinds of input devices: which events each has."""

from __future__ import annotations

from pyvirtio.devices.input_actions import FINGERS, LARGEST
from pyvirtio.spec.input_codes import Abs, Key, Led, Property, Rel, Type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Kind:
    """What a device has: the codes of each type of event, the absolute axes with the most of each, and properties."""

    def __init__(
        self,
        codes: dict[int, Collection[int]],
        axes: Mapping[int, int] | None = None,
        properties: Collection[Property] = (),
    ) -> None:
        self.axes = axes or {}
        self.codes = codes | {Type.EV_ABS: self.axes}
        self.properties = properties


KEYS = [key for key in Key if key < Key.BTN_LEFT]
BUTTONS = [key for key in Key if Key.BTN_LEFT <= key < Key.BTN_TOUCH]
SCREEN: dict[int, int] = {Abs.ABS_X: LARGEST, Abs.ABS_Y: LARGEST}
TOUCHES: dict[int, int] = {
    Abs.ABS_MT_SLOT: FINGERS - 1,
    Abs.ABS_MT_TRACKING_ID: 0xFFFF,
    Abs.ABS_MT_POSITION_X: LARGEST,
    Abs.ABS_MT_POSITION_Y: LARGEST,
}
KINDS = {
    "keyboard": Kind({Type.EV_KEY: KEYS, Type.EV_LED: list(Led), Type.EV_REP: (0, 1)}),
    "mouse": Kind({Type.EV_KEY: BUTTONS, Type.EV_REL: list(Rel)}),
    "tablet": Kind({Type.EV_KEY: BUTTONS, Type.EV_REL: [Rel.REL_WHEEL]}, SCREEN),
    "touch": Kind({Type.EV_KEY: [Key.BTN_TOUCH]}, SCREEN | TOUCHES, [Property.INPUT_PROP_DIRECT]),
}
