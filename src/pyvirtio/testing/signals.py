"""Processes that can be interrupted, whoever started the one that starts them."""

from __future__ import annotations

import contextlib
import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    r"""Let the programs that the block starts begin with SIGINT at its default.

    A shell starts background jobs with SIGINT ignored, and every program that they start inherits that:
    a test that interrupts such a program would wait in vain. What this process does at SIGINT stays as it
    is. Signals belong to the main thread, so the block changes nothing in any other.

    >>> import subprocess, sys
    >>> code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    >>> before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    >>> with interruptible():
    ...     subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    'True\n'
    >>> signal.signal(signal.SIGINT, before) is signal.SIG_IGN
    True
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler does not survive exec, where the default takes its place; being ignored would.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
