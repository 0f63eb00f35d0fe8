"""How far a long step has come, shown to the user who waits for it.

`Silent` is for tests and libraries, `Lines` prints a line when a step begins, `Bars` draws with rich.
`for_terminal` chooses.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class Progress(Protocol):
    """Where long steps are reported."""

    def step(self, title: str) -> AbstractContextManager[Callable[[float], None]]:
        """Return a context for a step; its value is called with the part that is done, 0 to 1."""

    def notice(self, text: str) -> None:
        """Show the user one line."""


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Callable[[float], None]]:  # noqa: ARG002 - the protocol's
        """Show nothing of the step."""
        yield lambda _: None

    def notice(self, text: str) -> None:
        """Show nothing."""


class Lines:
    """A line for each step, for logs and for terminals without rich."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Callable[[float], None]]:
        """Name the step when it begins."""
        self.notice(f"{title} ...")
        yield lambda _: None

    def notice(self, text: str) -> None:
        """Print a line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()


class Bars:
    """A bar for each step, drawn by rich."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Callable[[float], None]]:
        """Draw a bar while the step lasts."""
        import rich.progress

        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeElapsedColumn(),
        )
        with rich.progress.Progress(*columns, console=self._console) as bars:
            task = bars.add_task(title, total=1.0)

            def update(done: float) -> None:
                bars.update(task, completed=done)

            yield update
            update(1.0)

    def notice(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def for_terminal() -> Progress:
    """Return bars if stderr is a terminal and rich is installed, otherwise lines on stderr."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        return Bars()
    return Lines(sys.stderr)
