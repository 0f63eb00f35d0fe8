"""What a page of the documentation shows, and running it: see CONTRIBUTING.md, "Write a page"."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.testing.served import ServerProcess
from tests.support.environment import of_a_user

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

ROOT = Path(__file__).parents[2]
LANGUAGES = {"python", "console", "text", "c", "json", "make", "xml"}
"""What a block of a page may be in."""

NAMED = re.compile(r"(?:#|//|/\*) ([\w./-]+\.\w+|Kbuild|Makefile)(?: \*/)?\n")
"""The first line of a block that is saved as a file."""

BOOTS = {
    "console": ("pyvirtio vm", "pyvirtio qemu", "make guest", "make test-guest"),
    "python": ("pyvirtio.vm", "virtio_guest"),
}
"""What in a block makes a page one that boots a guest."""

NOT_RUN = ("pip install", "sudo ", "apt-get ", "apt ", "git clone", "python3 -m venv", ". venv/", ". .venv/")
"""What changes the machine or the environment: it is shown, and not run."""

GAPS = ("…", "...")
WILD = re.compile(r"…|\.\.\.")
ASSIGNS = re.compile(r"\w+=")
LIMIT = 280.0
"""The seconds that a command or a program may take."""

SAVE = 'status=$?; { export -p; echo "cd \\"$PWD\\""; echo "(exit $status)"; } >"$STATE"'
"""What a shell leaves behind for the next command: variables, the folder, and the exit status."""

MAKE = f'make() {{ if [ -f Makefile ]; then command make "$@"; else command make -sC {ROOT} "$@"; fi; }}'
"""A page's ``make`` is the checkout's, but in a folder that has a Makefile."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, what is in it, and the number of its first line."""

    language: str
    text: str
    line: int

    @property
    def name(self) -> str | None:
        """The file that it is saved as."""
        found = NAMED.match(self.text)
        return found[1] if found and self.language != "console" else None

    def commands(self) -> list[Command]:
        """Return the commands of a console block, each with the lines that it prints."""
        found: list[Command] = []
        continues = False
        for line in self.text.splitlines():
            if continues:
                found[-1].line += f"\n{line}"
            elif line.startswith("$ "):
                found.append(Command(line[2:]))
            else:
                assert found, f"{line!r} stands before the first command"
                found[-1].printed.append(line)
                continue
            continues = line.endswith("\\")
        return found


@dataclass
class Command:
    """A line of a console block and what follows it there."""

    line: str
    printed: list[str] = field(default_factory=list)

    @property
    def in_background(self) -> bool:
        """Whether what follows does not wait for it."""
        return self.line.endswith(" &")

    @property
    def is_run(self) -> bool:
        """Whether a test may run it."""
        return not self.line.startswith(NOT_RUN)


def blocks(text: str, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, all or those of one language."""
    found = re.finditer(r"^( *)```(\S*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    each = [Block(one[2], _unindented(one[3], len(one[1])), text.count("\n", 0, one.start()) + 2) for one in found]
    return [block for block in each if language in (None, block.language)]


def _unindented(text: str, width: int) -> str:
    return "".join(line[width:] if line.strip() else "\n" for line in text.splitlines(keepends=True))


def public_packages() -> list[str]:
    """Return the packages whose names docs/stability.md calls public; the first one is ``pyvirtio``."""
    page = (ROOT / "docs" / "stability.md").read_text()
    found: list[str] = re.findall(r"^\| `(pyvirtio[\w.]*)` \|", page, re.MULTILINE)
    assert found[0] == "pyvirtio"
    return found


def printed_by(program: str) -> list[str]:
    """Return what a program says that it prints: ``print(...)  # this``."""
    return re.findall(r"print\(.*\)  # (.*)", program)


def boots_a_guest(text: str) -> bool:
    """Return whether a page shows something that boots a guest."""
    return any(sign in block.text for block in blocks(text) for sign in BOOTS.get(block.language, ()))


def moved(text: str, folder: Path) -> str:
    """Return what a page shows with a folder in place of /tmp."""
    return text.replace("/tmp/", f"{folder}/")


def run_python(program: str, folder: Path, limit: float = 60.0) -> list[str]:
    """Run a program in a folder, and return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout.splitlines()


def differs(printed: Sequence[str], expected: Sequence[str]) -> str:
    """Return how an output differs from the lines of a page, where ``…`` is any text, or alone any lines."""
    lines = [line.rstrip() for line in "\n".join(printed).rstrip().splitlines()]
    if re.fullmatch("".join(map(_pattern, expected)), "".join(f"{line}\n" for line in lines)):
        return ""
    return "\n  ".join(["the page says:", *expected, "but this was printed:", *lines])


def _pattern(line: str) -> str:
    if line.strip() in GAPS:
        return r"(?:.*\n)*?"
    return r".*?".join(re.escape(part) for part in WILD.split(line.rstrip())) + r"\n"


class Reader:
    """A folder in which the blocks of a page are done, one after the other, as its reader would do them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = folder / ".state"
        self._state.write_text(f"cd '{folder}'\n")
        self._left_running: list[ServerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._left_running):
            process.end()

    def do(self, block: Block) -> None:
        """Save, run and compare what a block shows."""
        if block.name is not None:
            self._save(block.name, block.text)
        elif block.language == "python":
            printed = run_python(self._here(block.text), self.folder, LIMIT)
            assert not (difference := differs(printed, printed_by(block.text))), difference
        elif block.language == "console":
            commands = [command for command in block.commands() if command.is_run]
            for command, following in zip(commands, [*commands, None][1:], strict=True):
                (self._leave_running if command.in_background else self._run)(command, following)

    def _save(self, name: str, text: str) -> None:
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(self._here(text))
        if place.suffix == ".py":
            compile(text, name, "exec")

    def _run(self, command: Command, following: Command | None) -> None:
        script = f"trap '{SAVE}' EXIT\n{MAKE}\n. {self._state}\n{self._here(command.line)}\n"
        done = subprocess.run(
            ["timeout", "--kill-after=10", str(LIMIT), "sh", "-c", script],
            check=False,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        expected = list(map(self._here, command.printed))
        difference = differs(done.stdout.splitlines(), expected)
        assert not difference, f"$ {command.line}\n{difference}"
        shows_failure = any(line.strip() not in GAPS for line in expected)
        asks = following is not None and following.line == "echo $?"
        assert done.returncode == 0 or shows_failure or asks, f"$ {command.line}\nended with status {done.returncode}"

    def _leave_running(self, command: Command, _: Command | None) -> None:
        line = self._here(command.line).removesuffix(" &")
        process = subprocess.Popen(
            ["sh", "-c", f"{MAKE}\n. {self._state}\nexec 1>&2\nexec {'env ' if ASSIGNS.match(line) else ''}{line}"],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        running = ServerProcess("", process)
        self._left_running.append(running)
        expected = [self._here(one) for one in command.printed]
        for one in expected or [" is ready on "]:
            running.wait_for(max(WILD.split(one), key=len))
        difference = differs(running.log, [*expected, GAPS[0]])
        assert not difference, f"$ {command.line}\n{difference}"

    def _here(self, text: str) -> str:
        return moved(text, self.folder)

    def _environment(self) -> dict[str, str]:
        """Return a reader's environment: the command is on the PATH, and what is printed comes in its order."""
        inherited = of_a_user()
        path = f"{Path(sys.executable).parent}:{inherited['PATH']}"
        return inherited | {"PATH": path, "PYTHONUNBUFFERED": "1", "STATE": str(self._state)}
