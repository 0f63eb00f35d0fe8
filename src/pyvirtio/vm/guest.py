"""Runs a guest: starts QEMU, follows the console, runs commands in the guest, and cleans up.

A `Guest` is a context manager, and its end is certain: QEMU is killed and reaped however the block is
left, on KeyboardInterrupt and SIGTERM, too. It leaves no file: the initramfs is handed over in memory.

::

    config = builder.prepare(GuestOptions(), [device], sources=DRIVER_SOURCES)
    with Guest(config) as guest:
        print(guest.run("factorial 5").output)
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from pyvirtio.errors import GuestError, LocalError
from pyvirtio.vm.console import Console
from pyvirtio.vm.initramfs import in_memory
from pyvirtio.vm.machine import Boot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import FrameType, TracebackType

    from pyvirtio.vm.initramfs import Initramfs
    from pyvirtio.vm.machine import Machine, VhostUserDevice
    from pyvirtio.vm.qemu import Qemu

READY = "pyvirtio-guest: ready"
LISTENING = "pyvirtio-guest: listening"
EXIT = re.compile(r"(.*)pyvirtio-guest: exit (\d+)$")

BOOT_LIMIT = 180.0  # seconds; an idle machine needs 3 to 4 under TCG
RUN_LIMIT = 120.0
OFF_LIMIT = 20.0
LAST_WORDS = 3.0  # for what a panicking kernel still prints
LONGEST_COMMAND = 4000  # bytes; the guest's terminal takes 4095 in a line


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended.

    Attributes:
        status: its exit status.
        lines: what it printed, and what the kernel printed meanwhile.
    """

    status: int
    lines: list[str]

    @property
    def output(self) -> str:
        """Return the lines as one text."""
        return "".join(f"{line}\n" for line in self.lines)


class Launchable(Protocol):
    """What a `Guest` has to know of what it starts."""

    @property
    def emulator(self) -> str:
        """Return what runs the guest, for messages."""

    def command(self, initrd: int, *, serial: str, more_options: Sequence[str] = ()) -> list[str]:
        """Return the command line, with the initramfs in the file descriptor `initrd`."""

    def memory_file(self) -> AbstractContextManager[int]:
        """Return a context for the file descriptor of the initramfs."""


@dataclass(frozen=True)
class LaunchConfig:
    """Everything that a guest is started with.

    Attributes:
        machine: what QEMU emulates.
        qemu: the QEMU to run.
        kernel: the kernel's image.
        initramfs: a cpio archive, whose init speaks as `pyvirtio/guest/init` does.
        devices: what is attached; their back-ends must be listening.
        accel: ``kvm`` or ``tcg``.
        overlay: more files for the guest; they replace those of the same name.
        kernel_options: more words for the kernel's command line.
        extra: more arguments for QEMU.
    """

    machine: Machine
    qemu: Qemu
    kernel: Path
    initramfs: Path
    devices: Sequence[VhostUserDevice] = ()
    accel: str = "tcg"
    overlay: Initramfs | None = None
    kernel_options: Sequence[str] = ()
    extra: Sequence[str] = ()

    def command(self, initrd: int, *, serial: str, more_options: Sequence[str] = ()) -> list[str]:
        """Return QEMU's command line, with the initramfs in the file descriptor `initrd`."""
        lifeline = ("-run-with", "exit-with-parent=on") if self.qemu.ends_with_parent() else ()
        boot = Boot(
            kernel=self.kernel,
            initrd=f"/proc/self/fd/{initrd}",
            accel=self.accel,
            devices=self.devices,
            kernel_options=(*self.kernel_options, *more_options),
            extra=(*lifeline, *self.extra),
            serial=serial,
        )
        return [*self.qemu.prefix, *self.machine.arguments(boot)]

    @property
    def emulator(self) -> str:
        """Return what runs the guest, for messages."""
        return "QEMU"

    def memory_file(self) -> AbstractContextManager[int]:
        """Return a context for the initramfs with its overlay, as a file that lives in memory only."""
        return in_memory(self.initramfs, self.overlay)


class Guest:
    """A running guest.

    Every method, and entering, raises GuestError when QEMU ends, the guest's kernel panics or a
    deadline passes; the message ends with the last lines of the console.

    The thread that enters has to live as long as the guest: QEMU ends with it.

    Args:
        config: what is started.
        show: called with each line of the console, from another thread.
        boot_limit: seconds within which the guest must be ready.
    """

    def __init__(
        self, config: Launchable, *, show: Callable[[str], None] | None = None, boot_limit: float = BOOT_LIMIT
    ) -> None:
        self.config = config
        self._show = show
        self._boot_limit = boot_limit
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self._listening = False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(exit_on_sigterm())
            stack.callback(self._end)
            self._start()
            self._expect(lambda line: READY in line, self._boot_limit, "the guest to boot")
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    @property
    def pid(self) -> int:
        """Return the process id of QEMU."""
        assert self._process is not None, "the guest has not been entered"
        return self._process.pid

    def last_lines(self) -> list[str]:
        """Return the last lines of the console, oldest first."""
        assert self._console is not None, "the guest has not been entered"
        return self._console.last_lines()

    def run(self, command: str, timeout: float = RUN_LIMIT) -> Result:
        """Run a line of shell in the guest, and return how it ended.

        Raises:
            LocalError: the command is longer than a line of the guest's terminal.
        """
        self.send(command)
        return self.result(timeout)

    def send(self, command: str) -> None:
        """Start a line of shell in the guest; `result` waits for it."""
        line = command.encode() + b"\n"
        if len(line) > LONGEST_COMMAND or b"\n" in line[:-1]:
            raise LocalError(f"a command for the guest is one line of at most {LONGEST_COMMAND} bytes")
        if not self._listening:
            self._expect(lambda line: LISTENING in line, self._boot_limit, "the guest to listen")
            self._listening = True
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure(f"{self.config.emulator} ended before the command could be sent") from error

    def result(self, timeout: float = RUN_LIMIT) -> Result:
        """Wait for the end of the command that was sent, or of the one in the overlay; return how it ended."""
        lines = self._expect(lambda line: EXIT.match(line) is not None, timeout, "a command in the guest")
        match = EXIT.match(lines.pop())
        assert match is not None
        return Result(int(match[2]), lines + ([match[1]] if match[1] else []))

    def wait_for(self, text: str, timeout: float = RUN_LIMIT) -> list[str]:
        """Wait for a line that contains `text`; return the lines up to and with it."""
        return self._expect(lambda line: text in line, timeout, f"{text!r} on the console")

    def wait_off(self, timeout: float = OFF_LIMIT) -> int:
        """Wait until the guest has switched itself off; return QEMU's exit status."""
        assert self._process is not None
        assert self._console is not None
        if not self._console.wait_for_end(timeout):
            raise self._failure(f"waited {timeout:g} s for the guest to switch itself off")
        return self._process.wait()

    def power_off(self) -> None:
        """Switch the guest off, and wait until it is."""
        self.send("poweroff -f")
        self.wait_off()

    def _start(self) -> None:
        reading, writing = os.pipe()
        try:
            with self.config.memory_file() as initrd:
                self._process = subprocess.Popen(
                    self.config.command(initrd, serial="stdio"),
                    stdin=subprocess.PIPE,
                    stdout=writing,
                    stderr=writing,  # QEMU's own complaints explain why a guest does not start
                    pass_fds=[initrd],
                    start_new_session=True,  # Ctrl-C is ours to handle
                )
                # QEMU reads the initramfs before it runs anything, and has a descriptor of its own.
        except OSError as error:
            os.close(reading)
            raise GuestError(f"{self.config.emulator} cannot be started: {error}") from error
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._console = Console(reading, self._show)

    def _end(self) -> None:
        process, console = self._process, self._console
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session is its own: whatever it started goes too
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if console is not None:
            console.wait_for_end(OFF_LIMIT)

    def _expect(self, wanted: Callable[[str], bool], timeout: float, what: str) -> list[str]:
        """Wait for a line of the console, or raise the error that says why it will not come."""
        assert self._console is not None, "the guest has not been entered"
        assert self._process is not None

        def interesting(line: str) -> bool:
            return wanted(line) or bool(self._console and self._console.panic)

        lines = self._console.wait_for(interesting, timeout)
        if lines and wanted(lines[-1]):
            return lines
        if self._console.panic:
            self._console.wait_for_end(LAST_WORDS)
            raise self._failure(f"the guest's kernel gave up while waiting for {what}: {self._console.panic}")
        if self._console.ended:
            status = self._process.wait()
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise self._failure(f"{self.config.emulator} {how} while waiting for {what}")
        silent = "" if self._console.last_lines() else ", and nothing came over the console"
        raise self._failure(f"waited {timeout:g} s for {what}{silent}")

    def _failure(self, what: str) -> GuestError:
        lines = self._console.last_lines() if self._console else []
        console = "".join(f"\n  | {line}" for line in lines)
        return GuestError(f"{what}\nThe console's last lines:{console}" if console else what)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that what was started is ended.

    Nothing changes outside the main thread, or where the signal has another effect than its default.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
