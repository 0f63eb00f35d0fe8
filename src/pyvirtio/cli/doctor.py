"""``pyvirtio doctor``: what this machine can do, what is missing, and the command that fixes it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from pyvirtio.vm.doctor import CheckResult

_MARKS = {"ok": "ok", "missing": "MISSING", "optional": "no"}


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "doctor",
        help="what this machine can do, and what is missing for a guest",
        description="Look at what a Linux guest needs: QEMU, kernels, packages, KVM. Exit status 1: it lacks one.",
        examples=(
            ("pyvirtio doctor", "what is there, and what to do about what is not"),
            ("pyvirtio doctor --fix", "fetch QEMU and kernels for guests"),
        ),
    )
    parser.add_argument("--fix", action="store_true", help="provision what is missing into the cache folder")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a line for each thing that was looked at."""
    from pyvirtio.provision.progress import for_terminal
    from pyvirtio.vm.doctor import MISSING, examine, fix
    from pyvirtio.vm.launch import default_builder

    builder = default_builder(for_terminal())
    results = [_ring_engine()]
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


def _ring_engine() -> CheckResult:
    from pyvirtio.ring.engine import COST, ENGINES, engine, obstacle
    from pyvirtio.vm.doctor import OK, OPTIONAL, CheckResult

    name, found = ENGINES[engine()], obstacle()
    if found is None:
        return CheckResult("ring engine", OK, name)
    what, remedy = found
    return CheckResult("ring engine", OPTIONAL, f"{name}: there is one in C, but {what}; {COST}", remedy)
