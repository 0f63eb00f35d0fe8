"""`guest`: boots a real Linux guest with devices, and serves those that are objects of this process.

::

    with guest(Entropy()) as machine:
        print(machine.run("head -c 16 /dev/hwrng | hexdump -C").stdout)
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pyvirtio.connect import serving
from pyvirtio.device import Device
from pyvirtio.errors import GuestError, LocalError
from pyvirtio.host.serve import backend_at
from pyvirtio.vm.launch import GuestOptions, LaunchConfig, default_builder
from pyvirtio.vm.machine import VhostUserDevice
from pyvirtio.vm.running import RUN_LIMIT, Guest, Result, Wires, exit_on_sigterm

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from types import TracebackType
    from typing import Any, TypeVar

    from pyvirtio.provision.progress import Progress
    from pyvirtio.vm.uml import UmlConfig

    R = TypeVar("R")

Attachable: TypeAlias = "Device | serving[Any] | str | VhostUserDevice"
"""What a guest takes for a device:

- a device object, which is then served by this process, so that a test can look into it;
- a ``serving`` of one that runs already;
- the name of a shipped device or ``file.py:Class``, with options, as for ``pyvirtio serve``: in processes of its own;
- what some other back-end serves, described by a `VhostUserDevice`.
"""


class guest:  # noqa: N801  # used as a statement: `with guest(device) as machine:`
    """Boot a Linux guest with ``devices`` for as long as the block lasts; the block gets a `Guest`.

    The modules of Linux that drive the devices are loaded. What is needed and missing (QEMU, a kernel, packages, a
    compiler) is downloaded into the cache once. Any number of guests may run at the same time.

    ``async with`` serves device objects in the event loop of the caller; its block gets an `AsyncGuest`.

    Args:
        devices: see `Attachable`; their order is that of their positions in the guest.
        arch: ``x86_64``, ``aarch64``, or ``um``: user-mode Linux, which boots in a second and needs no QEMU.
        transport: ``pci``, ``mmio`` or ``mmio-legacy``; empty: the first that the architecture has.
        accel: ``kvm``, ``tcg`` (emulation), or ``auto``: KVM where it works.
        kernel_version: of Debian's kernel: ``6.1``, ``6.12`` or ``7``; empty: the oldest with drivers for the devices.
        flavour: ``cloud`` or ``full``; empty: the smallest with drivers for the devices.
        kernel: the image of another kernel to boot.
        qemu: the QEMU to run; empty: a suitable one is found or provisioned.
        modules: more modules of the kernel to load, by name, e.g. ``ext4``.
        packages: Debian packages to unpack in the guest, with everything that they depend on.
        drivers: folders with the C sources of a kernel driver and a Kbuild file, to be built and loaded.
        files: files and folders for the guest, by their path there; bytes become an executable file.
        generic: attach each device with QEMU's generic front-end, even where there is one made for its type.
        cpus: the guest's processors; 0: the machine's usual number.
        kernel_options: more words for the kernel's command line.
        qemu_options: more arguments for QEMU.
        show: called with each line of the console, from another thread.
        progress: where downloads and builds are reported; None: nowhere.

    Raises:
        LocalError: a device or an option does not exist, or QEMU cannot have the device; the message says what to do.
        ProvisionError: something is missing and cannot be had here.
        GuestError: the guest does not boot, or fails later; the message ends with its console.
    """

    def __init__(
        self,
        *devices: Attachable,
        arch: str = "x86_64",
        transport: str = "",
        accel: str = "auto",
        kernel_version: str = "",
        flavour: str = "",
        kernel: Path | None = None,
        qemu: str = "",
        modules: Sequence[str] = (),
        packages: Sequence[str] = (),
        drivers: Sequence[Path] = (),
        files: Mapping[str, Path | bytes] | None = None,
        generic: bool = False,
        cpus: int = 0,
        kernel_options: Sequence[str] = (),
        qemu_options: Sequence[str] = (),
        show: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._devices = devices
        self._options = GuestOptions(
            arch,
            transport,
            accel,
            kernel_version,
            flavour,
            kernel,
            qemu,
            modules,
            packages,
            drivers,
            files or {},
            generic,
            cpus,
            kernel_options,
            qemu_options,
        )
        self._builder = default_builder(progress)
        self._show = show
        self._cleanup = contextlib.ExitStack()
        self._async_cleanup = contextlib.AsyncExitStack()
        self._servings: list[serving[Any]] = []
        self._guest: Guest | None = None

    @contextlib.contextmanager
    def prepared(self) -> Iterator[LaunchConfig | UmlConfig]:
        """Serve the devices while the block lasts; it gets what the guest is to be started with."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(exit_on_sigterm())  # a back-end is a process
            folder, attached = self._attached(stack)
            for position, device in self._own():
                served = stack.enter_context(serving(device, str(folder / f"{position}.sock")))
                attached[position] = self._of(served)
            yield self._builder.prepare(self._options, _in_order(attached))

    def by_hand(self, command: str) -> tuple[LaunchConfig, Wires]:
        """Return what the guest is to be started with by hand, with a command that it runs at its start.

        Its back-ends have to listen on other sockets then, and its initramfs stays in the cache.

        Raises:
            LocalError: it is no guest under QEMU.
        """
        with self.prepared() as config:
            pass
        if not isinstance(config, LaunchConfig):
            raise LocalError("only a guest under QEMU can be started by hand; leave --arch um out")
        sockets = Path(tempfile.gettempdir())
        devices = [replace(one, socket=sockets / f"pyvirtio-{one.name}.sock") for one in config.devices]
        if command and config.overlay is not None:
            config.overlay.file("command", f"{command}\n".encode())
        initramfs = self._builder.whole_initramfs(config)
        return replace(config, devices=devices), Wires(str(initramfs), Path())

    # In threads.

    def __enter__(self) -> Guest:
        with contextlib.ExitStack() as stack:
            config = stack.enter_context(self.prepared())
            self._guest = stack.enter_context(Guest(config, show=self._show))
            self._cleanup = stack.pop_all()
        return self._guest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._annotate(error)
        self._cleanup.close()

    # In an event loop.

    async def __aenter__(self) -> AsyncGuest:
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            # One thread, for QEMU ends with the thread that started it.
            thread = stack.enter_context(ThreadPoolExecutor(1, "guest"))
            folder, attached = self._attached(stack)
            for position, device in self._own():
                served = await stack.enter_async_context(serving(device, str(folder / f"{position}.sock")))
                attached[position] = self._of(served)
            config = await loop.run_in_executor(thread, self._builder.prepare, self._options, _in_order(attached))
            self._guest = Guest(config, show=self._show)
            stack.push_async_callback(self._leave, loop, thread, self._guest)
            await loop.run_in_executor(thread, self._guest.__enter__)
            self._async_cleanup = stack.pop_all()
        return AsyncGuest(self._guest, thread)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._annotate(error)
        await self._async_cleanup.aclose()

    async def _leave(self, loop: asyncio.AbstractEventLoop, thread: Executor, running: Guest) -> None:
        running.kill()  # whatever the thread still waits for ends with this
        await loop.run_in_executor(thread, running.__exit__, None, None, None)

    # What is attached.

    def _own(self) -> list[tuple[int, Device]]:
        return [(position, one) for position, one in enumerate(self._devices) if isinstance(one, Device)]

    def _attached(
        self, stack: contextlib.ExitStack | contextlib.AsyncExitStack
    ) -> tuple[Path, dict[int, VhostUserDevice]]:
        """Return a folder for sockets, and the devices that are not objects to be served, by their positions."""
        self._servings.clear()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvirtio-")))
        attached = {}
        for position, one in enumerate(self._devices):
            if isinstance(one, str):
                path = folder / f"{position}.sock"
                attached[position] = VhostUserDevice.of(stack.enter_context(backend_at(one, str(path))), path)
            elif isinstance(one, serving):
                attached[position] = self._of(one)
            elif isinstance(one, VhostUserDevice):
                attached[position] = one
        return folder, attached

    def _of(self, served: serving[Any]) -> VhostUserDevice:
        self._servings.append(served)
        return VhostUserDevice.of(served.device.description(), Path(served.path))

    def _annotate(self, error: BaseException | None) -> None:
        """Add to an error what the guest and the devices said, where the error does not say it already."""
        if not isinstance(error, Exception):
            return
        if self._guest is not None and not isinstance(error, GuestError):
            console = "\n".join(f"  | {line}" for line in self._guest.console_lines())
            error.add_note(f"The guest's console, its last lines:\n{console}")
        for served in self._servings:
            if served.faults:
                faults = "\n".join(f"  | {fault}" for fault in served.faults[-20:])
                error.add_note(f"What was wrong at {type(served.device).__name__}:\n{faults}")


class AsyncGuest:
    """A running guest, for coroutines. The guest's methods run in a thread of their own, one after the other.

    Attributes:
        guest: the guest itself.
    """

    def __init__(self, running: Guest, thread: Executor) -> None:
        self.guest = running
        self._thread = thread

    async def run(self, command: str | Sequence[str], timeout: float = RUN_LIMIT) -> Result:
        """Run a line of shell in the guest, or a program with its arguments; see `Guest.run`."""
        return await self.call(self.guest.run, command, timeout)

    async def call(self, method: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """Call a method of the guest, such as ``machine.call(machine.guest.reset)``."""
        import asyncio

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(method, *arguments, **named))


def _in_order(attached: dict[int, VhostUserDevice]) -> list[VhostUserDevice]:
    return [attached[position] for position in sorted(attached)]
