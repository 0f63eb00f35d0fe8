"""The measured install: which Python, and what is in its environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio.provision.progress import Silent
from pyvirtio_bench import installs as module
from pyvirtio_bench.installs import Installs
from pyvirtio_bench.provision import cache
from pyvirtio_bench.pythons import choose, examine, is_profiled


def test_the_install_is_this_checkout_and_nothing_else(installs: Installs):
    install = installs.install()
    program = "import pyvirtio, sys; print(pyvirtio.__file__); import numpy"
    done = subprocess.run([install.python, "-c", program], capture_output=True, text=True, check=False)
    assert Path(done.stdout.strip()).is_relative_to(install.root)
    assert "No module named 'numpy'" in done.stderr
    assert installs.install() == install, "it is made once"
    done = subprocess.run([*install.command, "factorial", "5"], capture_output=True, text=True, check=True)
    assert done.stdout == "5! = 120\n"


def test_a_change_of_the_sources_makes_another_install(
    installs: Installs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    made = []

    def entry(_self: cache.Cache, kind: str, key: str, _make: object) -> Path:
        made.append((kind, key))
        return tmp_path

    monkeypatch.setattr(cache.Cache, "entry", entry)
    monkeypatch.setattr(cache.Cache, "keep_latest", lambda *_: None)
    for text in ("a", "b"):
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / "one.py").write_text(text)
        monkeypatch.setattr(module, "CHECKOUT", tmp_path)
        monkeypatch.setattr(module, "PARTS", ("src",))
        installs.install()
    installs.install("fast")
    assert len(set(made)) == 3


@pytest.mark.long
def test_what_cannot_be_installed_says_why(installs: Installs, tmp_path: Path):
    broken = Installs(cache.Cache(tmp_path), installs.python, Silent())
    with pytest.raises(ProvisionError, match="cannot make"):
        broken.install("no-such-extra]==nonsense[")
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_python_says_what_it_is():
    python = examine(Path(sys.executable))
    assert python.version == sys.version_info[:3]
    assert str(python).endswith("profile-guided optimisation")


@pytest.mark.parametrize(
    ("words", "profiled"),
    [
        (["'--prefix=/usr' '--with-lto' '--enable-optimizations'"], True),
        (["'--with-wheel-pkg-dir=/usr/share/python-wheels/'"], True),
        (["", "-O3 -fprofile-use"], True),
        (["'--prefix=/home/me'", "-O3"], False),
    ],
)
def test_builds_with_a_profile_are_told_apart(words: list[str], profiled: bool):
    assert is_profiled(*words) is profiled


def test_a_given_python_is_taken_and_others_are_looked_for(tmp_path: Path):
    assert choose(Path(sys.executable)).program == Path(sys.executable)
    chosen = choose()
    assert chosen.profiled or chosen.version == sys.version_info[:3]
    with pytest.raises(LocalError, match="--python PATH"):
        choose(tmp_path / "none")
