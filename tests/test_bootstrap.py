"""tools/bootstrap: what it makes, that it is quick when nothing changed, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
BASE = Path(sys.executable).resolve()


def checkout(folder: Path) -> Path:
    """Make a checkout with a package of one command."""
    for name in ("tools/bootstrap", "requirements-dev.lock", "pyproject.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    package = folder / "src/pyvirtio"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text("import sys\ndef main():\n    print(*sys.argv[1:])\n    return 3\n")
    return folder


def bootstrap(folder: Path, level: str = "run", **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS")}
    return subprocess.run(
        [folder / "tools/bootstrap", level],
        env=kept | {"PYTHON": str(BASE)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def stub(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


# A #! line can hold neither spaces nor a long path.
@pytest.mark.parametrize("name", ["plain", "with a space", "long" * 40], ids=["plain", "space", "long"])
def test_the_command_works_and_the_second_call_is_silent(tmp_path, name):
    here = checkout(tmp_path / name)
    first = bootstrap(here)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    command = [str(here / ".venv/bin/pyvirtio"), "two words", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "two words x\n", "")

    made = (here / ".venv/made-run").stat().st_mtime_ns
    again = bootstrap(here)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (here / ".venv/made-run").stat().st_mtime_ns == made


def test_a_process_of_a_pool_that_imports_the_command_does_not_run_it(tmp_path):
    here = checkout(tmp_path)
    bootstrap(here)
    as_multiprocessing_does = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__mp_main__')"
    command = [str(here / ".venv/bin/python3"), "-c", as_multiprocessing_does, str(here / ".venv/bin/pyvirtio")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_imported_at_start(tmp_path):
    here = checkout(tmp_path / "here")
    bootstrap(here)

    def modules(python: Path) -> set[str]:
        command = [str(python), "-c", "import sys; print(*sys.modules)"]
        # Without coverage's own hook, which a measured run would start here too.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        return set(subprocess.check_output(command, env=environment, text=True).split())

    extra = modules(here / ".venv/bin/python3") - modules(BASE)
    # Some versions of Python decode path files with an encoding of their own.
    assert {name for name in extra if not name.startswith("encodings.")} == set()


def test_a_checkout_that_moved_is_mended(tmp_path):
    bootstrap(checkout(tmp_path / "here"))
    there = (tmp_path / "here").rename(tmp_path / "there")
    assert "making .venv again" in bootstrap(there).stderr
    assert subprocess.run([there / ".venv/bin/pyvirtio"], capture_output=True, check=False).returncode == 3


def test_an_old_python_is_named(tmp_path):
    here = checkout(tmp_path / "here")
    stub(tmp_path / "bin", "old", 'case "$2" in *print*) echo 3.9 ;; *) exit 1 ;; esac')
    done = bootstrap(here, PYTHON=str(tmp_path / "bin/old"))
    assert done.returncode == 1
    assert "pyvirtio needs Python 3.11 or newer" in done.stderr
    assert "is 3.9" in done.stderr
    assert not (here / ".venv").exists()


def test_no_python_is_named(tmp_path):
    done = bootstrap(checkout(tmp_path / "here"), PYTHON="python-of-nowhere")
    assert done.returncode == 1
    assert "there is no 'python-of-nowhere' here" in done.stderr


@pytest.mark.skipif(not Path("/usr/bin/apt-get").exists(), reason="only Debian keeps ensurepip in another package")
@pytest.mark.parametrize("user", ["0", "1000"], ids=["root", "user"])
def test_without_ensurepip_root_installs_it_and_others_are_told_how(tmp_path, user):
    python = Path("/usr/bin/python3")
    if not python.exists() or subprocess.run([python, "-c", "import tomllib"], check=False).returncode:
        pytest.skip("Debian's own Python is missing or too old")
    here = checkout(tmp_path / "here")
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide/ensurepip.py").write_text("raise ImportError('hidden')")
    stub(tmp_path / "bin", "id", f"echo {user}")
    stub(tmp_path / "bin", "apt-get", f'echo "apt-get $*" >>"{tmp_path}/calls"; echo installing')
    done = bootstrap(
        here,
        "dev",
        PYTHON=str(python),
        PATH=f"{tmp_path}/bin:{os.environ['PATH']}",
        PYTHONPATH=str(tmp_path / "hide"),
    )
    assert done.returncode != 0  # for nothing was really installed
    if user == "0":
        assert re.search(r"installing it now: apt-get install -y python3-venv\n(.*\n)*installing\n", done.stderr)
        assert re.search(r"install python3-venv$", (tmp_path / "calls").read_text(), re.MULTILINE)
    else:
        assert done.stderr.endswith("sudo apt-get install -y python3-venv\n")
        assert not (tmp_path / "calls").exists()


def test_the_lock_holds_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    groups = project["dependency-groups"]
    included = [
        one
        for entry in groups["dev"]
        for one in ([entry] if isinstance(entry, str) else groups[entry["include-group"]])
    ]
    wanted = [*included, *(one for extra in extras for one in extra)]
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(locked.get(name, "0")), f"{requirement}: run 'make lock'"
        assert version(name) == locked[name]
