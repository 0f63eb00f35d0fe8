"""What the help of each command says."""

from __future__ import annotations

import re
import shlex

import pytest

from pyvirtio.cli.main import parser_for
from pyvirtio.cli.usage import Parser, below, every
from tests.support.commands import run

PARSERS = {parser.prog: parser for parser in every(parser_for())}


@pytest.mark.parametrize("name", PARSERS)
def test_a_command_says_what_it_does_and_shows_an_example_of_itself(name: str):
    parser = PARSERS[name]
    assert parser.description
    words = name.replace(" SOCKET", "").split()  # the action of `pyvirtio block` comes behind the socket
    assert any(set(words) <= set(shlex.split(typed)) for typed, _ in parser.examples if "$(" not in typed)


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
def test_the_examples_are_command_lines_that_are_understood(parser: Parser):
    for typed, what in parser.examples:
        assert what
        match = re.search(r"\bpyvirtio ([^()<>|]+)", typed)  # without the shell's part of it
        assert match, typed
        words = shlex.split(match[1])
        assert callable(parser_for(words).parse_args(words).run)


def test_every_argument_says_what_it_is():
    arguments = [(parser, one) for parser in PARSERS.values() for one in parser._actions if one is not below(parser)]
    assert [f"{parser.prog} {one.dest}" for parser, one in arguments if not one.help] == []


def test_examples_are_printed_as_they_are_typed():
    printed = run("serve", "--help").stdout
    assert "\n  pyvirtio serve block,path=disk.img,readonly --socket /tmp/disk.sock\n" in printed
