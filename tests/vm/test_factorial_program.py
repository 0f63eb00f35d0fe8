"""The user program, with a stand-in for the driver."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.vm.rootfs import GUEST_FILES

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("guest_factorial", str(GUEST_FILES / "factorial"))
    spec = importlib.util.spec_from_loader("guest_factorial", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def driver(program: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bytes]], None]:
    """Let /dev/virtio_misc answer with what a function gives for n, a few bytes at a time."""

    def install(answer: Callable[[int], bytes]) -> None:
        pending = bytearray()

        def write(_descriptor: int, data: bytes) -> int:
            pending[:] = answer(int.from_bytes(data, sys.byteorder))
            return len(data)

        def read(_descriptor: int, _size: int) -> bytes:
            piece = bytes(pending[:3])
            del pending[:3]
            return piece

        monkeypatch.setattr(program.os, "open", lambda *_: 99)
        monkeypatch.setattr(program.os, "write", write)
        monkeypatch.setattr(program.os, "read", read)

    return install


def exact(n: int) -> bytes:
    value = math.factorial(n)
    return value.to_bytes((value.bit_length() + 7) // 8, "little")


def wrapped(n: int) -> bytes:
    return (math.factorial(n) % 2**32).to_bytes(4, sys.byteorder)


@pytest.mark.parametrize("n", [0, 1, 5, 10, 11, 12, 13, 14, 20, 33, 34, 1000])
def test_exact_values(program: Any, driver: Any, capsys: pytest.CaptureFixture[str], n: int) -> None:
    driver(exact)
    assert program.main([str(n)]) == 0
    assert capsys.readouterr().out == f"{n}! = {math.factorial(n)}\n"


@pytest.mark.parametrize("answer", [exact, wrapped])
def test_wrapped_values(
    program: Any, driver: Any, capsys: pytest.CaptureFixture[str], answer: Callable[[int], bytes]
) -> None:
    driver(answer)
    assert program.main(["--wrap32", "5", "13", "33", "34"]) == 0
    values = [(5, 120), (13, 1932053504), (33, 2147483648), (34, 0)]
    assert capsys.readouterr().out == "".join(f"{n}! mod 2**32 = {value}\n" for n, value in values)


def test_without_exact_only_what_wrapped_is_called_wrapped(
    program: Any, driver: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    driver(wrapped)
    assert program.main(["12", "13"]) == 0
    assert capsys.readouterr().out == "12! = 479001600\n13! mod 2**32 = 1932053504\n"


@pytest.mark.parametrize("words", [[], ["five"], ["-1"], ["4294967296"], ["1.0"], ["--what"], ["\u0665"]])
def test_wrong_usage_is_one_line(program: Any, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert program.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "usage: factorial" in err


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ERANGE, "larger than what the device computes"), (errno.EIO, "Input/output error")]
)
def test_errors_of_the_driver_are_one_line(
    program: Any, driver: Any, capsys: pytest.CaptureFixture[str], number: int, text: str
) -> None:
    def fail(_n: int) -> bytes:
        raise OSError(number, os.strerror(number))

    driver(fail)
    assert program.main(["5"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert text in err


def test_no_answer_and_no_device(program: Any, driver: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--device", "/dev/not/there", "5"]) == 1
    assert "is the driver loaded" in capsys.readouterr().err
    driver(lambda _: b"")
    assert program.main(["5"]) == 1
    assert "the device returned nothing" in capsys.readouterr().err
