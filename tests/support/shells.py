"""Shells at a terminal, in which somebody types: bash as it is here, zsh and fish out of Debian's packages."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.signals import interruptible
from pyvirtio.vm.guest_packages import GUEST
from tests.support.peers import Packages, Peers
from tests.support.terminal import PATIENCE, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ZSH, FISH = Packages(GUEST, ("zsh",), ()), Packages(GUEST, ("fish",), ())
CTRL_T, CTRL_U = "\x14", "\x15"

BASH_RC = """
PS1='$ ' HISTFILE=
source <(pyvirtio completion bash)
bind -x '"\\C-t": printf "%s\\n" "$READLINE_LINE" >{fifo}'
"""
ZSH_RC = """
module_path=({root}/usr/lib/*-linux-gnu/zsh/*(/))
fpath=({root}/usr/share/zsh/functions/**/*(/))
PS1='$ ' HISTFILE=
autoload -U compinit && compinit -D -u
source <(pyvirtio completion zsh)
show() {{ print -r -- $BUFFER >{fifo} }}
zle -N show
bindkey -e
bindkey '^T' show
"""
FISH_RC = """
set fish_function_path {root}/usr/share/fish/functions
set fish_complete_path
set -g fish_greeting
function fish_prompt; echo '$ '; end
pyvirtio completion fish | source
bind \\ct 'commandline >{fifo}'
"""


class Shell:
    """A shell that waits for a line to be typed."""

    def __init__(self, terminal: Terminal, answers: int) -> None:
        self._terminal = terminal
        self._answers = answers

    def completed(self, typed: str) -> str:
        """Return the line that Tab makes of what was typed."""
        self._terminal.type(f"{typed}\t{CTRL_T}")
        data = b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], PATIENCE)
            assert ready, "\n".join(self._terminal.screen.rows)
            data += os.read(self._answers, 4096)
        self._terminal.type(CTRL_U)
        return data.decode().removesuffix("\n")


def command(name: str, folder: Path) -> list[str]:
    """Return how a shell is started, with its settings in ``folder``; skip the test where it cannot be had."""
    fifo = folder / "line"
    if name == "bash":
        bash = shutil.which("bash")
        if bash is None:
            pytest.skip("there is no bash")
        (folder / ".bashrc").write_text(BASH_RC.format(fifo=fifo))
        return [bash, "--noprofile", "--rcfile", str(folder / ".bashrc"), "-i"]
    peers = Peers.of(ZSH if name == "zsh" else FISH)
    if name == "zsh":
        (folder / ".zshrc").write_text(ZSH_RC.format(root=peers.root, fifo=fifo))
        return peers.command("bin/zsh", "-d", "-i")
    (folder / "setup.fish").write_text(FISH_RC.format(root=peers.root, fifo=fifo))
    return peers.command("usr/bin/fish", "--no-config", "-i", "-C", f"source {folder}/setup.fish")


@contextlib.contextmanager
def shell(name: str, folder: Path, cwd: Path) -> Iterator[Shell]:
    """Run a shell in ``cwd`` at a terminal while the block runs; ``folder`` is its home."""
    words = command(name, folder)
    os.mkfifo(folder / "line")
    (folder / "bin").mkdir()
    (folder / "run").mkdir(0o700)  # fish takes one with other rights for none
    program = folder / "bin/pyvirtio"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pyvirtio "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "HOME": str(folder),
        "ZDOTDIR": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
    }
    ours, theirs = os.openpty()
    answers = os.open(folder / "line", os.O_RDWR | os.O_NONBLOCK)
    terminal = Terminal(ours, 200, 50)
    terminal.resize(200, 50)
    try:
        with interruptible():
            process = subprocess.Popen(
                ["setsid", "--ctty", *words], cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
            )
        try:
            yield Shell(terminal, answers)
        finally:
            process.kill()
            process.wait(PATIENCE)
    finally:
        terminal.close()
        for descriptor in (ours, theirs, answers):
            os.close(descriptor)
