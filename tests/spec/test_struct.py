"""Wire structures: bytes in both orders, text, defaults, and what does not fit."""

from __future__ import annotations

import copy
import math
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import LocalError, ShortData
from pyvirtio.spec.struct import Struct, be16, chars, le16, le32, le64, raw, u8


class All(Struct):
    byte: int = u8(1)
    short: int = le16(2)
    word: int = le32(3, writable=True)
    long: int = le64(4)
    text: str = chars(8, "five")
    rest: bytes = raw(4, b"six")


class More(All):
    last: int = u8(writable=True)


def test_layout():
    assert All.nbytes == 27
    assert More.nbytes == 28
    assert [All.offset_of(name) for name in ("byte", "short", "word", "long", "text", "rest")] == [0, 1, 3, 7, 15, 23]
    assert [All.size_of(name) for name in ("byte", "short", "word", "long", "text", "rest")] == [1, 2, 4, 8, 8, 4]
    assert More.offset_of("last") == 27
    assert More.writable_mask() == bytes(3) + b"\xff" * 4 + bytes(20) + b"\xff"


def test_defaults_and_order_of_bytes():
    little = b"\1" + b"\2\0" + b"\3\0\0\0" + b"\4" + bytes(7) + b"five\0\0\0\0" + b"six\0"
    big = b"\1" + b"\0\2" + b"\0\0\0\3" + bytes(7) + b"\4" + b"five\0\0\0\0" + b"six\0"
    assert All().pack() == All().pack("little") == little
    assert All().pack("big") == big
    assert All.unpack(little) == All.unpack(big, "big") == All()


NUMBERS = {"byte": 8, "short": 16, "word": 32, "long": 64}


@given(
    st.fixed_dictionaries({name: st.integers(0, 2**bits - 1) for name, bits in NUMBERS.items()}),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8).filter(
        lambda text: len(text.encode()) <= 8
    ),
    st.binary(max_size=4),
    st.sampled_from(["little", "big"]),
)
def test_there_and_back(numbers, text, rest, order):
    value = All(**numbers, text=text, rest=rest)
    data = value.pack(order)
    assert len(data) == All.nbytes
    back = All.unpack(data, order)
    assert back == value
    assert {name: getattr(back, name) for name in NUMBERS} == numbers
    assert (back.text, back.rest) == (text, rest.ljust(4, b"\0"))


@given(st.binary(min_size=27, max_size=40), st.sampled_from(["little", "big"]))
def test_any_bytes_are_a_structure(data, order):
    value = All.unpack(data, order)
    assert value.pack(order) == data[:27]
    assert isinstance(value.text, str)
    repr(value)


@given(st.binary(max_size=26))
def test_too_few_bytes(data):
    with pytest.raises(ShortData, match=f"All takes 27 bytes; only {len(data)} "):
        All.unpack(data)


def test_too_few_bytes_are_counted_as_bytes():
    with pytest.raises(ShortData, match="only 24 "):
        All.unpack(memoryview(bytes(24)).cast("I"))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_from_any_buffer(kind):
    assert All.unpack(kind(All().pack() + b"more")) == All()


@pytest.mark.parametrize(("name", "bits"), NUMBERS.items())
@pytest.mark.parametrize("beyond", [0, 1, 1 << 64])
def test_a_number_that_does_not_fit_is_refused_when_it_is_given(name, bits, beyond):
    All(**{name: 2**bits - 1}).pack()
    for value in (2**bits + beyond, -1 - beyond):
        with pytest.raises(LocalError, match=rf"^All\.{name} "):
            All(**{name: value})
        with pytest.raises(LocalError, match=rf"^All\.{name} "):
            All().replace(**{name: value})


def test_numbers_in_order_are_checked_as_named_ones_are():
    class Three(Struct):
        first: int = u8()
        second: int = be16()
        third: int = le32()

    class Plain(Struct):
        first: int = u8()
        second: int = le16()

    assert Plain(1) == Plain(first=1) == (1, 0)
    for wrong in (-1, 1 << 16, 1.0, "1", None, b"1"):
        with pytest.raises(LocalError, match=r"^Plain\.second "):
            Plain(1, wrong)
        with pytest.raises(LocalError, match=r"^Three\.second "):
            Three(1, wrong)


def test_a_very_large_number_is_refused_in_few_words():
    """Python raises where such a number is written in decimal."""
    with pytest.raises(LocalError, match=r"^All\.word .*19053 bits"):
        All(word=math.factorial(2000))
    with pytest.raises(LocalError, match=r"^All\.text "):
        All(text=(math.factorial(2000),))


def test_text():
    assert All(text="").text == ""
    assert All(text="12345678").text == "12345678"  # no room for a NUL, and none is needed
    assert All(text="äöüß").text == "äöüß"
    for wrong in ("123456789", "1äöüß", 5, None, "\ud800"):
        with pytest.raises(LocalError, match=r"^All\.text "):
            All(text=wrong)
    assert All.unpack(bytes(15) + b"\xff\xfeab\0cd\0" + bytes(4)).text == "\ufffd\ufffdab"
    assert All(text=b"\xff").text == "\ufffd"


def test_bytes():
    assert All(rest=b"").rest == bytes(4)
    assert All(rest=bytearray(b"1234")).rest == b"1234"
    for wrong in (b"12345", 4, "1234", None):
        with pytest.raises(LocalError, match=r"^All\.rest "):
            All(rest=wrong)


def test_wrong_calls():
    for values, named, word in (
        ((1, 2, 3, 4, "", b"", 7), {}, "7"),
        ((1,), {"byte": 1}, "byte"),
        ((), {"odd": 1}, "odd"),
    ):
        with pytest.raises(LocalError, match=rf"\b{word}\b"):
            All(*values, **named)
    with pytest.raises(LocalError, match=r"\bodd\b"):
        All().replace(odd=1)


def test_it_cannot_be_changed():
    value = All()
    with pytest.raises(AttributeError):
        value.byte = 2
    assert value.replace(byte=2, text="x") == All(2, text="x")
    assert value.as_dict() == {
        "byte": 1,
        "short": 2,
        "word": 3,
        "long": 4,
        "text": "five",
        "rest": b"six\0",
    }
    assert repr(All(text="a")) == "All(byte=1, short=2, word=3, long=4, text='a', rest=b'six\\x00')"


@given(st.binary(min_size=27, max_size=27))
def test_replacing_one_field_leaves_every_other_byte(data):
    """Text that is not UTF-8, or that goes on behind a NUL, is left as it is."""
    changed = All.unpack(data).replace(word=7)
    assert changed.pack() == data[:3] + b"\7\0\0\0" + data[7:]


def test_numpy_sees_the_same():
    np = pytest.importorskip("numpy")
    kind = All.numpy_dtype()
    assert kind.itemsize == All.nbytes
    record = np.frombuffer(All(9, 8, 7, 6, "hi", b"1234").pack(), kind)[0]
    assert (record["byte"], record["short"], record["word"], record["long"]) == (9, 8, 7, 6)
    assert (record["text"], record["rest"]) == (b"hi", b"1234")


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_is_equal(through):
    for value in (All(text=b"\xff"), More(last=3)):
        assert through(value) == value
        assert type(through(value)) is type(value)


def test_an_empty_structure():
    class Nothing(Struct):
        pass

    assert Nothing.nbytes == 0
    assert Nothing.unpack(b"") == Nothing()
    assert Nothing().pack() == b""
    assert struct.calcsize("<") == 0
