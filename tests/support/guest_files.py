"""What the tests of shared folders have in common: commands in a guest, checksums on both sides, a tree of objects."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.files import Objects

if TYPE_CHECKING:
    from pyvirtio.testing.served import ServerProcess
    from pyvirtio.vm import Guest

FILES = {"/bin/files_check": (Path(__file__).parents[1] / "guest/programs/files_check.py").read_bytes()}


def does(machine: Guest, command: str, timeout: float = 240) -> list[str]:
    """Run a command that has to succeed; return what it printed."""
    result = machine.run(command, timeout)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.lines


def check(machine: Guest, command: str) -> list[str]:
    lines = does(machine, f"files_check {command}")
    assert lines[-1] == "ok", "\n".join(lines)
    return lines


def sums(folder: Path) -> list[str]:
    """Return the checksums of a folder's files as ``sha256sum`` prints them, by name."""
    files = {f"./{path.relative_to(folder)}": path for path in folder.rglob("*")}
    return [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}"
        for name, path in sorted(files.items())
        if path.is_file() and not path.is_symlink()
    ]


SUMS = "find . -type f | sort | xargs sha256sum"


class Touched:
    """A tree of objects that keeps what is done with it."""

    def __init__(self) -> None:
        self.reads = 0
        self.written = b""
        self.begun, self.ended = threading.Event(), threading.Event()
        self.tree = Objects(
            {
                "counter": self._read,
                "input": (None, self._write),
                "wait": self._wait,
                "deep": {"text": "at the bottom\n"},
            }
        )

    def _read(self) -> str:
        self.reads += 1
        return f"read {self.reads} times\n"

    def _write(self, data: bytes) -> None:
        self.written = data

    async def _wait(self) -> str:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        return ""


def kill_workers(server: ServerProcess) -> None:
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)


def leave_and_change(machine: Guest, folder: Path, outside: Path) -> None:
    """Links lead within the guest, and what is changed on this side is seen there."""
    (folder / "to-outside").symlink_to(outside)
    (folder / "swapped").mkdir()
    (folder / "swapped/secret").write_text("inside")
    assert machine.run(f"cat /n/to-outside/secret {outside}/secret").returncode
    assert does(machine, "cat /n/swapped/secret; echo")[-1] == "inside"
    (folder / "swapped").rename(folder / "was-swapped")
    (folder / "swapped").symlink_to(outside)
    assert machine.run("cat /n/swapped/secret").returncode
    assert machine.run("echo hostile >/n/swapped/new").returncode
    for link in ("to-outside", "swapped"):
        (folder / link).unlink()

    (folder / "shared").write_text("first")
    assert does(machine, "exec 3</n/shared; cat <&3; echo") == ["first"]
    (folder / "shared").write_text("second, and longer")
    assert does(machine, "cat /n/shared; echo") == ["second, and longer"]
    (folder / "shared").unlink()
    assert machine.run("cat /n/shared").returncode
    (folder / "shared").mkdir()
    assert does(machine, "ls -ld /n/shared | cut -c1") == ["d"]
    (folder / "shared").rmdir()
