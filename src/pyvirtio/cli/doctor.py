"""``pyvirtio doctor``: what this machine can do, what is missing, and the command that fixes it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

_MARKS = {"ok": "ok", "missing": "MISSING", "optional": "no"}


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "doctor",
        help="what this machine can do, and what is missing for a guest",
        description="Look at what a Linux guest needs: QEMU, kernels, packages, KVM. Exit status 1: it lacks one.",
    )
    parser.add_argument("--fix", action="store_true", help="provision what is missing into the cache folder")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a line for each thing that was looked at."""
    from pyvirtio.provision.progress import for_terminal
    from pyvirtio.ring.engine import ENGINES, engine
    from pyvirtio.vm.doctor import MISSING, OK, CheckResult, examine, fix
    from pyvirtio.vm.launch import default_builder

    builder = default_builder(for_terminal())
    results = [CheckResult("ring engine", OK, ENGINES[engine()])]
    results += fix(builder) if options.fix else examine(builder)
    if options.json:
        import json

        print(json.dumps([result.as_dict() for result in results]))
    else:
        width = max(len(result.name) for result in results)
        for result in results:
            remedy = f" -> {result.remedy}" if result.remedy else ""
            print(f"{result.name:{width}}  {_MARKS[result.state]:7}  {result.found}{remedy}")
    return 1 if any(result.state == MISSING for result in results) else 0
