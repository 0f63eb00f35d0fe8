"""Our disk, and front-ends of others before it: libblkio by itself, in QEMU's tools, and in nbdkit."""

from __future__ import annotations

import errno
import os
import shlex
import signal
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.served import served
from tests.support.blkio import Blkio, connected

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.peers import Peers

pytestmark = pytest.mark.guest

SIZE = 8 << 20
PIECE = 4096
IMG, IO = "usr/bin/qemu-img", "usr/bin/qemu-io"


@pytest.fixture
def image(tmp_path: Path, rng: random.Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(SIZE))
    return path


@pytest.fixture
def library(new_peers: Peers) -> Path:
    return new_peers.find("usr/lib/*/libblkio.so.1")


def disk(socket: str) -> str:
    return f"driver=virtio-blk-vhost-user,path={socket},cache.direct=on"


def test_qemus_tools_copy_a_disk_from_and_to_it(new_peers: Peers, image: Path, tmp_path: Path, rng: random.Random):
    other, copy = tmp_path / "other.img", tmp_path / "copy.img"
    other.write_bytes(rng.randbytes(SIZE))
    with served(f"block,path={image}") as server:
        assert f"({SIZE} bytes)" in new_peers.run(IMG, "info", "--image-opts", disk(server.path))
        new_peers.run(IMG, "convert", "-O", "raw", "--image-opts", disk(server.path), str(copy))
        assert copy.read_bytes() == image.read_bytes()
        options = ("-n", "-W", "-m", "16", "-f", "raw", "--target-image-opts")
        new_peers.run(IMG, "convert", *options, str(other), disk(server.path))
    assert image.read_bytes() == other.read_bytes()


def test_qemus_exerciser_does_what_a_disk_can(new_peers: Peers, image: Path):
    before = bytearray(image.read_bytes())
    commands = (
        "write -P 0x41 4k 64k",
        "aio_write -P 0x42 100k 8k",
        "aio_write -P 0x43 200k 8k",
        "aio_flush",
        "write -z 8k 4k",
        "write -z -u 16k 4k",
        "read -P 0 16k 4k",
        "discard 1M 1M",
        "flush",
        "read -P 0x42 100k 8k",
    )
    with served(f"block,path={image}") as server:
        arguments = [word for command in commands for word in ("-c", command)]
        said = new_peers.run(IO, "--image-opts", disk(server.path), *arguments)
        assert "failed" not in said
    before[4096 : 68 << 10] = b"\x41" * (64 << 10)
    before[100 << 10 : 108 << 10] = b"\x42" * (8 << 10)
    before[200 << 10 : 208 << 10] = b"\x43" * (8 << 10)
    before[8 << 10 : 12 << 10] = before[16 << 10 : 20 << 10] = bytes(4096)
    after = image.read_bytes()
    assert after[: 1 << 20] == before[: 1 << 20]
    assert after[2 << 20 :] == before[2 << 20 :]


def test_nbdkit_hands_it_on(new_peers: Peers, image: Path):
    plugin = str(new_peers.find("usr/lib/*/nbdkit/plugins/nbdkit-blkio-plugin.so"))
    compare = shlex.join(new_peers.command(IMG, "compare", "-f", "raw", "-F", "raw", str(image))) + ' "$uri"'
    with served(f"block,path={image},readonly") as server:
        options = ("--run", compare)
        said = new_peers.run("usr/bin/nbdkit", "-r", plugin, "virtio-blk-vhost-user", f"path={server.path}", *options)
    assert "identical" in said


def load(
    front: Blkio, queues: int, rounds: int, content: bytearray, rng: random.Random, between: Callable[[], object]
) -> None:
    """Write and read random pieces through every queue, with 16 requests in flight in each."""
    places = rng.sample(range(SIZE // PIECE), 16 * queues)
    written: dict[int, bytes] = {}
    reading: set[int] = set()
    for queue in range(queues):
        for slot in range(16 * queue, 16 * queue + 16):
            front.fill(slot, data := rng.randbytes(PIECE))
            written[slot] = data
            front.submit(queue, "write", slot, places[slot] * PIECE, PIECE)
    done = 0
    while done < rounds:
        for queue in range(queues):
            for slot, result in front.completions(queue):
                assert result == 0
                done += 1
                if slot in reading:
                    reading.remove(slot)
                    assert front.content(slot, PIECE) == written[slot]
                    front.fill(slot, data := rng.randbytes(PIECE))
                    written[slot] = data
                    front.submit(queue, "write", slot, places[slot] * PIECE, PIECE)
                else:
                    reading.add(slot)
                    content[places[slot] * PIECE : (places[slot] + 1) * PIECE] = written[slot]
                    front.fill(slot, bytes(PIECE))
                    front.submit(queue, "read", slot, places[slot] * PIECE, PIECE)
        between()
    for queue in range(queues):
        outstanding = 16
        while outstanding:
            for slot, result in front.completions(queue):
                assert result == 0
                outstanding -= 1
                if slot not in reading:
                    content[places[slot] * PIECE : (places[slot] + 1) * PIECE] = written[slot]


def test_several_queues_under_load_while_workers_are_killed(library: Path, image: Path, rng: random.Random):
    content = bytearray(image.read_bytes())
    victims: set[int] = set()
    with (
        served(f"block,path={image},queues=4", "--workers", "2") as server,
        connected(library, server.path, queues=4) as front,
    ):
        assert front.capacity() == SIZE

        def kill_one() -> None:
            if len(victims) < 6 and len(workers := set(server.workers()) - victims) == 2:
                victims.add(victim := rng.choice(sorted(workers)))
                os.kill(victim, signal.SIGKILL)

        load(front, 4, 4000, content, rng, kill_one)
        front.flush(3)
        assert len(victims) == 6
    assert image.read_bytes() == content


def test_ranges_are_discarded_and_zeroed(library: Path, image: Path):
    before = image.read_bytes()
    with served(f"block,path={image}") as server, connected(library, server.path) as front:
        front.submit_range(0, "write_zeroes", 1, 0, 1 << 20)
        front.submit_range(0, "discard", 2, 2 << 20, 1 << 20)
        results: dict[int, int] = {}
        while len(results) < 2:
            results.update(front.completions(0))
        assert results == {1: 0, 2: 0}
    after = image.read_bytes()
    assert after[: 1 << 20] == bytes(1 << 20)
    assert after[1 << 20 : 2 << 20] == before[1 << 20 : 2 << 20]


def test_a_readonly_disk_is_not_written(library: Path, image: Path):
    before = image.read_bytes()
    with served(f"block,path={image},readonly") as server:
        with pytest.raises(OSError, match="read-only") as refused, connected(library, server.path):
            pass
        assert refused.value.errno == errno.EROFS
        with connected(library, server.path, readonly=True) as front:
            front.submit(0, "read", 0, SIZE - PIECE, PIECE)
            assert front.completions(0) == [(0, 0)]
            assert front.content(0, PIECE) == before[-PIECE:]
    assert image.read_bytes() == before
