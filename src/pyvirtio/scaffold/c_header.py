r"""Writes the C header of a device from its structures: what its driver in the Linux kernel includes.

>>> from pyvirtio import Device, Queue, Struct, le32
>>> class Number(Struct):
...     value: int = le32()
>>> class Double(Device):
...     requests = Queue(Number, Number)
...     @requests.each
...     def double(self, number): ...
>>> print(c_header(Double()).partition("types.h>")[2].replace("\t", " "))
<BLANKLINE>
<BLANKLINE>
#define VIRTIO_ID_DOUBLE 38
<BLANKLINE>
/* The queues, by their indexes */
#define VIRTIO_DOUBLE_VQ_REQUESTS 0
<BLANKLINE>
struct virtio_double_number {
 __le32 value;
};
<BLANKLINE>
static_assert(sizeof(struct virtio_double_number) == 4);
<BLANKLINE>
#endif /* _VIRTIO_DOUBLE_H */
<BLANKLINE>
"""

from __future__ import annotations

import sys
import textwrap
from enum import IntEnum, IntFlag
from pathlib import Path

from pyvirtio.errors import LocalError
from pyvirtio.scaffold.c_names import Names, member
from pyvirtio.scaffold.c_types import declaration, innermost, needs_packing
from pyvirtio.scaffold.declared import Declared
from pyvirtio.spec.layout import fields_of
from pyvirtio.spec.numbers import Number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.device import Device
    from pyvirtio.spec.fields import Field
    from pyvirtio.spec.struct import Struct

WIDTH = 80
TAB = 8


def c_header(device: Device) -> str:
    """Return a header with the structures, enumerations, feature bits and queues of a device, in the kernel's style.

    It declares what the device's file and class declare, and what these use. Each size is checked where the header is
    compiled.

    Raises:
        LocalError: C has no name for something; the message says for what, and what to do.
    """
    return _Header(device).text()


class _Header:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.declared = Declared(device)
        self.names = Names(type(device).__name__)
        self.structures = {one: self.names.structure(one.__name__) for one in self.declared.structures}
        self.groups: dict[type, str] = {kind: self.names.group(kind.__name__) for kind in self.declared.kinds}
        if self.declared.features:
            self.groups[self.declared.features] = "F"

    def text(self) -> str:
        guard = f"_{self.names.prefix}_H".upper()
        kind = type(self.device)
        source = Path(getattr(sys.modules[kind.__module__], "__file__", None) or "").name
        told = (
            f"The device {kind.__name__} as its driver sees it. `pyvirtio header {source}:{kind.__name__}` makes this "
            "file; change the device's structures instead of it."
        )
        blocks = [
            f"{_comment(told)}#ifndef {guard}\n#define {guard}\n",
            "#include <linux/build_bug.h>\n#include <linux/types.h>\n",
            _defines("", [(f"VIRTIO_ID_{self.names.short}".upper(), str(self.device.device_id))]),
            self._features(),
            self._queues(),
            *(self._kind(kind) for kind in self.declared.kinds),
            *(self._structure(one) for one in self.declared.structures),
            f"#endif /* {guard} */\n",
        ]
        return "/* SPDX-License-Identifier: GPL-2.0 OR MIT */\n" + "\n".join(filter(None, blocks))

    def _features(self) -> str:
        kind = self.declared.features
        if kind is None:
            return ""
        bits = [(self.names.constant("F", flag.name or ""), str(flag.bit_length() - 1)) for flag in kind]
        return _defines(_doc(kind) or "Feature bits, by their numbers", bits)

    def _queues(self) -> str:
        found: dict[str, str] = {}
        for index, queue in enumerate(self.device.each_queue()):
            found.setdefault(self.names.constant("VQ", queue.name), str(index))
        return _defines("The queues, by their indexes", list(found.items()))

    def _kind(self, kind: type[IntEnum] | type[IntFlag]) -> str:
        group, is_flag = self.groups[kind], issubclass(kind, IntFlag)
        values = [
            (self.names.constant(group, name), _literal(item, f"{kind.__name__}.{name}", is_flag=is_flag))
            for name, item in kind.__members__.items()
        ]
        return _defines(_doc(kind) or kind.__name__, values)

    def _structure(self, structure: type[Struct]) -> str:
        name, is_config = self.structures[structure], structure is type(self.device.config)
        taken: dict[str, str] = {}
        lines = []
        for own, field in fields_of(structure).items():
            c_name = member(own, structure.__name__)
            if (former := taken.setdefault(c_name, own)) != own:
                raise LocalError(f"{structure.__name__}: {former} and {own} would both be {c_name} in C; rename one")
            lines.append(self._member(c_name, field, is_config=is_config))
        doc = _doc(structure)
        packed = " __packed" if needs_packing(structure) else ""
        return (
            f"{_comment(doc)}struct {name} {{\n{''.join(lines)}}}{packed};\n\n"
            f"static_assert(sizeof(struct {name}) == {structure.nbytes});\n"
        )

    def _member(self, name: str, field: Field, *, is_config: bool) -> str:
        before, behind = declaration(field, self.structures.__getitem__)
        line = f"\t{before} {name}{behind};"
        inner = innermost(field)
        said = []
        if isinstance(inner, Number) and inner.kind is not None:
            said.append(f"{self.names.prefix}_{self.groups[inner.kind]}_*".upper())
        if is_config and any(field.writable_mask):
            said.append("a driver may write it")
        if not said:
            return f"{line}\n"
        comment = f"/* {', '.join(said)} */"
        beside = f"{line}\t{comment}\n"
        return beside if len(beside.expandtabs(TAB)) <= WIDTH else f"\t{comment}\n{line}\n"


def _doc(kind: type) -> str:
    """Return the first paragraph of what a class of the author's says of itself."""
    doc = vars(kind).get("__doc__") or ""
    paragraph = " ".join(doc.strip().partition("\n\n")[0].split())
    return "" if paragraph == "An enumeration." else paragraph.replace("*/", "* /").replace("/*", "/ *")


def _comment(text: str) -> str:
    """Return a comment of one line without its full stop, or in the kernel's style of several; none without text."""
    if not text:
        return ""
    if len(short := f"/* {text.removesuffix('.')} */\n") <= WIDTH:
        return short
    lines = textwrap.wrap(text, WIDTH - 3, break_long_words=False, break_on_hyphens=False)
    return "/*\n" + "".join(f" * {line}\n" for line in lines) + " */\n"


def _defines(about: str, values: Sequence[tuple[str, str]]) -> str:
    """Return macros whose values stand below one another, with a comment above them; nothing where there are none."""
    if not values:
        return ""
    column = max(len(f"#define {name}") // TAB + 1 for name, _ in values) * TAB
    lines = [_comment(about)]
    for name, value in values:
        start = f"#define {name}"
        lines.append(f"{start}{chr(9) * -(-(column - len(start)) // TAB)}{value}\n")
    return "".join(lines)


def _literal(value: int, what: str, *, is_flag: bool) -> str:
    """Return a number as a constant of C."""
    if not 0 <= value < 1 << 64:
        raise LocalError(f"{what} is {int(value)}, which no unsigned field can hold; give a value from 0 to 2**64 - 1")
    suffix = "" if value < 1 << 31 else "U" if value < 1 << 32 else "ULL"
    return f"{value:#x}{suffix}" if is_flag else f"{value:d}{suffix}"
