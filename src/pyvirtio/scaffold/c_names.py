"""What things of Python are called in C, and which of them C has no name for.

>>> camel_to_snake("ExactResponse"), camel_to_snake("PCMInfo")
('exact_response', 'pcm_info')
"""

from __future__ import annotations

import re

from pyvirtio.errors import LocalError

_WORDS = """
    auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
    asm bool true false typeof
    current i386 linux unix
"""
RESERVED = frozenset(_WORDS.split())
"""What cannot be the name of a member: C's keywords, and macros of the kernel and its compilers."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def camel_to_snake(name: str) -> str:
    """Return a name in lower case with underscores between its words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Names:
    """The names that the device called ``device`` gives to C; each is given once.

    >>> names = Names("Thermometer")
    >>> names.structure("Request"), names.structure("ThermometerConfig"), names.constant("F", "SET")
    ('virtio_thermometer_request', 'virtio_thermometer_config', 'VIRTIO_THERMOMETER_F_SET')
    """

    def __init__(self, device: str) -> None:
        self.short = camel_to_snake(device).removeprefix("virtio_")
        self.prefix = f"virtio_{self.short}"
        self._given: dict[str, str] = {}
        _check(self.prefix, f"a device called {device}")

    def structure(self, name: str) -> str:
        """Return what follows ``struct`` for the structure that Python calls ``name``."""
        words = camel_to_snake(name).removeprefix("virtio_").removeprefix(f"{self.short}_")
        return self._take(f"{self.prefix}_{words.strip('_')}", f"the structure {name}")

    def group(self, name: str) -> str:
        """Return what the constants of the enumeration ``name`` begin with."""
        return camel_to_snake(name).removeprefix(f"{self.short}_").strip("_").upper()

    def constant(self, *words: str) -> str:
        """Return the name of a constant."""
        return self._take("_".join([self.prefix, *words]).upper(), f"the constant {'.'.join(words)}")

    def _take(self, name: str, what: str) -> str:
        _check(name, what)
        if (former := self._given.setdefault(name, what)) != what:
            raise LocalError(f"{former} and {what} would both be {name} in C; rename one of them")
        return name


def member(name: str, structure: str) -> str:
    """Return what C calls the field ``name``; the underscore behind what is a keyword of Python is left out.

    Raises:
        LocalError: C cannot have a member of this name.
    """
    found = name.rstrip("_")
    if found in RESERVED:
        raise LocalError(f"{structure}.{name}: {found!r} is a word of C and cannot be a member; rename the field")
    _check(found, f"{structure}.{name}")
    return found


def _check(name: str, what: str) -> None:
    if not _IDENTIFIER.fullmatch(name):
        raise LocalError(f"{what} has no name in C, where names are of A to Z, digits and underscores; rename it")
