"""Runs a guest: starts it, follows its console, runs commands in it, stops and resets it, and cleans up.

A `Guest` is a context manager, and its end is certain: the emulator is killed and reaped however the block is left, on
KeyboardInterrupt and SIGTERM, too. It leaves no file: the initramfs is handed over in memory, and the lines to the
guest and to QEMU's monitor are connected sockets.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from pyvirtio.errors import GuestError, LocalError
from pyvirtio.vm.commands import Commands
from pyvirtio.vm.console import Console
from pyvirtio.vm.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType, TracebackType
    from typing import BinaryIO

    from pyvirtio.vm.machine import Command, VhostUserDevice

OURS = "pyvirtio-guest: "
LISTENING = "listening"

BOOT_LIMIT = 180.0  # seconds; an idle machine needs 3 to 4 under TCG
RUN_LIMIT = 120.0
OFF_LIMIT = 20.0
LAST_WORDS = 3.0  # for what a panicking kernel still prints


class Result(subprocess.CompletedProcess[str]):
    """How a command in the guest ended: ``returncode``, ``stdout``, ``stderr``, as of a process of this machine.

    ``stdout`` is exactly what the command wrote. ``stderr`` is what the console said meanwhile: the command's errors,
    and the kernel's.
    """

    @property
    def lines(self) -> list[str]:
        """Return the lines of ``stdout``."""
        return self.stdout.splitlines()


@dataclass(frozen=True)
class Wires:
    """What connects a guest with its host; each is the number of a descriptor or a path.

    Attributes:
        initrd: the path of the initramfs.
        folder: for files of the emulator; it is removed when the guest has ended.
        commands: a socket, for `Commands`; -1: none, and the console is the terminal.
        monitor: a socket, for QEMU's monitor; -1: there is none.
        end: the word of the marks behind each command.
    """

    initrd: str
    folder: Path
    commands: int = -1
    monitor: int = -1
    end: str = ""


class Launchable(Protocol):
    """What a `Guest` has to know of what it starts."""

    @property
    def emulator(self) -> str:
        """Return what runs the guest, for messages."""

    @property
    def devices(self) -> Sequence[VhostUserDevice]:
        """Return what is attached."""

    @property
    def has_monitor(self) -> bool:
        """Return whether it speaks QMP on the monitor's wire."""

    def command(self, wires: Wires) -> list[str]:
        """Return the command line."""

    def memory_file(self) -> AbstractContextManager[int]:
        """Return a context for the file descriptor of the initramfs."""

    def hot(self, position: int) -> tuple[list[Command], list[Command]]:
        """Return the monitor's commands that plug a device in, and those that take it away."""


class Guest:
    """A running guest; `pyvirtio.vm.guest` makes one.

    Every method, and entering, raises GuestError when the emulator ends, the guest's kernel panics or a deadline
    passes; the message ends with the last lines of the console. Deadlines are in seconds.

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
        self._commands: Commands | None = None
        self._monitor: Monitor | None = None
        self._command = ""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(exit_on_sigterm())
            self._start(stack)
            self._expect_boot("the guest to boot")
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    @property
    def pid(self) -> int:
        """Return the process id of the emulator."""
        assert self._process is not None, "the guest has not been entered"
        return self._process.pid

    @property
    def monitor(self) -> Monitor:
        """Return QEMU's monitor, for whatever the methods here do not do.

        Raises:
            LocalError: this is no QEMU.
        """
        if self._monitor is None:
            raise LocalError(f"{self.config.emulator} has no monitor; boot this guest under QEMU")
        return self._monitor

    def console_lines(self) -> list[str]:
        """Return the last lines of the console, oldest first."""
        assert self._console is not None, "the guest has not been entered"
        return self._console.last_lines()

    # Commands in the guest.

    def run(
        self, command: str | Sequence[str], timeout: float = RUN_LIMIT, *, stdout: BinaryIO | None = None
    ) -> Result:
        """Run a line of shell in the guest, or a program with its arguments, and return how it ended.

        Args:
            command: at most 4000 bytes.
            timeout: how long it may take.
            stdout: where its output goes as it comes, instead of into the result.
        """
        self.send(command)
        return self.result(timeout, stdout=stdout)

    def send(self, command: str | Sequence[str]) -> None:
        """Start a command; `result` waits for it."""
        assert self._commands is not None, "the guest has not been entered"
        assert self._console is not None
        self._command = command if isinstance(command, str) else shlex.join(command)
        self._console.forget()
        try:
            self._commands.send(self._command)
        except OSError as error:
            raise self._end_of_emulator("the command could be sent") from error

    def result(self, timeout: float = RUN_LIMIT, *, stdout: BinaryIO | None = None) -> Result:
        """Wait for the end of the command that was sent, and return how it ended."""
        what = f"the end of `{self._command}` in the guest"
        output, word = self._mark(timeout, what, stdout)
        if word == LISTENING:
            raise self._failure(f"the guest booted again while waiting for {what}")
        return Result(self._command, int(word), output.decode(errors="replace"), self._said(int(word)))

    def wait_for(self, text: str, timeout: float = RUN_LIMIT) -> None:
        """Wait until the command that was sent prints `text` to its standard output."""
        what = f"{text!r} from `{self._command}` in the guest"
        assert self._commands is not None, "the guest has not been entered"
        with self._explained(timeout, what):
            if not self._commands.wait_for(text, timeout):
                raise self._failure(f"`{self._command}` ended without {text!r}; it printed:\n{self.result().stdout}")

    # The machine.

    def stop(self) -> None:
        """Pause the machine, with its devices, until `cont`."""
        self.monitor.execute("stop")

    def cont(self) -> None:
        """Let a machine that was stopped go on."""
        self.monitor.execute("cont")

    def reset(self) -> None:
        """Press the reset button, and wait until the guest is up again. A command that was running is forgotten."""
        with self._surviving_reset():
            self.monitor.execute("system_reset")
            self._expect_boot("the guest to boot after its reset")

    def reboot(self) -> None:
        """Have the guest reboot, and wait until it is up again."""
        with self._surviving_reset():
            self.send("reboot -f")
            self._expect_boot("the guest to reboot")

    def unplug(self, position: int = 0) -> None:
        """Take a device away, as its user would pull it out, and wait until the guest has let go of it.

        Args:
            position: which of the devices, in the order in which they were given.
        """
        _, (delete, *others) = self.config.hot(position)
        self.monitor.execute(*delete)
        self.monitor.wait_for("DEVICE_DELETED", device=delete[1]["id"])
        for command in others:
            self.monitor.execute(*command)

    def plug(self, position: int = 0) -> None:
        """Give a device back that was unplugged; its back-end has to be listening. The guest finds it soon after."""
        add, _ = self.config.hot(position)
        for command, arguments in add:
            said = self.monitor.execute(command, arguments) or ""
            if complaints := [line for line in said.splitlines() if not line.startswith("warning: ")]:
                raise GuestError("QEMU does not take the device: " + "\n".join(complaints))

    def wait_off(self, timeout: float = OFF_LIMIT) -> int:
        """Wait until the guest has switched itself off; return the emulator's exit status."""
        assert self._process is not None
        assert self._console is not None
        if not self._console.wait_for_end(timeout):
            raise self._failure(f"waited {timeout:g} s for the guest to switch itself off")
        return self._process.wait()

    def power_off(self) -> None:
        """Switch the guest off, and wait until it is."""
        self.send("poweroff -f")
        self.wait_off()

    def kill(self) -> None:
        """End the guest at once; whoever waits for something gets a GuestError. Any thread may do this."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its session is its own: whatever it started goes too

    @contextlib.contextmanager
    def _surviving_reset(self) -> Iterator[None]:
        # At other times a reset ends QEMU, so that a panic does.
        self.monitor.execute("set-action", {"reboot": "reset"})
        yield
        self.monitor.execute("set-action", {"reboot": "shutdown"})

    # Its processes.

    def _start(self, stack: contextlib.ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvirtio-")))
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        end = secrets.token_hex(8)
        self._commands = Commands(ours[0], end)
        stack.callback(self._commands.close)
        monitor = Monitor(ours[1])
        stack.callback(monitor.close)
        reading, writing = os.pipe()
        try:
            with self.config.memory_file() as initrd:
                wires = Wires(f"/proc/self/fd/{initrd}", folder, theirs[0].fileno(), theirs[1].fileno(), end)
                self._process = subprocess.Popen(
                    self.config.command(wires),
                    stdin=subprocess.DEVNULL,
                    stdout=writing,
                    stderr=writing,  # QEMU's own complaints explain why a guest does not start
                    pass_fds=[initrd, wires.commands, wires.monitor],
                    start_new_session=True,  # Ctrl-C is ours to handle
                )
                # QEMU reads the initramfs before it runs anything, and has a descriptor of its own.
        except OSError as error:
            os.close(reading)
            raise GuestError(
                f"{self.config.emulator} cannot be started: {error}; `pyvirtio doctor` says what is missing"
            ) from error
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
            for one in theirs:
                one.close()
        # A kernel that panicked may hang.
        self._console = Console(reading, self._show, self._commands.give_up)
        stack.callback(self._end)
        self._monitor = monitor if self.config.has_monitor else None

    def _end(self) -> None:
        assert self._process is not None
        self.kill()
        self._process.wait()
        assert self._console is not None
        self._console.wait_for_end(OFF_LIMIT)

    # What comes from the guest, or the error that says why it does not.

    def _expect_boot(self, what: str) -> None:
        word = ""
        while word != LISTENING:
            _, word = self._mark(self._boot_limit, what)
        assert self._console is not None
        self._console.forget()

    def _mark(self, timeout: float, what: str, stdout: BinaryIO | None = None) -> tuple[bytes, str]:
        assert self._commands is not None, "the guest has not been entered"
        with self._explained(timeout, what):
            return self._commands.result(timeout, stdout)

    def _said(self, status: int) -> str:
        """Return what the console said during a command that ended with this status."""
        assert self._console is not None
        last = f"{OURS}exit {status}"
        lines = self._console.wait_for(lambda line: line.endswith(last), OFF_LIMIT) or []
        if lines:
            lines[-1] = lines[-1].removesuffix(last)
        return "\n".join(lines)

    @contextlib.contextmanager
    def _explained(self, timeout: float, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            silent = "" if self.console_lines() else ", and nothing came over the console"
            raise self._failure(f"waited {timeout:g} s for {what}{silent}") from error
        except EOFError as error:
            raise self._end_of_emulator(what) from error

    def _end_of_emulator(self, what: str) -> GuestError:
        assert self._process is not None
        assert self._console is not None
        self._console.wait_for_end(LAST_WORDS)
        if self._console.panic:
            return self._failure(f"the guest's kernel gave up while waiting for {what}: {self._console.panic}")
        try:
            status = self._process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            return self._failure(f"{self.config.emulator} hung up while waiting for {what}")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return self._failure(f"{self.config.emulator} {how} while waiting for {what}")

    def _failure(self, what: str) -> GuestError:
        console = "".join(f"\n  | {line}" for line in self.console_lines())
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
