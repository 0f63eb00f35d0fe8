"""Options on a command line: what the typed parameters of a device's constructor make of them."""

from __future__ import annotations

from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from pyvirtio.device.options import construct, parameters_of, split, usage
from pyvirtio.errors import LocalError, UsageError


class Colour(Enum):
    RED = "r"
    GREEN = "g"


class Speed(IntEnum):
    SLOW = 10
    FAST = 100


class Everything:
    def __init__(
        self,
        path: Path,
        *,
        size: int = 4096,
        ratio: float = 0.5,
        readonly: bool = False,
        colour: Colour = Colour.RED,
        speed: Speed = Speed.SLOW,
        cache: Literal["none", "writeback", 7] = "none",
        serial: str | None = None,
        limit: Optional[int] = None,  # noqa: UP045  # an author may write it so
        untyped="plain",
    ) -> None:
        self.values = locals()


class Text:
    """Its annotations are text twice over: by this module's import, and by their author."""

    def __init__(self, size: "int", path: "Path | None" = None) -> None:  # noqa: UP037  # that is the point
        self.values = locals()


def made(kind: type[Any] = Everything, /, **options: str) -> dict[str, Any]:
    values: dict[str, Any] = construct(kind, options).values
    return values


# Splitting.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("console", ("console", {})),
        ("disk,path=a.img", ("disk", {"path": "a.img"})),
        ("disk,path=a,,b.img,readonly", ("disk", {"path": "a,b.img", "readonly": "on"})),
        ("disk,path=a=b,size=", ("disk", {"path": "a=b", "size": ""})),
        ("my.module:Disk,path=/tmp/x", ("my.module:Disk", {"path": "/tmp/x"})),
    ],
)
def test_a_device_and_its_options_are_split_as_qemu_splits_them(text: str, found: object):
    assert split(text) == found


def test_an_option_that_is_given_twice_is_refused():
    with pytest.raises(UsageError):
        split("disk,path=a,path=b")


# Values.


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "10", 10),
        ("size", "0x10", 16),
        ("size", "-1", -1),
        ("size", "4K", 4096),
        ("size", "16m", 16 << 20),
        ("size", "0x10G", 16 << 30),
        ("size", "1T", 1 << 40),
        ("ratio", "2.5", 2.5),
        ("readonly", "on", True),
        ("readonly", "YES", True),
        ("readonly", "0", False),
        ("readonly", "false", False),
        ("colour", "green", Colour.GREEN),
        ("colour", "Red", Colour.RED),
        ("speed", "fast", Speed.FAST),
        ("cache", "writeback", "writeback"),
        ("cache", "7", 7),
        ("serial", "none", "none"),
        ("limit", "1K", 1024),
        ("untyped", "1", "1"),
    ],
)
def test_a_value_has_the_type_that_the_parameter_has(name: str, text: str, value: object):
    found = made(path="x", **{name: text})[name]
    assert found == value
    assert type(found) is type(value)


def test_what_is_not_given_has_its_default():
    values = made(path="x")
    assert values["path"] == Path("x")
    assert (values["size"], values["colour"], values["serial"], values["limit"]) == (4096, Colour.RED, None, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("size", "ten"),
        ("size", ""),
        ("size", "K"),
        ("size", "1.5K"),
        ("ratio", "half"),
        ("readonly", "maybe"),
        ("readonly", ""),
        ("colour", "blue"),
        ("colour", "r"),
        ("cache", "writethrough"),
        ("limit", "none"),
    ],
)
def test_an_impossible_value_is_refused_by_its_name(name: str, text: str):
    with pytest.raises(UsageError, match=f"{name}="):
        made(path="x", **{name: text})


def test_an_unknown_option_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match="readonly") as caught:
        made(path="x", read_only="on")
    assert "read_only" in str(caught.value)


def test_a_missing_option_is_named():
    with pytest.raises(UsageError, match="path"):
        made(size="1")


def test_annotations_that_are_text_are_resolved():
    assert made(Text, size="4K", path="x")["path"] == Path("x")
    assert made(Text, size="4K")["size"] == 4096


def test_an_annotation_that_cannot_be_resolved_is_the_author_s_mistake():
    class Wrong:
        def __init__(self, path: Pfad) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # it does not exist

    with pytest.raises(LocalError, match="Pfad") as caught:
        construct(Wrong, {"path": "x"})
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize("annotation", [list[int], dict, bytes, tuple[int, str]])
def test_a_type_that_no_text_makes_is_refused_and_not_guessed(annotation: Any):
    class Odd:
        def __init__(self, what: object) -> None:
            self.what = what

    Odd.__init__.__annotations__["what"] = annotation
    with pytest.raises(LocalError, match="what"):
        construct(Odd, {"what": "12"})


def test_a_device_without_a_constructor_takes_no_options():
    class Bare: ...

    assert isinstance(construct(Bare, {}), Bare)
    assert parameters_of(Bare) == {}
    with pytest.raises(UsageError, match="takes no options"):
        construct(Bare, {"path": "x"})


def test_what_collects_all_other_arguments_is_no_option():
    class Collector:
        def __init__(self, *many: int, path: str = "", **more: int) -> None:
            self.values = locals()

    assert list(parameters_of(Collector)) == ["path"]
    with pytest.raises(UsageError):
        construct(Collector, {"more": "1"})


def test_the_constructor_s_own_refusal_is_not_touched():
    class Picky:
        def __init__(self, size: int) -> None:
            raise ValueError("too small")

    with pytest.raises(ValueError, match="too small") as caught:
        construct(Picky, {"size": "1"})
    assert not isinstance(caught.value, LocalError)


def test_usage_names_each_option_with_its_type_and_default():
    assert usage(Everything) == [
        "path=<Path>",
        "size=<int> (default: 4096)",
        "ratio=<float> (default: 0.5)",
        "readonly=<on|off> (default: off)",
        "colour=<red|green> (default: red)",
        "speed=<slow|fast> (default: slow)",
        "cache=<none or writeback or 7> (default: none)",
        "serial=<str>",
        "limit=<int>",
        "untyped=<text> (default: plain)",
    ]
