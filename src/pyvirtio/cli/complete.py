"""What may come next on a command line, read from the parsers that will read the line.

Nothing is declared for it: commands, options and choices are what the parsers say.
"""

from __future__ import annotations

import argparse

from pyvirtio.cli.values import Answer, behind, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def words_of(line: str) -> list[str]:
    """Split the beginning of a line as a shell would; the last word is the one that is being typed.

    >>> words_of("pyvirtio serve "), words_of("pyvirtio serve 'my disk.py:Di")
    (['pyvirtio', 'serve', ''], ['pyvirtio', 'serve', 'my disk.py:Di'])
    """
    import shlex

    ends = "\0"  # no line has it, and it keeps a word that is empty so far
    for closing in ("", "'", '"'):
        reader = shlex.shlex(f"{line}{ends}{closing}", posix=True, punctuation_chars=False)
        reader.whitespace_split, reader.commenters = True, ""
        try:
            return [word.replace(ends, "") for word in reader]
        except ValueError:  # inside of quotes
            continue
    return [""]


def complete(parser: argparse.ArgumentParser, words: Sequence[str]) -> Answer:
    """Return what may stand in the place of the last of ``words``, which come after the program's name."""
    place = _Place(parser)
    for word in words[:-1]:
        place = place.behind(word)
    return place.answer(words[-1])


class _Place:
    """A place on a command line: what came before it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser
        self._arguments = [one for one in parser._actions if not one.option_strings]
        self._given: list[argparse.Action] = []
        self._awaited: argparse.Action | None = None  # the option whose value comes next
        self._has_options = True

    def behind(self, word: str) -> _Place:
        """Return the place behind one more word."""
        if self._is_value(word):
            self._awaited = None
        elif self._has_options and word == "--":
            self._has_options = False
        elif self._is_option(word):
            self._take_option(word)
        elif self._arguments:
            return self._take_argument(word)
        return self

    def answer(self, word: str) -> Answer:
        """Return what may stand here."""
        if self._is_value(word):
            assert self._awaited is not None
            return values(self._awaited, word)
        if self._is_option(word):
            name, has_value, value = word.partition("=")
            if not has_value:
                return self._options(word)
            option = self._parser._option_string_actions.get(name)
            return behind(f"{name}=", values(option, value)) if option is not None else Answer()
        here = values(self._arguments[0], word) if self._arguments else Answer()
        return here or self._options(word)

    def _is_value(self, word: str) -> bool:
        return self._awaited is not None and not (self._awaited.nargs == "?" and self._is_option(word))

    def _is_option(self, word: str) -> bool:
        return self._has_options and word[:1] in tuple(self._parser.prefix_chars)

    def _take_option(self, word: str) -> None:
        self._awaited = None
        option = self._parser._option_string_actions.get(word.partition("=")[0])
        if option is not None:
            self._given.append(option)
            if option.nargs != 0 and "=" not in word:
                self._awaited = option

    def _take_argument(self, word: str) -> _Place:
        argument = self._arguments[0]
        if isinstance(argument, argparse._SubParsersAction):
            return _Place(argument.choices[word]) if word in argument.choices else self
        if argument.nargs not in ("*", "+"):
            del self._arguments[0]
        return self

    def _options(self, word: str) -> Answer:
        if not self._has_options:
            return Answer()
        excluded = {id(one) for one in self._given if not isinstance(one, argparse._AppendAction)}
        for group in self._parser._mutually_exclusive_groups:
            if any(one in self._given for one in group._group_actions):
                excluded |= {id(one) for one in group._group_actions}
        return Answer(
            [
                (name, (option.help or "") % {**vars(option), "prog": self._parser.prog})
                for option in self._parser._actions
                if id(option) not in excluded and option.help != argparse.SUPPRESS
                for name in option.option_strings
                if name.startswith(word) and (len(name) > 2 or name == word)
            ]
        )
