"""``pyvirtio vm``: a real Linux guest with devices, and a command or a shell in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pyvirtio.cli.factorial import number
from pyvirtio.cli.usage import positive

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any, BinaryIO

    from pyvirtio.vm.guests import guest
    from pyvirtio.vm.running import Result

_ANSWER = re.compile(r"(\d+)! (mod 2\*\*32 )?= (\d+)")
_GUEST_OPTIONS = ("arch", "transport", "accel", "kernel", "qemu", "kernel_version", "flavour", "modules", "packages")
_NO_LIMIT = 1e8  # seconds


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the commands."""
    vm = commands.add_parser(
        "vm",
        help="boot a real Linux guest with devices",
        description="Boot Linux, unmodified, on an unmodified QEMU that has your devices. QEMU and the kernel are "
        "fetched if this machine has none.",
        examples=(
            ("pyvirtio vm factorial 5", "5! by a device, asked by a program in a guest"),
            ("pyvirtio vm run --device entropy -- head -c 8 /dev/hwrng", "one command in a guest"),
            ("pyvirtio vm shell --device block,path=disk.img", "look around in one"),
        ),
    )
    things = vm.add_subparsers(metavar="COMMAND", required=True, parser_class=type(vm))
    _add_run(things)
    _add_shell(things)
    _add_factorial(things)


def _add_run(things: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = things.add_parser(
        "run",
        help="run a command in a guest with devices",
        description="Boot a Linux guest with devices, run a command in it, and end with its exit status. What the "
        "command prints goes to stdout, its errors to stderr.",
        examples=(
            ("pyvirtio vm run --device double.py:Double -- factorial --wrap32 21", "your device, our driver for it"),
            (
                "pyvirtio vm run --device block,path=disk.img --package e2fsprogs -- mke2fs -q /dev/vda",
                "a disk, and a program of Debian's",
            ),
            ("pyvirtio vm run --device echo --print", "the command line for a QEMU that you start yourself"),
        ),
    )
    run.add_argument(
        "command", metavar="COMMAND", nargs="*", help="a program and its arguments; a single word is a line of shell"
    )
    run.add_argument("--timeout", metavar="S", type=positive, default=_NO_LIMIT, help="seconds that it may take")
    run.add_argument("--print", action="store_true", help="print the command line that boots this guest instead")
    run.add_argument(
        "--for",
        dest="monitor",
        choices=("qemu", "cloud-hypervisor", "crosvm", "libvirt"),
        default="qemu",
        help="which machine monitor --print is about",
    )
    run.set_defaults(run=run_command, parser=run)
    _add_device_options(run)
    _add_guest_options(run)


def _add_shell(things: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    shell = things.add_parser(
        "shell",
        help="the same guest with a shell",
        description="Boot a Linux guest with devices and give this terminal to a shell in it. Ctrl-A X ends the guest.",
        examples=(
            ("pyvirtio vm shell --device factorial", "then type: factorial 5"),
            ("pyvirtio vm shell --arch um --device console", "the same in a second, without QEMU"),
        ),
    )
    shell.set_defaults(run=run_shell, parser=shell)
    _add_device_options(shell)
    _add_guest_options(shell)


def _add_factorial(things: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    factorial = things.add_parser(
        "factorial",
        help="compute factorials from inside a guest",
        description="Boot a Linux guest with the factorial device, run the user program in it, print what it prints.",
        examples=(
            ("pyvirtio vm factorial 5", "prints 5! = 120"),
            ("pyvirtio vm factorial --arch aarch64 --wrap32 5 13", "the tutorial's machine, and its answers"),
        ),
    )
    factorial.add_argument("numbers", metavar="N", nargs="+", type=number, help="a number from 0 to 4294967295")
    factorial.add_argument("--wrap32", action="store_true", help="a device that knows n! mod 2**32 only")
    style = factorial.add_mutually_exclusive_group()
    style.add_argument("--quiet", action="store_true", help="print the values alone")
    style.add_argument("--json", action="store_true", help="print one JSON list")
    factorial.set_defaults(run=run_factorial, devices=[], drivers=[], files=[], generic=False, timeout=_NO_LIMIT)
    _add_guest_options(factorial)


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    from pyvirtio.devices import SHIPPED

    add = parser.add_argument
    add(
        "--device",
        metavar="DEVICE[,OPTION=VALUE...]",
        dest="devices",
        action="append",
        default=[],
        help=f"{', '.join(SHIPPED)}, or your own as file.py:Class; may be repeated",
    )
    add(
        "--driver",
        metavar="DIR",
        dest="drivers",
        type=Path,
        action="append",
        default=[],
        help="build and load the kernel driver in this folder, which has C sources and a Kbuild file",
    )
    add("--file", metavar="HOST[:GUEST]", dest="files", action="append", default=[], help="a file or folder for /root")
    add("--generic", action="store_true", help="attach devices with QEMU's generic front-end only")


def _add_guest_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--arch",
        choices=("x86_64", "aarch64", "um"),
        default="x86_64",
        help="the guest's architecture; um is user-mode Linux, which boots in a second, without QEMU",
    )
    add(
        "--transport",
        choices=("pci", "mmio", "mmio-legacy"),
        default="",
        help="how devices are attached (x86_64: pci; aarch64: mmio-legacy, mmio or pci)",
    )
    add("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="KVM, emulation, or what works")
    add("--module", metavar="NAME", dest="modules", action="append", default=[], help="load this module of the kernel")
    add(
        "--package",
        metavar="NAME",
        dest="packages",
        action="append",
        default=[],
        help="put this Debian package, with what it depends on, into the guest",
    )
    add("--kernel-version", metavar="V", default="", help="Debian's kernel 6.1, 6.12 or 7")
    add("--flavour", choices=("cloud", "full"), default="", help="Debian's small kernel, or the one with every driver")
    add("--kernel", metavar="FILE", type=Path, help="boot this kernel image")
    add("--qemu", metavar="FILE", default="", help="use this QEMU")
    add("--console", action="store_true", help="show the whole console of the guest on stderr")


def run_command(options: argparse.Namespace) -> int:
    """Run a command in a guest, and return its exit status."""
    if options.print:
        return _print(options)
    if options.monitor != "qemu":
        options.parser.error("--for says what --print prints; add --print")
    if not options.command:
        options.parser.error("say what to run: -- COMMAND; `pyvirtio vm shell` is for typing commands")
    return _run(options, options.devices, _command(options), sys.stdout.buffer).returncode


def run_factorial(options: argparse.Namespace) -> int:
    """Print what the user program in the guest prints."""
    device, told = ("article", ["--wrap32"]) if options.wrap32 else ("factorial", [])
    words = ["factorial", *told, *(["--quiet"] if options.quiet else []), *map(str, options.numbers)]
    if not options.json:
        return _run(options, [device], words, sys.stdout.buffer).returncode
    import json

    result = _run(options, [device], words)
    answers = [match.groups() for line in result.lines if (match := _ANSWER.fullmatch(line))]
    print(json.dumps([{"n": int(n), "factorial": value, "mod32": bool(mod)} for n, mod, value in answers]))
    return result.returncode


def run_shell(options: argparse.Namespace) -> int:
    """Connect the terminal to a shell in the guest."""
    from pyvirtio.vm.shell import interact

    with _guest(options, options.devices).prepared() as config:
        return interact(config)


def _run(
    options: argparse.Namespace, devices: Sequence[str], command: str | Sequence[str], stdout: BinaryIO | None = None
) -> Result:
    console = _Console(everything=options.console)
    with _guest(options, devices, show=console.show) as machine:
        console.is_open = True
        return machine.run(command, options.timeout, stdout=stdout)


def _command(options: argparse.Namespace) -> str | Sequence[str]:
    words: list[str] = options.command
    return words[0] if len(words) == 1 else words


def _guest(options: argparse.Namespace, devices: Sequence[str], **more: Any) -> guest:
    from pyvirtio.provision.progress import for_terminal
    from pyvirtio.system import log
    from pyvirtio.vm.guests import guest

    log.to_stderr(verbose=False)
    given = {name: getattr(options, name) for name in _GUEST_OPTIONS}
    return guest(
        *devices,
        **given,
        drivers=options.drivers,
        files=dict(map(_file, options.files)),
        generic=options.generic,
        progress=for_terminal(),
        **more,
    )


def _file(word: str) -> tuple[str, Path]:
    """Return where a file goes in the guest, and where it is here.

    >>> _file("../a.txt"), _file("a:b:/etc/c")
    (('/root/a.txt', PosixPath('../a.txt')), ('/etc/c', PosixPath('a:b')))
    """
    host, _, there = word.rpartition(":")
    if host and there.startswith("/"):
        return there, Path(host)
    return f"/root/{Path(word).resolve().name}", Path(word)


def _print(options: argparse.Namespace) -> int:
    """Print how to boot the guest by hand, with the command as what its initramfs runs."""
    import shlex

    from pyvirtio.vm.command_lines import COMMAND_LINES, serving_hints

    command = _command(options)
    line = command if isinstance(command, str) else shlex.join(command)
    config, wires = _guest(options, options.devices).by_hand(line)
    sockets = [str(device.socket) for device in config.devices]
    hints = serving_hints(zip(options.devices, sockets, strict=True))
    command_line = COMMAND_LINES[options.monitor](config, wires)
    print(hints, end="", file=sys.stderr if options.monitor == "libvirt" else sys.stdout)  # which reads XML, no shell's
    print(command_line, end="")
    return 0


class _Console:
    """Shows the guest's console on stderr: all of it, or what is said while a command runs."""

    def __init__(self, *, everything: bool) -> None:
        self.is_open = everything
        self._everything = everything

    def show(self, line: str) -> None:
        """Show a line, without what only the host is told by it."""
        from pyvirtio.vm.running import OURS

        said = line if self._everything else line.partition(OURS)[0]
        if self.is_open and (said or not line):
            print(said, file=sys.stderr, flush=True)
