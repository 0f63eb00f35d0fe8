"""``pyvirtio qemu``: the QEMU that guests run in, for command lines of one's own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "qemu",
        help="run the QEMU that guests run in",
        description="Run the QEMU that `pyvirtio vm` runs, with your arguments, all of which are QEMU's. It is fetched "
        "if this machine has none. `pyvirtio qemu aarch64 ARGUMENT...` emulates that architecture.",
        examples=(
            ("pyvirtio qemu --version", "which one it is"),
            ("pyvirtio qemu aarch64 -M virt -device help", "the devices that it has for another processor"),
        ),
        prefix_chars="\0",  # none of the words is an option of ours
        add_help=False,
    )
    parser.add_argument("words", metavar="ARGUMENT", nargs="*", help="QEMU's arguments")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Become QEMU."""
    import os

    from pyvirtio.provision.progress import for_terminal
    from pyvirtio.vm.launch import GuestOptions, default_builder

    words: list[str] = options.words
    arch, arguments = ("aarch64", words[1:]) if words[:1] == ["aarch64"] else ("x86_64", words)
    qemu = default_builder(for_terminal()).qemu(GuestOptions(arch=arch))
    os.execv(qemu.prefix[0], [*qemu.prefix, *arguments])  # noqa: S606  # becoming it is this command's work
