"""``pyvirtio bench``: the benchmark tables, with ratios to a back-end in C."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

# As the bench has them, which takes too long to import for every command's --help.
_TABLES = ("requests", "workers", "flat", "memory", "start", "exact", "guest")
_FOR_A_SOCKET = ("requests", "memory")
_PAGE = "docs/benchmarks.md"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "bench",
        help="measure our back-end against one in C",
        description="Measure back-ends of the factorial device with one front-end in C: ours with every engine, and "
        "one on QEMU's libvhost-user, which is built when it is first needed. Runs are interleaved; what is shown "
        "are medians and ratios. It takes minutes; the tables are: " + ", ".join(_TABLES) + ".",
    )
    parser.add_argument("tables", metavar="TABLE", nargs="*", help="measure these alone (all but guest)")
    parser.add_argument("--quick", action="store_true", help="short and few runs: to see that it works")
    parser.add_argument("--long", action="store_true", help="ten million requests for the table of memory")
    parser.add_argument("--guest", action="store_true", help="measure inside a Linux guest as well")
    parser.add_argument("--socket", metavar="PATH", help="measure the back-end that serves this socket")
    parser.add_argument(
        "--write",
        metavar="PAGE",
        nargs="?",
        const=_PAGE,
        help=f"put the tables into this page ({_PAGE})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every measurement")
    parser.set_defaults(run=run, fail=parser.error)


def run(options: argparse.Namespace) -> int:
    """Measure, print, and perhaps write the page."""
    names = _names(options)
    from pathlib import Path

    from pyvirtio.bench.page import write_page
    from pyvirtio.bench.suite import FULL, QUICK, Wanted
    from pyvirtio.bench.suite import run as measure
    from pyvirtio.provision.progress import for_terminal
    from pyvirtio.vm.launch import default_builder

    wanted = Wanted(
        names, QUICK if options.quick else FULL, options.long, Path(options.socket) if options.socket else None
    )
    outcome = measure(wanted, default_builder(for_terminal()))
    for text in outcome.missing:
        print(f"pyvirtio: missing: {text}", file=sys.stderr)
    if options.json:
        import json

        print(json.dumps(outcome.as_dict()))
    else:
        print("\n\n".join(table.markdown() for table in outcome.tables))
    if options.write:
        write_page(Path(options.write), outcome.tables)
    return 0


def _names(options: argparse.Namespace) -> list[str]:
    possible = _FOR_A_SOCKET if options.socket else _TABLES
    if unknown := [name for name in options.tables if name not in possible]:
        options.fail(f"there is no table {unknown[0]!r} to measure; there are {', '.join(possible)}")
    if options.socket and options.guest:
        options.fail("--guest boots a guest with back-ends of its own; leave out --socket")
    usual = [name for name in possible if name != "guest"]
    chosen = [name for name in possible if name in options.tables] or usual
    return [*chosen, "guest"] if options.guest and "guest" not in chosen else chosen
