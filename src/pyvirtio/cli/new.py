"""``pyvirtio new``: a project that works at once, to be changed into one's own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    from pyvirtio.scaffold.kinds import KINDS

    kinds = sorted(filter(None, KINDS))
    parser = commands.add_parser(
        "new",
        help="start a project with a device of your own",
        description="Make a folder with a device, its driver, tests and a README, all of which work at once. Without "
        "--like the device is of a type of its own, and the project has a driver for Linux, too.",
        examples=(
            ("pyvirtio new thermometer", "a device of a type of its own, with a driver for Linux"),
            ("pyvirtio new --like block vault", "a disk, for the driver that Linux has"),
        ),
    )
    parser.add_argument("name", metavar="NAME", help="what the device, its module and its folder are called")
    parser.add_argument(
        "--like",
        metavar="DEVICE",
        choices=kinds,
        default="",
        help=f"a device like this one: {', '.join(kinds)}",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the project, and say what to do next."""
    from pyvirtio.scaffold.project import create

    folder = create(options.name, options.like)
    print(f"{folder}/ is a project that works: README.md says what is in it. Next:")
    commands = {
        f"cd {folder}": "",
        "make run": "# the device and its driver in one process",
        "make guest": "# the device in a Linux guest",
    }
    width = max(map(len, commands))
    for command, comment in commands.items():
        print(f"    {command:{width}}  {comment}".rstrip())
    return 0
