"""``pyvirtio trace``: show a recording, turn it into something else, or play it again."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from pyvirtio.trace.events import Recording


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "trace",
        help="show a recording, convert it, or play it again",
        description="Show what was recorded by `pyvirtio tap` or `pyvirtio serve --trace`, step by step; or write it "
        "for another program, or play it again. OUT may be - for standard output.",
        examples=(
            ("pyvirtio serve factorial --socket /tmp/factorial.sock --trace run.jsonl", "how to make a recording"),
            ("pyvirtio trace run.jsonl --explain", "what happened in it"),
            ("pyvirtio trace run.jsonl --pcapng run.pcapng", "for Wireshark"),
            ("pyvirtio trace run.jsonl --test test_run.py --device factorial", "a test that asks the same again"),
        ),
    )
    parser.add_argument("file", metavar="FILE", help="the recording")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--explain", action="store_true", help="show it, and explain each kind of step once")
    what.add_argument("--pcapng", metavar="OUT", help="write it for Wireshark and tshark")
    what.add_argument("--perfetto", metavar="OUT", help="write a timeline for Perfetto, or a browser's tracing page")
    what.add_argument("--html", metavar="OUT", help="write a page that plays it, for any browser")
    what.add_argument("--test", metavar="OUT", nargs="?", const="-", help="write a test for pytest (to stdout)")
    what.add_argument(
        "--replay", metavar="DEVICE", help="ask a device what was asked: what `serve` takes, or a back-end's socket"
    )
    what.add_argument("--serve", metavar="SOCKET", help="serve a device that answers what was answered")
    what.add_argument("--lua", action="store_true", help="print the path of the dissector for Wireshark")
    parser.add_argument("--device", metavar="DEVICE", help="with --test: the device to be tested")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Do one thing with a recording."""
    from pyvirtio.trace.recorder import load

    if options.lua:
        from pyvirtio import trace

        print(f"{trace.__path__[0]}/pyvirtio.lua")
        return 0
    recording = load(options.file)
    if options.pcapng:
        from pyvirtio.trace.pcapng import pcapng

        _write(options.pcapng, pcapng(recording))
    elif options.perfetto:
        from pyvirtio.trace.perfetto import perfetto

        _write(options.perfetto, (f"{line}\n".encode() for line in perfetto(recording)))
    elif options.html:
        from pyvirtio.trace.page.player import player

        _write(options.html, [player(recording)])
    elif options.test:
        _write_test(recording, options)
    elif options.replay:
        return _replay(recording, options.replay)
    elif options.serve:
        _serve(options)
    else:
        from pyvirtio.trace.text import render

        for line in render(recording, explain=options.explain):
            print(line)
    return 0


def _write(path: str, pieces: Iterable[bytes]) -> None:
    import sys

    from pyvirtio.errors import LocalError

    if path == "-":
        sys.stdout.buffer.writelines(pieces)
        return
    try:
        with open(path, "wb") as file:
            file.writelines(pieces)
    except OSError as error:
        raise LocalError(f"{path} cannot be written: {error.strerror}; name another file") from error


def _write_test(recording: Recording, options: argparse.Namespace) -> None:
    from pyvirtio.trace.pytest_file import test_file

    if options.device is None:
        options.parser.error("--test needs --device: what `pyvirtio serve` takes, or the socket of a back-end")
    _write(options.test, [test_file(recording, options.device, options.file).encode()])


def _replay(recording: Recording, device: str) -> int:
    """Play a recording; the status is 1 where an answer differs."""
    from pyvirtio.trace.replay import open_device, replay_into

    outcome = replay_into(open_device(device), recording)
    for difference in outcome.differences:
        print(difference)
    left_out = f", {outcome.skipped} requests left out, which were not recorded whole" if outcome.skipped else ""
    print(f"{outcome.compared} answers, {len(outcome.differences)} of them not as recorded{left_out}")
    return 1 if outcome.differences else 0


def _serve(options: argparse.Namespace) -> None:
    from pyvirtio.host.serve import serve
    from pyvirtio.system import log
    from pyvirtio.trace import recorded

    log.to_stderr(verbose=False)
    path = options.file.replace(",", ",,")
    serve(
        f"{recorded.__file__}:Recorded,recording={path}",
        options.serve,
        ready=lambda _: log.write(f"pyvirtio: {options.file} is ready on {options.serve}\n"),
    )
