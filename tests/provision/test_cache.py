"""An entry of the cache is whole or not there, and made once."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, cannot_write, default_root, digest, says_no_room

if TYPE_CHECKING:
    from pathlib import Path


def fill(folder: Path) -> None:
    (folder / "file").write_text("whole")


def nothing_half_done(root: Path) -> bool:
    return not list((root / "partial").glob("*"))


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def make(folder: Path) -> None:
        calls.append(folder)
        fill(folder)

    assert not cache.has("kind", "key")
    first = cache.entry("kind", "key", make)
    assert cache.entry("kind", "key", make) == first == tmp_path / "kind/key"
    assert len(calls) == 1
    assert cache.has("kind", "key")
    assert (first / "file").read_text() == "whole"
    assert nothing_half_done(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ProvisionError, ValueError])
def test_an_interrupted_entry_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def make(folder: Path) -> None:
        fill(folder)
        raise error("now")

    cache = Cache(tmp_path)
    with pytest.raises(error):
        cache.entry("kind", "key", make)
    assert not cache.has("kind", "key")
    assert nothing_half_done(tmp_path)
    assert (cache.entry("kind", "key", fill) / "file").read_text() == "whole"


def test_what_a_killed_process_left_is_not_taken_for_an_entry(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from pyvirtio.provision.cache import Cache\n"
        "def make(folder):\n"
        "    (folder / 'file').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Cache(Path(sys.argv[1])).entry('kind', 'key', make)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "partial/kind-key/file").read_text() == "half"
    entry = Cache(tmp_path).entry("kind", "key", fill)
    assert (entry / "file").read_text() == "whole"
    assert nothing_half_done(tmp_path)


def test_two_processes_do_not_make_the_same_entry_twice(tmp_path: Path) -> None:
    notices: list[str] = []
    started, release = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        started.set()
        assert release.wait(30)
        fill(folder)

    def notice(text: str) -> None:
        notices.append(text)
        release.set()  # the second one waits: let the first go on

    # Locks belong to open files, so two threads stand for two processes here.
    first = threading.Thread(target=Cache(tmp_path).entry, args=("kind", "key", slow))
    first.start()
    assert started.wait(30)
    entry = Cache(tmp_path, notice).entry("kind", "key", lambda _: pytest.fail("made twice"))
    first.join()
    assert (entry / "file").read_text() == "whole"
    assert notices == ["another process is making kind-key: waiting for it"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained(tmp_path: Path, number: int) -> None:
    def make(folder: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(ProvisionError, match=r"no room left on the disk of .*XDG_CACHE_HOME"):
        Cache(tmp_path).entry("kind", "key", make)
    assert nothing_half_done(tmp_path)


def test_a_real_limit_on_writing_is_explained(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "large").write_bytes(bytes(100_000))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(ProvisionError, match="no room left"):
            Cache(tmp_path).entry("kind", "key", make)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert nothing_half_done(tmp_path)


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProvisionError, match=r"cannot write to .*XDG_CACHE_HOME"):
        Cache(tmp_path / "file").entry("kind", "key", fill)
    assert "Permission denied" in str(cannot_write(tmp_path, PermissionError(errno.EACCES, "Permission denied")))


def test_a_note_is_kept_until_its_key_changes(tmp_path: Path) -> None:
    cache, answers = Cache(tmp_path), iter("abc")
    assert [cache.note("name", key, lambda: next(answers)) for key in ("1", "1", "2", "2", "1")] == [*"aabbc"]
    assert not list((tmp_path / "notes").glob(".*")), "no partial file is left"


def test_a_note_that_cannot_be_kept_is_found_out_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    answers = iter("ab")
    assert [Cache(tmp_path / "file").note("name", "1", lambda: next(answers)) for _ in range(2)] == ["a", "b"]


def test_only_the_latest_entries_are_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for age, key in enumerate("abcd"):
        os.utime(cache.entry("kind", key, fill), (1000 - age, 1000 - age))
    cache.entry("kind", "d", fill)  # used now
    cache.keep_latest("kind", 2)
    assert sorted(path.name for path in (tmp_path / "kind").iterdir()) == ["a", "d"]


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "pyvirtio"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for nowhere in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", nowhere)
        assert default_root() == tmp_path / "home/.cache/pyvirtio"


def test_names_depend_on_every_part() -> None:
    assert len({digest("a"), digest("a", ""), digest("", "a"), digest(b"b")}) == 4
    assert says_no_room("dpkg-deb: error: cannot copy: No space left on device")
    assert not says_no_room("404 Not Found")
