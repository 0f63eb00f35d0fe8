"""Options of a device on a command line: ``console,path=/tmp/tty``, as QEMU's own ``-device NAME,KEY=VALUE``.

The options are the typed parameters of the device's constructor, so there is nothing else to declare.

>>> from pathlib import Path
>>> class Disk:
...     def __init__(self, path: Path, *, readonly: bool = False, queues: int = 1) -> None:
...         self.seen = path, readonly, queues
>>> construct(Disk, split("disk,path=a,,b.img,readonly=on")[1]).seen
(PosixPath('a,b.img'), True, 1)
"""

from __future__ import annotations

from pyvirtio.errors import LocalError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from inspect import Parameter
    from typing import Any, TypeVar

    D = TypeVar("D")

_YES, _NO = ("on", "yes", "true", "1"), ("off", "no", "false", "0")


def split(text: str) -> tuple[str, dict[str, str]]:
    """Split ``NAME,key=value,…`` into the name and its options; a comma in a value is written twice, as for QEMU.

    Raises:
        UsageError: an option is given twice. One without a value, like ``readonly``, means ``readonly=on``.
    """
    name, *parts = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    options: dict[str, str] = {}
    for part in parts:
        key, has_value, value = part.partition("=")
        if key in options:
            raise UsageError(f"the option {key!r} is given twice in {text!r}; give it once")
        options[key] = value if has_value else "on"
    return name, options


def construct(kind: type[D], options: dict[str, str]) -> D:
    """Make an instance of ``kind`` from options as text.

    Raises:
        UsageError: an option is unknown, missing, or has an impossible value; the message lists what there is.
    """
    if not options and kind.__init__ is object.__init__:
        return kind()
    parameters = parameters_of(kind)
    if unknown := options.keys() - parameters.keys():
        raise UsageError(f"{kind.__name__} has no option {', '.join(sorted(unknown))}; {_choice(parameters)}")
    missing = [key for key, one in parameters.items() if one.default is one.empty and key not in options]
    if missing:
        raise UsageError(f"{kind.__name__} needs the option {', '.join(missing)}; {_choice(parameters)}")
    return kind(**{key: _value(key, text, parameters[key].annotation) for key, text in options.items()})


def parameters_of(kind: type) -> dict[str, Parameter]:
    """Return the parameters of a device's constructor by name, with their annotations resolved."""
    import inspect
    from typing import get_type_hints

    if kind.__init__ is object.__init__:  # type: ignore[misc]  # only whether it is the default one
        return {}
    try:
        hints = get_type_hints(kind.__init__)  # type: ignore[misc]  # the class's own constructor
    except NameError as error:
        raise LocalError(
            f"an annotation of {kind.__name__}'s constructor cannot be resolved: {error}; import that name in its file"
        ) from error
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    _self, *parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]  # as above
    return {one.name: one.replace(annotation=hints.get(one.name, one.empty)) for one in parameters if one.kind in named}


def usage(kind: type) -> list[str]:
    """Return a line for each option: its name, its type, and its default.

    >>> class Disk:
    ...     def __init__(self, path: str, queues: int = 1) -> None: ...
    >>> usage(Disk)
    ['path=<str>', 'queues=<int> (default: 1)']
    """
    return [_usage(one) for one in parameters_of(kind).values()]


def _usage(one: Parameter) -> str:
    kinds = " or ".join(_name(kind) for kind in alternatives(one.annotation))
    default = "" if one.default is one.empty or one.default is None else f" (default: {_as_text(one.default)})"
    return f"{one.name}=<{kinds}>{default}"


def _name(kind: Any) -> str:
    from inspect import Parameter

    if members := getattr(kind, "__members__", None):
        return "|".join(name.lower() for name in members)
    return "on|off" if kind is bool else "text" if kind is Parameter.empty else getattr(kind, "__name__", str(kind))


def _as_text(value: object) -> str:
    """Return a default as it would be written on the command line."""
    from enum import Enum

    if isinstance(value, Enum):
        return value.name.lower()
    return str(value) if not isinstance(value, bool) else _YES[0] if value else _NO[0]


def _choice(parameters: dict[str, Parameter]) -> str:
    if not parameters:
        return "it takes no options"
    return f"its options are: {', '.join(_usage(one) for one in parameters.values())}"


def alternatives(annotation: Any) -> list[Any]:
    """Return the types, or values of a Literal, that an annotation allows and a command line can name.

    ``int | None`` is an int or left out; functions, and objects that are described by a protocol, are for programs.
    """
    from collections.abc import Callable
    from types import NoneType, UnionType
    from typing import Literal, Union, get_args, get_origin

    origin = get_origin(annotation)
    if origin is Literal:
        return list(get_args(annotation))
    if origin not in (Union, UnionType):
        return [annotation]
    return [
        part
        for part in get_args(annotation)
        if part is not NoneType and get_origin(part) is not Callable and not getattr(part, "_is_protocol", False)
    ]


def named_values(annotation: Any) -> list[str]:
    """Return the values of an option that have names: none for numbers and text.

    >>> from typing import Literal
    >>> named_values(bool), named_values(Literal["mouse", "touch"]), named_values(int)
    (['on', 'off'], ['mouse', 'touch'], [])
    """
    found = []
    for kind in alternatives(annotation):
        if kind is bool:
            found += [_YES[0], _NO[0]]
        elif members := getattr(kind, "__members__", None):
            found += [name.lower() for name in members]
        elif not isinstance(kind, type):
            found.append(str(kind))
    return found


def _value(key: str, text: str, annotation: Any) -> Any:
    tried = []
    for kind in alternatives(annotation):
        try:
            return _convert(text, kind)
        except (TypeError, ValueError) as error:
            tried.append(str(error))
    raise UsageError(f"{key}={text}: {'; '.join(dict.fromkeys(tried))}")


def _convert(text: str, kind: Any) -> Any:
    """Read ``text`` as ``kind``: a number, on or off, a member of an enumeration, or anything made from a string."""
    from inspect import Parameter

    if kind is bool:
        if text.lower() not in _YES + _NO:
            raise ValueError(f"{text!r} is neither on nor off; give one of them")
        return text.lower() in _YES
    if kind is int:
        return integer(text)
    if members := getattr(kind, "__members__", None):
        by_name = {name.lower(): member for name, member in members.items()}
        if text.lower() not in by_name:
            raise ValueError(f"{text!r} is not one of {', '.join(by_name)}")
        return by_name[text.lower()]
    if not isinstance(kind, type):  # one of a Literal's values, or what no text can be, such as list[int]
        if text != str(kind):
            raise ValueError(f"{text!r} is not {kind}")
        return kind
    if kind in (str, Parameter.empty, object):
        return text
    return kind(text)


def integer(text: str) -> int:
    """Read an integer: decimal, 0x…, or with a unit, K, M, G or T, of 1024."""
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    shift = units.get(text[-1:].upper(), 0)
    digits = text[:-1] if shift else text
    try:
        return int(digits, 0) << shift
    except ValueError:
        raise ValueError(f"{text!r} is not an integer; K, M, G and T may follow it") from None
