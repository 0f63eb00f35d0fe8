"""The command line, as a script sees it: exact output, exit status, and one line for each mistake."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.served import served
from pyvirtio.testing.signals import interruptible
from tests.support.commands import refused, run

if TYPE_CHECKING:
    from pathlib import Path


def prints(result: subprocess.CompletedProcess[str], *lines: str) -> None:
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "".join(f"{line}\n" for line in lines)


@pytest.fixture(autouse=True)
def _long_numbers():
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


def test_factorial():
    prints(run("factorial", "5"), "5! = 120")


def test_factorials_in_the_order_that_was_asked():
    numbers = [20, 0, 13, 1, 13, 300]
    prints(run("factorial", *map(str, numbers)), *(f"{n}! = {math.factorial(n)}" for n in numbers))


def test_many_factorials():
    numbers = [n * 7 % 501 for n in range(500)]
    prints(run("factorial", *map(str, numbers)), *(f"{n}! = {math.factorial(n)}" for n in numbers))


def test_the_largest_exact_factorial():
    prints(run("factorial", "--quiet", "20000"), str(math.factorial(20000)))


def test_wrap32():
    prints(
        run("factorial", "--wrap32", "5", "13", "34", "4294967295"),
        "5! mod 2**32 = 120",
        "13! mod 2**32 = 1932053504",
        "34! mod 2**32 = 0",
        "4294967295! mod 2**32 = 0",
    )


def test_quiet():
    prints(run("factorial", "--quiet", "5", "0"), "120", "1")
    prints(run("factorial", "--quiet", "--wrap32", "13"), "1932053504")


def test_json():
    result = run("factorial", "--json", "5", "30")
    assert result.returncode == 0
    assert json.loads(result.stdout) == [
        {"n": 5, "factorial": "120", "mod32": False},
        {"n": 30, "factorial": str(math.factorial(30)), "mod32": False},
    ]
    result = run("factorial", "--json", "--wrap32", "13")
    assert json.loads(result.stdout) == [{"n": 13, "factorial": "1932053504", "mod32": True}]


def test_numbers_with_leading_zeros_are_numbers():
    prints(run("factorial", "007"), "7! = 5040")


def test_socket_of_a_running_backend():
    with served("factorial") as server:
        for _ in range(2):
            prints(run("factorial", "--socket", server.path, "5", "6"), "5! = 120", "6! = 720")
        prints(run("factorial", "--socket", server.path, "--wrap32", "13"), "13! mod 2**32 = 1932053504")


@pytest.mark.parametrize(
    "number",
    [
        "-1",
        "-0",
        "4294967296",
        "99999999999999999999999999",
        "9" * 5000,
        "abc",
        "",
        " 5",
        "5.0",
        "0x10",
        "1e3",
        "\uff15",
        "+5",
        "1_0",
    ],
)
def test_numbers_that_are_none(number: str):
    refused(run("factorial", number), 2, "argument N", "--help")
    refused(run("factorial", "5", number), 2)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["factorial"],
        ["nothing"],
        ["factorial", "--quiet"],
        ["factorial", "--quiet", "--json", "5"],
        ["factorial", "--qui", "5"],
        ["factorial", "--tarce", "5"],
        ["factorial", "5", "--socket"],
    ],
)
def test_wrong_usage(arguments: list[str]):
    refused(run(*arguments), 2, "--help")


def test_number_above_what_the_device_computes():
    refused(run("factorial", "20001"), 1, "20001", "20000", "--wrap32")
    refused(run("factorial", "--json", "5", "20001"), 1, "20001")


def test_results_before_a_number_that_is_too_large_are_printed():
    result = run("factorial", "5", "20001")
    assert (result.returncode, result.stdout) == (1, "5! = 120\n")
    assert result.stderr.count("\n") == 1


def test_socket_that_nobody_serves(tmp_path: Path):
    path = str(tmp_path / "s")
    refused(run("factorial", "5", "--socket", path), 1, path, "pyvirtio serve")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    refused(run("factorial", "5", "--socket", path), 1, path, "pyvirtio serve")
    os.unlink(path)


def test_socket_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("precious")
    refused(run("factorial", "5", "--socket", str(tmp_path / "file")), 1, "file")


@pytest.mark.parametrize("path", ["x" * 108, "/tmp/" + "ä" * 60, ""])
def test_socket_whose_path_is_none(path: str):
    refused(run("factorial", "5", "--socket", path), 1, "107")


def test_peer_that_is_no_backend(tmp_path: Path):
    path = str(tmp_path / "s")
    for answer in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(12), b"\xff" * 12):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            process = subprocess.Popen(
                [sys.executable, "-m", "pyvirtio", "factorial", "5", "--socket", path],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            with listener.accept()[0] as connection:
                connection.sendall(answer)
                connection.recv(1)
            output, errors = process.communicate(timeout=60)
        os.unlink(path)
        assert (process.returncode, output) == (1, "")
        assert errors.startswith("pyvirtio: ")
        assert errors.count("\n") == 1


def test_reader_that_has_enough():
    numbers = " ".join(["2000"] * 500)
    script = f"{sys.executable} -m pyvirtio factorial {numbers} | head -c 10"
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "2000! = 33"
    assert result.stderr == ""


def test_interrupt_leaves_no_traceback(tmp_path: Path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with interruptible():
            process = subprocess.Popen(
                [sys.executable, "-m", "pyvirtio", "factorial", "5", "--socket", path],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        with listener.accept()[0]:
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
    os.unlink(path)
    assert (process.returncode, output, errors) == (130, "", "pyvirtio: interrupted\n")


def test_help_and_version():
    for arguments in (["--help"], ["factorial", "--help"], ["serve", "--help"], ["--version"]):
        result = run(*arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout


def without_native(folder: Path) -> dict[str, str]:
    """Return the environment of an install that has no compiled engine."""
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['pyvirtio.ring._native'] = None\n")
    return {"PYTHONPATH": str(folder)}


def test_doctor_says_what_the_python_engine_costs_and_how_to_get_the_one_in_c(tmp_path: Path):
    command = [sys.executable, "-m", "pyvirtio", "doctor", "--json"]
    environment = os.environ | without_native(tmp_path)
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout
    [engine] = [row for row in json.loads(printed) if row["name"] == "ring engine"]
    assert engine["state"] == "optional"
    assert "Python" in engine["found"]
    assert f"{sys.executable} -m pyvirtio.ring.build_native" in engine["remedy"]


def test_serve_says_on_request_that_the_faster_engine_is_missing(tmp_path: Path):
    with served("factorial", "--verbose", environment=without_native(tmp_path)) as server:
        server.wait_for("is ready")
        assert server.lines("[engine-slow]") == 1
    with served("factorial", environment=without_native(tmp_path)) as server:
        server.wait_for("is ready")
        assert server.lines("[engine-slow]") == 0
