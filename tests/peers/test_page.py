"""The programs of docs/drivers.md, with the daemons that it names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.peers import listening, storage_daemon

if TYPE_CHECKING:
    from tests.support.peers import Peers

pytestmark = pytest.mark.guest

PROGRAMS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/drivers.md").read_text(), re.DOTALL)


def output(program: str, socket: str) -> str:
    program, number = re.subn(r"vhost-user:/tmp/\w+\.sock", f"vhost-user:{socket}", program)
    assert number == 1
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_for_a_disk(new_peers: Peers, tmp_path: Path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with listening() as listener, storage_daemon(new_peers, listener, image, queues=4):
        expected = "b'hello' 1048576 ['flush', 'discard', 'write zeroes']\n"
        assert output(PROGRAMS[0], listener.path) == expected
    assert image.read_bytes()[:512] == b"hello".ljust(512)


def test_the_program_for_a_shared_folder(new_peers: Peers, tmp_path: Path):
    with listening() as listener:
        options = (f"--shared-dir={tmp_path}", "--sandbox=none", f"--fd={listener.fileno()}")
        with new_peers.running("usr/libexec/virtiofsd", *options, fds=[listener.fileno()]):
            assert output(PROGRAMS[1], listener.path) == "/greeting 5 -rw-r--r--\nb'ell'\n"
    assert (tmp_path / "greeting").read_bytes() == b"hello"
