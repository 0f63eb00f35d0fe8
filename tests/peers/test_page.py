"""The programs of docs/drivers.md, with the daemons that it names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import ROOT, blocks, run_python
from tests.support.peers import listening, storage_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.peers import Peers

pytestmark = pytest.mark.guest

PROGRAMS = [block.text for block in blocks((ROOT / "docs/drivers.md").read_text(), "python")]


def output(program: str, socket: str, folder: Path) -> list[str]:
    program, number = re.subn(r"vhost-user:/tmp/\w+\.sock", f"vhost-user:{socket}", program)
    assert number == 1
    return run_python(program, folder)


def test_the_program_for_a_disk(new_peers: Peers, tmp_path: Path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with listening() as listener, storage_daemon(new_peers, listener, image, queues=4):
        expected = ["b'hello' 1048576 ['flush', 'discard', 'write zeroes']"]
        assert output(PROGRAMS[0], listener.path, tmp_path) == expected
    assert image.read_bytes()[:512] == b"hello".ljust(512)


def test_the_program_for_a_shared_folder(new_peers: Peers, tmp_path: Path):
    with listening() as listener:
        options = (f"--shared-dir={tmp_path}", "--sandbox=none", f"--fd={listener.fileno()}")
        with new_peers.running("usr/libexec/virtiofsd", *options, fds=[listener.fileno()]):
            assert output(PROGRAMS[1], listener.path, tmp_path) == ["/greeting 5 -rw-r--r--", "b'ell'"]
    assert (tmp_path / "greeting").read_bytes() == b"hello"
