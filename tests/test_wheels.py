"""What is published runs where its tags say: each wheel on a Python that it is for, and the sdist on any other."""

from __future__ import annotations

import hashlib
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from pyvirtio import __version__
from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, default_root
from pyvirtio.provision.packages import Registry
from tests.support import pythons
from tests.support.archives import extract
from tests.support.checkout import ROOT, copy_checkout
from tests.support.pythons import Python

TOOL = ROOT / "tools/build-wheels"
PURE = Path(sysconfig.get_path("purelib"))  # packaging and setuptools lie there, which run on any Python
LIBRARY = "pyvirtio/ring/_native.abi3.so"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),  # the first run compiles two Pythons
    pytest.mark.skipif(
        sysconfig.get_platform() != "linux-x86_64", reason="the other Pythons are made for x86-64 alone"
    ),
]

FACTORIAL = """
from pyvirtio import open_driver
from pyvirtio.devices.factorial import Factorial
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.ring.engine import engine

with open_driver(FactorialDriver, Factorial()) as driver:
    print(engine(), *driver.factorials([0, 5, 20, 25]))
"""
ANSWERS = ["1", "120", "2432902008176640000", "15511210043330985984000000"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build everything, once for all processes of a test run, and return the folder."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a checkout of git, which knows the files that belong to the project")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("there is no Python.h")

    def make(folder: Path) -> None:
        done = subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # each process of xdist has a folder in it
    return Cache(shared / "cache").entry("wheels", "built", make)


@pytest.fixture(scope="module")
def tool(built: Path) -> dict[str, Any]:
    """The functions of tools/build-wheels, which has installed its compiler by then."""
    return runpy.run_path(str(TOOL))


@pytest.fixture(scope="module")
def zig(tool: dict[str, Any]) -> tuple[str, ...]:
    """The command of the compiler that builds the wheels."""
    return (tool["tools"](), "-m", "ziglang")


@pytest.fixture(scope="module")
def registry() -> Registry:
    """Where other Pythons come from."""
    registry = Registry(Cache(default_root()))
    try:
        registry.check()
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")
    return registry


def wheel_for(python: Python, built: Path) -> Path | None:
    """Return the wheel that pip would take there: the one with the best of the tags that fit."""
    tags = python.run("-c", "from packaging.tags import sys_tags; print(*sys_tags())", path=(PURE,)).split()
    return min(
        (path for path in built.glob("*.whl") if tag_of(path) in tags),
        key=lambda path: tags.index(tag_of(path)),
        default=None,
    )


def tag_of(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        [tag] = Parser().parsestr(archive.read(name).decode()).get_all("Tag", [])
    return str(tag)


def unpacked(wheel: Path | None, folder: Path) -> Path:
    assert wheel is not None
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def check_that_it_computes(python: Python, site: Path, engine: str) -> None:
    assert python.run("-c", FACTORIAL, path=(site,), cwd=site).split() == [engine, *ANSWERS]
    in_processes = python.run("-m", "pyvirtio", "factorial", "5", path=(site,), cwd=site)
    assert in_processes == "5! = 120\n"


def test_pip_installs_the_wheel_of_this_machine_and_its_command_runs_the_native_engine(built: Path, tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    here = ("--no-index", "--find-links", str(built), "--only-binary", ":all:")
    Python((str(tmp_path / "venv/bin/python"),)).run("-m", "pip", "install", "--quiet", *here, "pyvirtio")
    command = str(tmp_path / "venv/bin/pyvirtio")
    assert Python((command,)).run("factorial", "5") == "5! = 120\n"
    # Its status says whether guests can run here, too.
    found = subprocess.run([command, "doctor"], capture_output=True, text=True, check=False).stdout
    assert re.search(r"^ring engine +ok +C$", found, re.MULTILINE)


def test_pip_installs_the_sdist_and_its_command_and_manual_page_are_there(built: Path, tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    [sdist] = built.glob("*.tar.gz")
    Python((str(tmp_path / "venv/bin/python"),)).run(
        *("-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation", str(sdist)), path=(PURE,)
    )
    assert Python((str(tmp_path / "venv/bin/pyvirtio"),)).run("factorial", "5") == "5! = 120\n"
    assert (tmp_path / "venv/share/man/man1/pyvirtio-factorial.1").is_file()


def test_one_wheel_serves_every_python_of_this_machine(built: Path, tmp_path: Path):
    found = filter(None, (shutil.which(f"python3.{minor}") for minor in range(11, 30)))
    works = [
        name for name in found if not subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode
    ]
    for command in {sys.executable, *works}:
        python = Python((command,))
        site = unpacked(wheel_for(python, built), tmp_path / Path(command).name)
        check_that_it_computes(python, site, "native")


def test_a_python_on_musl_takes_and_runs_its_wheel(
    built: Path, registry: Registry, zig: tuple[str, ...], tmp_path: Path
):
    python = pythons.musl(registry, zig)
    wheel = wheel_for(python, built)
    check_that_it_computes(python, unpacked(wheel, tmp_path), "native")
    assert wheel is not None
    assert tag_of(wheel) == "cp311-abi3-musllinux_1_2_x86_64"


def test_a_python_on_aarch64_takes_and_runs_its_wheel(built: Path, registry: Registry, tmp_path: Path):
    python = pythons.aarch64(registry)
    wheel = wheel_for(python, built)
    check_that_it_computes(python, unpacked(wheel, tmp_path), "native")
    assert wheel is not None
    assert tag_of(wheel) == "cp311-abi3-manylinux_2_17_aarch64"


def test_the_wheel_for_musl_on_aarch64_asks_musl_for_nothing_that_it_lacks_and_runs(
    built: Path, registry: Registry, tmp_path: Path
):
    """There is no such Python: musl's loader resolves the library, and the Python of another C library runs it."""
    [wheel] = built.glob("*musllinux*aarch64.whl")
    site = unpacked(wheel, tmp_path / "site")
    program: list[str | Path] = [pythons.emulator(registry), pythons.musl_loader(registry, "arm64"), "--list"]
    listed = subprocess.run([*program, site / LIBRARY], capture_output=True, text=True, check=False)
    missing = re.findall(r"(\w+): symbol not found", listed.stderr)
    assert len(missing) == len(listed.stderr.splitlines()) > 50
    assert [name for name in missing if not name.startswith(("Py", "_Py"))] == []

    python = pythons.aarch64(registry)
    root = Path(python.command[2])
    (tmp_path / "libc.so").symlink_to(root / "lib/aarch64-linux-gnu/libc.so.6")
    printed = python.run("-c", FACTORIAL, path=(site,), LD_LIBRARY_PATH=str(tmp_path))
    assert printed.split() == ["native", *ANSWERS]


def test_a_free_threaded_python_installs_from_source_and_runs_the_python_engine(
    built: Path, registry: Registry, zig: tuple[str, ...], tmp_path: Path
):
    python, site = pythons.free_threaded(registry, zig), tmp_path / "site"
    assert wheel_for(python, built) is None
    source = extract(next(built.glob("*.tar.gz")), tmp_path / "source")
    python.run("setup.py", "--quiet", "build", "--build-lib", str(site), path=(PURE,), cwd=source)
    assert list(site.rglob("*.so")) == []
    check_that_it_computes(python, site, "reference")

    # In a checkout there may be a library that another Python has built.
    with zipfile.ZipFile(next(built.glob("*manylinux*x86_64.whl"))) as archive:
        archive.extract(LIBRARY, site)
    check_that_it_computes(python, site, "reference")


def test_no_wheel_is_published_that_does_not_fit_its_tag(built: Path, tool: dict[str, Any], tmp_path: Path):
    [wheel] = built.glob("*manylinux*x86_64.whl")
    tool["check"](tool["tools"](), wheel, "manylinux_2_17_x86_64")
    with pytest.raises(SystemExit, match="does not fit"):
        tool["check"](tool["tools"](), wheel, "manylinux_2_5_x86_64")

    without = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(without, "w") as copy:
        for name in archive.namelist():
            if name != LIBRARY:
                copy.writestr(name, archive.read(name))
    with pytest.raises(SystemExit, match="auditwheel"):
        tool["check"](tool["tools"](), without, "manylinux_2_17_x86_64")


def test_no_wheel_names_a_file_of_the_machine_that_built_it(built: Path):
    for wheel in built.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            library = archive.read(LIBRARY)
        assert not re.findall(rb"/(?:home|root|tmp|usr|build)/[\w/.-]+", library), wheel.name


@pytest.fixture
def checkout(built: Path, tmp_path: Path) -> Path:
    """A repository with the files of this one, and with the tools that ``built`` has installed."""
    copy = copy_checkout(tmp_path / "checkout")
    (copy / ".cache").mkdir()
    (copy / ".cache/wheels").symlink_to(ROOT / ".cache/wheels")
    git(copy, "init", "--quiet")
    commit(copy)
    return copy


def git(checkout: Path, *words: str) -> None:
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", checkout, *who, *words], check=True, capture_output=True)


def commit(checkout: Path) -> None:
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "As it is")


def date_changelog(checkout: Path, version: str) -> None:
    """Give the changelog's top that version, and commit it."""
    path = checkout / "CHANGELOG.md"
    path.write_text(re.sub(r"(?m)^## .*$", f"## [{version}] - 2026-01-31", path.read_text(), count=1))
    commit(checkout)


def release(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, checkout / "tools/release"], capture_output=True, text=True, check=False)


def test_a_release_is_built_twice_and_the_sums_are_those_of_the_files(checkout: Path):
    date_changelog(checkout, __version__)
    done = release(checkout)
    assert done.returncode == 0, done.stderr
    files = list((checkout / "dist").iterdir())
    sums = {f"{hashlib.sha256(path.read_bytes()).hexdigest()}  dist/{path.name}" for path in files}
    assert set(done.stdout.splitlines()) == sums
    assert len(files) == 5
    assert f"git tag -s v{__version__}" in done.stderr


def test_what_is_not_committed_is_not_released(checkout: Path):
    (checkout / "src/pyvirtio/new.py").touch()
    done = release(checkout)
    assert (done.returncode, done.stdout) == (1, "")
    assert "src/pyvirtio/new.py" in done.stderr


def test_a_version_that_the_changelog_does_not_have_is_not_released(checkout: Path):
    date_changelog(checkout, "0.0.9")
    done = release(checkout)
    assert (done.returncode, done.stdout) == (1, "")
    assert "[0.0.9]" in done.stderr
    assert __version__ in done.stderr
    assert not (checkout / "dist").exists()
