"""The codes of input events, as far as keyboards, mice, tablets and touch screens use them.

VIRTIO 1.4, 5.8 carries Linux's events and leaves their meaning to Linux's input-event-codes.h; the names are that
file's, and a test compares the numbers.

>>> Key.KEY_A, KEYS_OF["A"]
(<Key.KEY_A: 30>, (<Key.KEY_A: 30>, True))
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["BUS_VIRTUAL", "KEYS_OF", "Abs", "Key", "Led", "Property", "Rel", "Type"]


class Type(IntEnum):
    """What kind of event it is."""

    EV_SYN, EV_KEY, EV_REL, EV_ABS, EV_MSC, EV_SW = range(6)
    EV_LED, EV_SND = 0x11, 0x12
    EV_REP = 0x14


class Key(IntEnum):
    """Keys and buttons."""

    KEY_ESC, KEY_1, KEY_2, KEY_3, KEY_4, KEY_5, KEY_6, KEY_7, KEY_8, KEY_9, KEY_0 = range(1, 12)
    KEY_MINUS, KEY_EQUAL, KEY_BACKSPACE, KEY_TAB = range(12, 16)
    KEY_Q, KEY_W, KEY_E, KEY_R, KEY_T, KEY_Y, KEY_U, KEY_I, KEY_O, KEY_P = range(16, 26)
    KEY_LEFTBRACE, KEY_RIGHTBRACE, KEY_ENTER, KEY_LEFTCTRL = range(26, 30)
    KEY_A, KEY_S, KEY_D, KEY_F, KEY_G, KEY_H, KEY_J, KEY_K, KEY_L = range(30, 39)
    KEY_SEMICOLON, KEY_APOSTROPHE, KEY_GRAVE, KEY_LEFTSHIFT, KEY_BACKSLASH = range(39, 44)
    KEY_Z, KEY_X, KEY_C, KEY_V, KEY_B, KEY_N, KEY_M, KEY_COMMA, KEY_DOT, KEY_SLASH = range(44, 54)
    KEY_RIGHTSHIFT, KEY_KPASTERISK, KEY_LEFTALT, KEY_SPACE, KEY_CAPSLOCK = range(54, 59)
    KEY_F1, KEY_F2, KEY_F3, KEY_F4, KEY_F5, KEY_F6, KEY_F7, KEY_F8, KEY_F9, KEY_F10 = range(59, 69)
    KEY_NUMLOCK, KEY_SCROLLLOCK = 69, 70
    KEY_KP7, KEY_KP8, KEY_KP9, KEY_KPMINUS, KEY_KP4, KEY_KP5, KEY_KP6, KEY_KPPLUS = range(71, 79)
    KEY_KP1, KEY_KP2, KEY_KP3, KEY_KP0, KEY_KPDOT = range(79, 84)
    KEY_102ND, KEY_F11, KEY_F12 = range(86, 89)
    KEY_KPENTER, KEY_RIGHTCTRL, KEY_KPSLASH, KEY_SYSRQ, KEY_RIGHTALT = range(96, 101)
    KEY_HOME, KEY_UP, KEY_PAGEUP, KEY_LEFT, KEY_RIGHT, KEY_END, KEY_DOWN, KEY_PAGEDOWN = range(102, 110)
    KEY_INSERT, KEY_DELETE = 110, 111
    KEY_MUTE, KEY_VOLUMEDOWN, KEY_VOLUMEUP, KEY_POWER = range(113, 117)
    KEY_PAUSE = 119
    KEY_LEFTMETA, KEY_RIGHTMETA, KEY_COMPOSE = range(125, 128)
    BTN_LEFT, BTN_RIGHT, BTN_MIDDLE, BTN_SIDE, BTN_EXTRA = range(0x110, 0x115)
    BTN_TOUCH = 0x14A


class Rel(IntEnum):
    """Axes that move by so much."""

    REL_X, REL_Y = 0, 1
    REL_HWHEEL, REL_WHEEL = 6, 8


class Abs(IntEnum):
    """Axes that are somewhere."""

    ABS_X, ABS_Y = 0, 1
    ABS_MT_SLOT = 0x2F
    ABS_MT_POSITION_X, ABS_MT_POSITION_Y = 0x35, 0x36
    ABS_MT_TRACKING_ID = 0x39


class Led(IntEnum):
    """Lights that the guest switches."""

    LED_NUML, LED_CAPSL, LED_SCROLLL = range(3)


class Property(IntEnum):
    """What an input device is like."""

    INPUT_PROP_POINTER, INPUT_PROP_DIRECT = 0, 1


BUS_VIRTUAL = 6

_PLAIN = (
    ("1234567890-=", "!@#$%^&*()_+", Key.KEY_1),
    ("qwertyuiop[]", "QWERTYUIOP{}", Key.KEY_Q),
    ("asdfghjkl;'`", 'ASDFGHJKL:"~', Key.KEY_A),
    ("\\zxcvbnm,./", "|ZXCVBNM<>?", Key.KEY_BACKSLASH),
)

KEYS_OF: dict[str, tuple[Key, bool]] = {
    " ": (Key.KEY_SPACE, False),
    "\n": (Key.KEY_ENTER, False),
    "\t": (Key.KEY_TAB, False),
    "\b": (Key.KEY_BACKSPACE, False),
    "\x1b": (Key.KEY_ESC, False),
}
"""The key of each character on a keyboard of the United States, and whether Shift is held."""

for _small, _large, _first in _PLAIN:
    for _characters, _shift in ((_small, False), (_large, True)):
        KEYS_OF |= {character: (Key(_first + place), _shift) for place, character in enumerate(_characters)}
