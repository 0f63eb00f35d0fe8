"""``pyvirtio vm``: a real Linux guest with the factorial device."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from pathlib import Path

from pyvirtio.cli.factorial import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pyvirtio.vm.guest import LaunchConfig, Result
    from pyvirtio.vm.machine import VhostUserDevice

_ANSWER = re.compile(r"(\d+)! (mod 2\*\*32 )?= (\d+)")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the commands."""
    vm = commands.add_parser("vm", help="boot a real Linux guest with the device")
    things = vm.add_subparsers(metavar="COMMAND", required=True, parser_class=type(vm))
    factorial = things.add_parser(
        "factorial",
        help="compute factorials from inside a guest",
        description="Boot a Linux guest with the factorial device, run the user program in it, print what it prints.",
    )
    factorial.add_argument("numbers", metavar="N", nargs="+", type=number, help="a number from 0 to 4294967295")
    factorial.add_argument("--console", action="store_true", help="show the guest's console on stderr")
    style = factorial.add_mutually_exclusive_group()
    style.add_argument("--quiet", action="store_true", help="print the values alone")
    style.add_argument("--json", action="store_true", help="print one JSON list")
    factorial.set_defaults(run=run_factorial)
    shell = things.add_parser(
        "shell",
        help="the same guest with a shell",
        description="Boot a Linux guest with the factorial device and give this terminal to a shell in it. "
        "The device is /dev/virtio_misc; `factorial 5` asks it. Ctrl-A X ends the guest.",
    )
    shell.set_defaults(run=run_shell)
    for parser in (factorial, shell):
        _add_guest_options(parser)


def _add_guest_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", choices=("x86_64", "aarch64"), default="x86_64", help="the guest's architecture")
    parser.add_argument(
        "--transport",
        choices=("pci", "mmio", "mmio-legacy"),
        default="",
        help="how the device is attached (x86_64: pci; aarch64: mmio-legacy, mmio or pci)",
    )
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="KVM, emulation, or what works")
    parser.add_argument("--wrap32", action="store_true", help="a device that knows n! mod 2**32 only")
    parser.add_argument("--kernel", metavar="FILE", type=Path, help="boot this kernel image")
    parser.add_argument("--qemu", metavar="FILE", default="", help="use this QEMU")


def run_factorial(options: argparse.Namespace) -> int:
    """Print what the user program in the guest prints."""
    from pyvirtio.vm.launch import run_once

    show = (lambda line: print(line, file=sys.stderr, flush=True)) if options.console else None
    with _setup(options) as setup:
        wrap32 = ["--wrap32"] if options.wrap32 else []
        result = run_once(setup, ["factorial", *wrap32, *map(str, options.numbers)], show=show)
    answers = [match.groups() for line in result.lines if (match := _ANSWER.fullmatch(line))]
    if options.json:
        import json

        rows = [{"n": int(n), "factorial": value, "mod32": bool(wrapped)} for n, wrapped, value in answers]
        print(json.dumps(rows))
    for n, wrapped, value in answers if not options.json else ():
        print(value if options.quiet else f"{n}! {wrapped or ''}= {value}")
    return _status(result, len(answers) == len(options.numbers))


def _status(result: Result, complete: bool) -> int:
    if result.status == 0 and complete:
        return 0
    complaints = [line for line in result.lines if not _ANSWER.fullmatch(line)][-10:]
    print("pyvirtio: the program in the guest did not answer:", *complaints, sep="\n  ", file=sys.stderr)
    return 1


def run_shell(options: argparse.Namespace) -> int:
    """Connect the terminal to a shell in the guest."""
    from pyvirtio.vm.shell import interact

    with _setup(options) as setup:
        return interact(setup)


@contextlib.contextmanager
def _setup(options: argparse.Namespace) -> Iterator[LaunchConfig]:
    """Prepare the guest, and serve the device while it runs."""
    from pyvirtio.provision.progress import for_terminal
    from pyvirtio.vm.launch import GuestOptions, default_builder
    from pyvirtio.vm.rootfs import DRIVER_SOURCES

    guest_options = GuestOptions(options.arch, options.transport, options.accel, options.qemu, options.kernel)
    builder = default_builder(for_terminal())
    with _served("article" if options.wrap32 else "factorial") as device:
        yield builder.prepare(guest_options, [device], sources=DRIVER_SOURCES)


@contextlib.contextmanager
def _served(name: str) -> Iterator[VhostUserDevice]:
    from pyvirtio.host.loader import DeviceLoader
    from pyvirtio.host.serve import backend_at
    from pyvirtio.vm.machine import VhostUserDevice
    from pyvirtio.vm.rootfs import DRIVER_IDS

    description = DeviceLoader(name).new_device().description()
    with tempfile.TemporaryDirectory(prefix="pyvirtio-") as folder:
        path = Path(folder, "device.sock")
        with backend_at(name, str(path)):
            yield VhostUserDevice.of(description, path, driver_ids=DRIVER_IDS)
