"""What an argument of the command line may be: its choices, or what its metavar stands for."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from inspect import Parameter

    Offers = Iterable[tuple[str, str]]
    """Words, and what each is."""


@dataclass(frozen=True)
class Answer:
    """What a shell offers for the word that is being typed.

    Attributes:
        offers: whole words, and what each is.
        paths: which paths of the machine may come as well: none, "files", "folders", or "sockets".
        before: what stands in the word before the path.
    """

    offers: Sequence[tuple[str, str]] = ()
    paths: str = ""
    before: str = ""

    def __bool__(self) -> bool:
        """Return whether there may be anything to offer."""
        return bool(self.offers or self.paths)

    def lines(self) -> list[str]:
        """Return what the shells' scripts read: the kind of paths, what is before them, a line for each word."""
        return [self.paths, self.before, *(f"{word}\t{what}" for word, what in self.offers)]


def behind(before: str, answer: Answer) -> Answer:
    """Return an answer for a word that has more before it."""
    return Answer([(f"{before}{word}", what) for word, what in answer.offers], answer.paths, f"{before}{answer.before}")


def values(argument: argparse.Action, word: str) -> Answer:
    """Return what an argument may be, where ``word`` is its beginning."""
    if isinstance(argument, argparse._SubParsersAction):
        return _matching(((one.dest, one.help or "") for one in argument._choices_actions), word)
    if argument.choices is not None:
        return _matching(((str(one), "") for one in argument.choices), word)
    return VALUES.get(str(argument.metavar), _nothing)(word)


def _matching(offers: Offers, word: str) -> Answer:
    return Answer([(offer, what) for offer, what in offers if offer.startswith(word)])


def _nothing(_word: str) -> Answer:
    return Answer()


def _paths(kind: str) -> Callable[[str], Answer]:
    return lambda _word: Answer(paths=kind)


def _device(word: str) -> Answer:
    """Return devices: those that ship, files, the classes of a file, and options behind a comma."""
    from pyvirtio.devices import SHIPPED

    name, has_options, _ = word.partition(",")
    if has_options:
        return _device_option(word, SHIPPED[name]) if name in SHIPPED else Answer()
    file, is_class, _ = word.rpartition(":")
    if is_class:
        return _matching(((f"{file}:{one}", "") for one in _classes(os.path.expanduser(file))), word)
    return Answer(_matching(((one, "a device that ships") for one in SHIPPED), word).offers, "files")


def _classes(path: str) -> list[str]:
    """Return the devices that a file seems to have: nothing of it is run, only because somebody pressed a key."""
    import ast

    from pyvirtio.devices import SHIPPED

    known = {"Device", *(place.rpartition(":")[2] for place in SHIPPED.values())}
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return []
    found = []
    for one in tree.body:
        if isinstance(one, ast.ClassDef) and {ast.unparse(base).rpartition(".")[2] for base in one.bases} & known:
            known.add(one.name)
            found.append(one.name)
    return found


def _device_option(word: str, place: str) -> Answer:
    from importlib import import_module

    from pyvirtio.device.options import parameters_of, usage

    module, _, class_name = place.partition(":")
    kind = getattr(import_module(module), class_name)
    parameters = parameters_of(kind)
    given, _, last = word.rpartition(",")
    name, has_value, value = last.partition("=")
    if has_value:
        return behind(f"{given},{name}=", _option_values(parameters[name], value)) if name in parameters else Answer()
    taken = {part.partition("=")[0] for part in given.split(",")[1:]}
    offers = [
        (one if parameters[one].annotation is bool else f"{one}=", line.partition("=")[2])
        for one, line in zip(parameters, usage(kind), strict=True)
        if one not in taken
    ]
    if not taken:
        offers.append(("help", "list the options"))
    return behind(f"{given},", _matching(offers, last))


def _option_values(parameter: Parameter, value: str) -> Answer:
    from pathlib import Path

    from pyvirtio.device.options import alternatives, named_values

    if Path in alternatives(parameter.annotation):
        return Answer(paths="files")
    return _matching(((one, "") for one in named_values(parameter.annotation)), value)


VALUES: dict[str, Callable[[str], Answer]] = {
    "BACK": _paths("sockets"),
    "DEVICE": _device,
    "DEVICE[,OPTION=VALUE...]": _device,
    "DIR": _paths("folders"),
    "FILE": _paths("files"),
    "FRONT": _paths("sockets"),
    "HOST[:GUEST]": _paths("files"),
    "OUT": _paths("files"),
    "PATH": _paths("sockets"),
    "SOCKET": _paths("sockets"),
    "TARGET": _paths("sockets"),
}
"""What is offered for an argument, by its metavar."""

FREE = {"ARGUMENT", "BYTES", "COMMAND", "LENGTH", "N", "NAME", "OFFSET", "PORT", "S", "SECONDS", "V"}
"""Metavars of what only the user knows."""
