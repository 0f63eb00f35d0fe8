"""``pyvirtio bench``: the benchmark tables, with ratios to back-ends in C."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.cli.bench import EXAMPLES
from pyvirtio.cli.usage import Parser
from pyvirtio.vm.launch import default_builder
from pyvirtio_bench.page import write_page
from pyvirtio_bench.provision import progress
from pyvirtio_bench.suite import FULL, IN_GUESTS, OF_A_SOCKET, QUICK, TABLES, Options, run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pyvirtio_bench.suite import Report

PAGE = "docs/benchmarks.md"


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and perhaps write the page; return the exit status.

    Raises:
        VirtioError: something cannot be measured here, or a back-end failed.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    names = _names(parser, chosen)
    if chosen.write and not Path(chosen.write).is_file():
        parser.error(f"there is no page {chosen.write!r} to write to; names of tables go before --write")
    socket = Path(chosen.socket) if chosen.socket else None
    python = Path(chosen.python) if chosen.python else None
    options = Options(names, QUICK if chosen.quick else FULL, python, socket)
    report = run(options, default_builder(progress.for_terminal()))
    _print(report, as_json=chosen.json)
    if chosen.write:
        write_page(Path(chosen.write), report.tables)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="pyvirtio bench",
        description="Measure `pyvirtio serve` with shipped devices, as a user installs it, beside back-ends in C: the "
        "same devices on QEMU's libvhost-user, and QEMU's storage daemon. What is missing is built or provisioned when "
        "it is first needed. Runs are interleaved; the tables show medians and ratios. It takes minutes; the tables "
        "are: " + ", ".join(TABLES) + ".",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "tables", metavar="TABLE", nargs="*", help=f"measure these alone (all but {' and '.join(IN_GUESTS)})"
    )
    parser.add_argument("--quick", action="store_true", help="short and few runs: to see that it works")
    parser.add_argument(
        "--python", metavar="PATH", help="install for this interpreter (one built with a profile, if there is one)"
    )
    parser.add_argument("--guest", action="store_true", help="measure with a Linux guest as well")
    parser.add_argument("--socket", metavar="PATH", help="measure the back-end that serves the table's device there")
    parser.add_argument(
        "--write", metavar="PAGE", nargs="?", const=PAGE, help=f"put tables and picture into this page ({PAGE})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every measurement")
    return parser


def _names(parser: Parser, chosen: argparse.Namespace) -> list[str]:
    possible = OF_A_SOCKET if chosen.socket else tuple(TABLES)
    if unknown := [name for name in chosen.tables if name not in possible]:
        parser.error(f"there is no table {unknown[0]!r} to measure; there are {', '.join(possible)}")
    if chosen.socket and chosen.guest:
        parser.error("--guest boots a guest with back-ends of its own; leave out --socket")
    names = chosen.tables or [name for name in possible if name not in IN_GUESTS]
    return [name for name in possible if name in names or (chosen.guest and name in IN_GUESTS)]


def _print(report: Report, *, as_json: bool) -> None:
    for text in report.missing:
        print(f"pyvirtio: missing: {text}", file=sys.stderr)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        print("\n\n".join(table.markdown() for table in report.tables))
