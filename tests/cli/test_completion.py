"""Completion of command lines, typed into the shells that people use."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyvirtio.cli.complete import complete, words_of
from pyvirtio.cli.main import parser_for
from pyvirtio.cli.usage import every
from pyvirtio.cli.values import FREE, VALUES
from tests.support.commands import run
from tests.support.shells import shell

if TYPE_CHECKING:
    from pathlib import Path

DEVICE = "from pyvirtio import Device\nraise SystemExit('this is not run')\nclass Double(Device): ...\n"

TYPED = {
    "pyvirtio fac": "pyvirtio factorial ",
    "pyvirtio vm sh": "pyvirtio vm shell ",
    "pyvirtio factorial --wr": "pyvirtio factorial --wrap32 ",
    "pyvirtio factorial --wrap32 --qu": "pyvirtio factorial --wrap32 --quiet ",
    "pyvirtio vm run --arch aa": "pyvirtio vm run --arch aarch64 ",
    "pyvirtio vm run --arch=aa": "pyvirtio vm run --arch=aarch64 ",
    "pyvirtio serve entr": "pyvirtio serve entropy ",
    "pyvirtio vm run --device bloc": "pyvirtio vm run --device block ",
    "pyvirtio serve block,pa": "pyvirtio serve block,path=",
    "pyvirtio serve block,path=di": "pyvirtio serve block,path=disk.img ",
    "pyvirtio serve input,kind=mo": "pyvirtio serve input,kind=mouse ",
    "pyvirtio serve dou": "pyvirtio serve double.py ",
    "pyvirtio serve double.py:D": "pyvirtio serve double.py:Double ",
    "pyvirtio trace run": "pyvirtio trace run.jsonl ",
    "pyvirtio vm run --driver fold": "pyvirtio vm run --driver folder/",
    "pyvirtio block ./s": "pyvirtio block ./s.sock ",  # and not s.txt
    "pyvirtio block s.sock rea": "pyvirtio block s.sock read ",
    "pyvirtio serve nothing-like-it": "pyvirtio serve nothing-like-it",
    "ls; pyvirtio fac": "ls; pyvirtio factorial ",
    "PYVIRTIO_ENGINE=reference pyvirtio fac": "PYVIRTIO_ENGINE=reference pyvirtio factorial ",
    "~/bin/pyvirtio fac": "~/bin/pyvirtio factorial ",
    "pyvirtio serve 'double.py:D": "pyvirtio serve 'double.py:Double' ",
}


@pytest.fixture
def folder(tmp_path: Path):
    """A folder with something of everything, and a socket in it."""
    folder = tmp_path / "here"
    (folder / "folder").mkdir(parents=True)
    for name in ("disk.img", "run.jsonl", "s.txt", "folder.txt"):
        (folder / name).touch()
    (folder / "double.py").write_text(DEVICE)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s.sock"))
        yield folder
    (folder / "s.sock").unlink()


@pytest.mark.long
@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_shell_completes(name: str, tmp_path: Path, folder: Path):
    (tmp_path / "home").mkdir()
    with shell(name, tmp_path / "home", folder) as opened:
        assert {typed: opened.completed(typed) for typed in TYPED} == TYPED


def offered(line: str) -> list[str]:
    words = words_of(line)[1:]
    return [word for word, _ in complete(parser_for(words), words).offers]


def test_options_that_exclude_each_other_or_were_given_are_not_offered():
    assert {"--json", "--trace", "--socket"} <= set(offered("pyvirtio factorial --"))
    assert {"--json", "--trace", "--quiet"}.isdisjoint(offered("pyvirtio factorial --quiet --"))
    assert "--generic" not in offered("pyvirtio vm run --generic --")
    assert "--device" in offered("pyvirtio vm run --device echo --")


def test_a_device_offers_the_options_that_it_was_not_given():
    assert {"block,serial=", "block,readonly", "block,help"} <= set(offered("pyvirtio serve block,"))
    rest = offered("pyvirtio serve block,readonly,path=a.img,")
    assert "block,readonly,path=a.img,serial=" in rest
    assert not [word for word in rest if word.endswith((",readonly", ",path=", ",help"))]
    assert offered("pyvirtio serve block,nothing=") == []


def test_behind_two_dashes_nothing_is_an_option_of_ours():
    assert offered("pyvirtio vm run -- --") == []
    assert offered("pyvirtio qemu --") == []


@pytest.mark.parametrize(
    "line", ["", "pyvirtio", "pyvirtio nothing ", "pyvirtio serve 'a", "pyvirtio \\", "pyvirtio --x=y"]
)
def test_any_line_gets_an_answer(line: str):
    command = [sys.executable, "-m", "pyvirtio", "completion", "bash", "--answer"]
    done = subprocess.run(command, input=line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) >= 3


def test_each_shell_has_a_script():
    for name in ("bash", "zsh", "fish"):
        printed = run("completion", name)
        assert (printed.returncode, printed.stderr) == (0, "")
        assert f"completion {name} --answer" in printed.stdout


def test_it_is_known_of_each_argument_what_it_may_be():
    """A metavar stands in one of the two tables, so that a new argument is not forgotten."""
    unknown = {
        f"{parser.prog} {argument.metavar or argument.dest}"
        for parser in every(parser_for())
        for argument in parser._actions
        if argument.nargs != 0 and argument.choices is None and argument.metavar not in VALUES.keys() | FREE
    }
    assert unknown == set()
