"""What a device's file declares: its structures, enumerations and queues, in an order in which C can have them."""

from __future__ import annotations

import sys
from enum import IntEnum, IntFlag

from pyvirtio.errors import LocalError
from pyvirtio.scaffold.c_types import innermost
from pyvirtio.spec.layout import Nested, fields_of
from pyvirtio.spec.numbers import Number
from pyvirtio.spec.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.device import Device

    Kind = type[IntEnum] | type[IntFlag]


class Declared:
    """What belongs to the device ``device``: what its class and its file declare, and what these use.

    Attributes:
        structures: each behind those that are parts of it; those without fields are left out.
        kinds: the enumerations and flags, without `features`.
        features: the flags that name the device's feature bits; None where it has none.

    Raises:
        LocalError: a feature bit of the device has no name, or a structure packs itself.
    """

    def __init__(self, device: Device) -> None:
        self.structures: list[type[Struct]] = []
        self.kinds: list[Kind] = []
        self.features = _named_features(device)
        for thing in _things_of(device):
            if isinstance(thing, type) and thing is not self.features:
                self._add(thing)

    def _add(self, thing: type) -> None:
        if issubclass(thing, Struct):
            self._add_structure(thing)
        elif issubclass(thing, (IntEnum, IntFlag)) and thing not in (*self.kinds, self.features):
            self.kinds.append(thing)

    def _add_structure(self, structure: type[Struct]) -> None:
        if structure in self.structures or not structure.nbytes:
            return
        if structure.codes() is None:
            raise LocalError(f"{structure.__name__} packs itself, so its fields do not say what C should declare")
        for field in fields_of(structure).values():
            inner = innermost(field)
            if isinstance(inner, Nested):
                self._add_structure(inner.structure)
            elif isinstance(inner, Number) and inner.kind is not None:
                self._add(inner.kind)
        self.structures.append(structure)


def _named_features(device: Device) -> type[IntFlag] | None:
    """Return the flags that name the device's features."""
    features = device.features
    kind = type(features)
    known = sum(kind) if issubclass(kind, IntFlag) else 0
    if unnamed := int(features) & ~known:
        raise LocalError(
            f"{type(device).__name__} offers the feature bits {unnamed:#x}, for which C has no names; declare them as "
            "members of an enum.IntFlag, and give its members for `features`"
        )
    return kind if issubclass(kind, IntFlag) else None


def _things_of(device: Device) -> Iterator[object]:
    """Yield what the device's file and class declare in their order, then what its configuration and queues use."""
    kind = type(device)
    module = sys.modules[kind.__module__]
    for owner in (module, kind):
        for thing in vars(owner).values():
            if getattr(thing, "__module__", None) == kind.__module__:
                yield thing
    yield type(device.config)
    for queue in device.queues:
        yield getattr(queue, "request", None)
        yield getattr(queue, "response", None)
