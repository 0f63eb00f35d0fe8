"""A shell in a guest, at the user's terminal."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError
from pyvirtio.vm.guest import exit_on_sigterm

if TYPE_CHECKING:
    from pyvirtio.vm.guest import LaunchConfig


def interact(config: LaunchConfig) -> int:
    """Connect the terminal to a shell in a guest until that ends, and return QEMU's exit status.

    Ctrl-A X ends QEMU.

    Raises:
        LocalError: there is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LocalError("a shell in a guest needs a terminal for stdin and stdout")
    import termios

    settings = termios.tcgetattr(sys.stdin)
    with contextlib.ExitStack() as stack:
        stack.callback(termios.tcsetattr, sys.stdin, termios.TCSADRAIN, settings)
        stack.enter_context(exit_on_sigterm())
        initrd = stack.enter_context(config.memory_file())
        command = config.command(initrd, serial="mon:stdio", more_options=("pyvirtio=shell",))
        process = subprocess.Popen(command, pass_fds=[initrd])
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process.wait()
