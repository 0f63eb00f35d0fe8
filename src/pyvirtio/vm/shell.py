"""A shell in a guest, at the user's terminal."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError
from pyvirtio.vm.running import Wires, exit_on_sigterm

if TYPE_CHECKING:
    from pyvirtio.vm.running import Launchable


def interact(config: Launchable) -> int:
    """Connect the terminal to a shell in a guest until that ends, and return the emulator's exit status.

    Under QEMU, Ctrl-A X ends it.

    Raises:
        LocalError: there is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LocalError("a shell in a guest needs a terminal for stdin and stdout; without one, use `pyvirtio vm run`")
    import termios

    settings = termios.tcgetattr(sys.stdin)
    with contextlib.ExitStack() as stack:
        stack.callback(termios.tcsetattr, sys.stdin, termios.TCSADRAIN, settings)
        stack.enter_context(exit_on_sigterm())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvirtio-")))
        initrd = stack.enter_context(config.memory_file())
        process = subprocess.Popen(config.command(Wires(f"/proc/self/fd/{initrd}", folder)), pass_fds=[initrd])
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process.wait()
