"""``pyvirtio block``, as a script sees it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.served import served
from tests.support.commands import refused, run

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 5 << 20


def block(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pyvirtio", "block", *arguments]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)


def prints(expected: bytes, *arguments: str, data: bytes = b"") -> None:
    result = block(*arguments, data=data)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == expected


@pytest.fixture
def image(tmp_path: Path, rng: random.Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(SIZE))
    return path


@pytest.fixture
def socket(image: Path) -> Iterator[str]:
    with served(f"block,path={image},queues=3") as server:
        yield server.path


def test_info(socket: str):
    assert run("block", socket, "info").stdout.splitlines() == [
        "id          disk.img",
        f"size        {SIZE} bytes (5 MiB)",
        "block size  512 bytes",
        "queues      3",
        "readonly    no",
        "can         flush, discard, write zeroes",
    ]
    assert json.loads(run("block", socket, "info", "--json").stdout) == {
        "id": "disk.img",
        "size": SIZE,
        "block_size": 512,
        "queues": 3,
        "readonly": False,
        "can": ["flush", "discard", "write zeroes"],
    }


def test_any_range_is_read(socket: str, image: Path):
    content = image.read_bytes()
    prints(content, socket, "read")
    prints(content[1 << 20 :], socket, "read", "1M")
    for offset, length in ((0, 0), (0, 1), (511, 2), (1000, 3 << 20), (SIZE - 1, 1), (SIZE, 0)):
        prints(content[offset : offset + length], socket, "read", str(offset), hex(length))


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (0, 5), (511, 2), (512, 512), (1000, 100), (700_001, 3 << 20), (SIZE - 1, 1)]
)
def test_any_range_is_written_and_nothing_beside_it(
    socket: str, image: Path, rng: random.Random, offset: int, length: int
):
    content, data = image.read_bytes(), rng.randbytes(length)
    prints(b"", socket, "write", str(offset), data=data)
    assert image.read_bytes() == content[:offset] + data + content[offset + length :]


def test_a_disk_is_copied_to_another_one(socket: str, image: Path, tmp_path: Path):
    other = tmp_path / "other.img"
    other.write_bytes(bytes(SIZE + 512))
    with served(f"block,path={other}") as target:
        prints(b"", socket, "copy", target.path)
        assert other.read_bytes() == image.read_bytes() + bytes(512)
        refused(run("block", target.path, "copy", socket), 1, str(SIZE))


def test_ranges_are_zeroed_and_discarded(socket: str, image: Path):
    content, used = image.read_bytes(), image.stat().st_blocks
    prints(b"", socket, "zero", "1K", "1K")
    assert image.read_bytes() == content[:1024] + bytes(1024) + content[2048:]
    prints(b"", socket, "discard", "1M", "1M")
    assert image.stat().st_blocks < used
    refused(run("block", socket, "zero", "1", "512"), 1, "sectors")


def test_bench_reads_and_changes_nothing_unless_told_to(socket: str, image: Path):
    before = image.read_bytes()
    result = run("block", socket, "bench", "--seconds", "1", "--queues", "2", "--size", "1K", "--json")
    measured = json.loads(result.stdout)
    assert measured["requests"] > 0
    assert measured["bytes"] == 1024 * measured["requests"]
    assert measured["seconds"] >= 0.5
    assert image.read_bytes() == before
    shown = run("block", socket, "bench", "--seconds", "1", "--overwrite").stdout
    assert "writes of 4096 bytes, 32 in flight:" in shown
    assert image.read_bytes() != before


def test_what_is_beyond_the_end_is_refused(socket: str, image: Path):
    before = image.read_bytes()
    refused(run("block", socket, "read", str(SIZE), "1"), 1, str(SIZE))
    for offset in (SIZE - 2, SIZE, SIZE + 5):
        result = block(socket, "write", str(offset), data=b"abc")
        assert (result.returncode, result.stdout) == (1, b"")
        assert str(SIZE).encode() in result.stderr
    assert image.read_bytes() == before
    refused(run("block", socket, "bench", "--size", "1G"), 1, "--size")
    refused(run("block", socket, "bench", "--size", "1000"), 1, "sectors")


def test_a_readonly_disk_is_not_written(image: Path):
    with served(f"block,path={image},readonly") as server:
        for action in (("write",), ("zero", "0", "512"), ("discard", "0", "512"), ("bench", "--overwrite")):
            refused(run("block", server.path, *action), 1, "read-only")


@pytest.mark.parametrize(
    "arguments",
    [[], ["s"], ["s", "eat"], ["s", "read", "-1"], ["s", "read", "1X"], ["s", "zero", "0"], ["s", "info", "extra"]],
)
def test_wrong_usage(arguments: list[str]):
    refused(run("block", *arguments), 2, "--help")


def test_a_socket_that_nobody_serves(tmp_path: Path):
    refused(run("block", str(tmp_path / "s"), "info"), 1, "pyvirtio serve block")


def test_a_backend_that_is_started_again_meanwhile(image: Path, tmp_path: Path):
    """The command asks for 5 MiB through a pipe that nobody reads at first, so it is not done before."""
    path = str(tmp_path / "s")
    command = [sys.executable, "-m", "pyvirtio", "block", path, "--reconnect", "60", "read"]
    with served(f"block,path={image}", path=path) as server:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        assert process.stdout is not None
        first = process.stdout.read(1)
        server.end(signal.SIGKILL)
    with served(f"block,path={image}", path=path):
        rest, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")
    assert first + rest == image.read_bytes()
