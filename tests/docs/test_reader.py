"""The reader of pages notices what is not as a page says; see tests/support/pages.py."""

from __future__ import annotations

import pytest

from tests.support.pages import Reader, blocks, boots_a_guest, differs


def read(folder, text: str) -> None:
    with Reader(folder) as reader:
        for block in blocks(text):
            reader.do(block)


def console(*lines: str) -> str:
    return "\n".join(["```console", *lines, "```", ""])


DEVICE = """```python
# twice.py
from pyvirtio import Device, Queue, Struct, le32


class Number(Struct):
    value: int = le32()


class Twice(Device):
    requests = Queue(Number, Number)

    @requests.each
    def twice(self, number: Number) -> Number:
        return Number(2 * number.value)
```
"""
SERVE = "$ pyvirtio serve twice.py:Twice --socket /tmp/t.sock &"
DRIVE = """```python
from pyvirtio import Driver, RequestQueue, open_driver
from twice import Number

class TwiceDriver(Driver):
    device_id = 38
    requests = RequestQueue(Number, Number)

with open_driver(TwiceDriver, "vhost-user:/tmp/t.sock") as driver:
    print(driver.requests.call(Number(4)).value)  # 8
```
"""


@pytest.mark.parametrize(
    "lines",
    [
        ["$ echo one; echo two >&2", "one", "two"],
        ["$ seq 9", "1", "…", "9"],
        ["$ echo took 0.31 s", "took … s"],
        ["$ mkdir new && cd new", "$ pwd", "/tmp/new", "$ export A=5", "$ echo $A", "5"],
        ["$ false", "$ echo $?", "1"],
        ["$ cat /tmp/none", "cat: /tmp/none: No such file or directory"],
        ["$ pip install pyvirtio"],
        ["$ make help", "usage: make TARGET …", "…"],
        ["$ printf 'all:\\n\\t@echo mine\\n' >Makefile", "$ make", "mine"],
    ],
)
def test_what_is_right(tmp_path, lines):
    read(tmp_path, console(*lines))


@pytest.mark.parametrize(
    "text",
    [
        console("$ echo one", "two"),
        console("$ echo one"),
        console("$ true", "one"),
        console("$ seq 3", "1", "…", "2"),
        console("$ false"),
        console("$ echo one; false", "…"),
        console("before", "$ true"),
        "```python\nprint(1)  # 2\n```\n",
        "```python\nprint(1)\n```\n",
        "```python\nraise SystemExit(1)\n```\n",
    ],
)
def test_what_is_wrong(tmp_path, text):
    with pytest.raises(AssertionError):
        read(tmp_path, text)


def test_what_is_saved_is_compiled(tmp_path):
    with pytest.raises(SyntaxError):
        read(tmp_path, "```python\n# one.py\nx =\n```\n")


@pytest.mark.parametrize("said", [[], ["pyvirtio: Twice (virtio id 38) is ready on /tmp/t.sock"]], ids=["", "said"])
def test_what_is_left_running_serves_the_rest_of_the_page(tmp_path, said):
    read(tmp_path, DEVICE + console(SERVE, *said) + DRIVE)
    assert not (tmp_path / "t.sock").exists()


def test_what_was_to_be_left_running_and_ended_is_noticed(tmp_path):
    with pytest.raises(TimeoutError, match="is ready on"):
        read(tmp_path, console(SERVE))


def test_the_lines_of_what_is_left_running_are_compared(tmp_path):
    with pytest.raises(AssertionError):
        read(tmp_path, DEVICE + console(SERVE, "is ready on /tmp/t.sock"))


def test_pages_that_boot_guests_are_known():
    assert boots_a_guest(console("$ pyvirtio vm run -- true"))
    assert boots_a_guest("```python\nfrom pyvirtio.vm import guest\n```\n")
    assert not boots_a_guest("`pyvirtio vm run`" + console("$ pyvirtio factorial 5"))


def test_a_gap_in_a_line_is_not_a_gap_of_lines():
    assert differs(["a 1", "b"], ["a …"])
    assert not differs(["a 1", "b  ", ""], ["a ...", "b"])
