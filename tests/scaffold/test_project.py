"""What `pyvirtio new` makes works at once: each kind of project is made, run, tested, and checked as its user would.

Nothing is downloaded here; what boots guests is in test_in_guests.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pyvirtio.errors import UsageError
from pyvirtio.scaffold.kinds import DEFAULT, KINDS
from pyvirtio.scaffold.project import LONGEST_NAME, Page, check_name, create
from tests.support.commands import refused, run
from tests.support.environment import of_a_user

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "start-a-project.md"
LONGEST = "a_" + "b" * (LONGEST_NAME - 2)
NAMES = {DEFAULT: "thermometer"}
each_kind = pytest.mark.parametrize("like", KINDS, ids=lambda like: like or "own")


def new(folder: Path, like: str, name: str = "") -> Path:
    """Make a project as a user does, and return its folder."""
    chosen = name or NAMES.get(like, f"my_{like}")
    result = run("new", chosen, *(["--like", like] if like else []), cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder / chosen


def does(project: Path, *command: str, limit: float = 120) -> str:
    """Run a command in a project, with nothing of this project in its environment; return what it printed."""
    done = subprocess.run(
        command, cwd=project, env=of_a_user(), capture_output=True, text=True, check=False, timeout=limit
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(project: Path, *words: str, limit: float = 120) -> str:
    return does(project, sys.executable, "-m", *words, limit=limit)


def shown(project: Path, command: str) -> str:
    """Return what the README says that a command prints."""
    [found] = re.findall(rf"^    {command} +# (.*)$", (project / "README.md").read_text(), re.MULTILINE)
    return str(found)


@pytest.fixture(scope="module", params=KINDS, ids=lambda like: like or "own")
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of each kind, which these tests leave as it is."""
    return new(tmp_path_factory.mktemp("projects"), request.param)


def test_a_project_runs_and_is_in_good_style(project: Path) -> None:
    assert does(project, "make", "-s", "run") == f"{shown(project, 'make run')}\n"
    python(project, "ruff", "check", "--no-cache")
    python(project, "ruff", "format", "--check", "--no-cache")
    sources = [path for path in project.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert not [path for path in sources if "{{" in path.read_text()]


@pytest.mark.long
@each_kind
@pytest.mark.parametrize("name", ["x", "a_zoo", LONGEST])
def test_the_style_does_not_depend_on_the_name(like: str, name: str, tmp_path: Path) -> None:
    project = new(tmp_path, like, name)
    python(project, "ruff", "check", "--no-cache")
    python(project, "ruff", "format", "--check", "--no-cache")
    for path in project.rglob("linux/*.[ch]"):
        assert not [line for line in path.read_text().splitlines() if len(line.expandtabs(8)) > 100], path


def test_the_fast_tests_of_a_project_pass(tmp_path: Path) -> None:
    assert "passed" in does(new(tmp_path, DEFAULT), "make", "test")


@pytest.mark.long
@each_kind
def test_each_kind_passes_its_tests_and_the_type_check(
    like: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = new(tmp_path, like)
    printed = does(project, "make", "test")
    assert re.search(r"\d passed, 1 deselected", printed), printed
    types = tmp_path_factory.getbasetemp() / "types"
    assert "Success" in python(project, "mypy", "--cache-dir", str(types), limit=300)


def test_the_readme_names_what_there_is(project: Path) -> None:
    text = (project / "README.md").read_text()
    table = "\n".join(line for line in text.splitlines() if line.startswith("| `"))
    named = {
        name.rstrip("/")
        for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
        for name in re.findall("`(.*?)`", row)
    }
    files = [path.relative_to(project) for path in project.rglob("*") if path.is_file()]
    there = {str(path) for path in files if "__pycache__" not in path.parts}
    unnamed = {"README.md", "Makefile", "pyproject.toml", ".gitignore", "local.mk"}
    assert {name for name in there if not name.startswith("tests/")} == (named - {"tests"}) | unnamed
    targets = set(re.findall(r"^([\w./-]+):", (project / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z][\w./-]*)", text)) <= targets


def test_what_is_installed_is_what_the_project_declares(project: Path) -> None:
    declared = tomllib.loads((project / "pyproject.toml").read_text())
    assert declared["project"]["name"] == project.name
    modules = set(declared["tool"]["setuptools"]["py-modules"])
    assert modules == {path.stem for path in project.glob("*.py")} - {"demo"}


def test_make_writes_the_header_again_when_the_device_is_newer(tmp_path: Path) -> None:
    project = new(tmp_path, DEFAULT)
    source, header = project / "thermometer.py", project / "linux" / "thermometer.h"
    assert does(project, "make", "-s", "linux/thermometer.h") == ""
    before = header.read_text()
    source.write_text(source.read_text().replace("    value: int = le32()", "    number: int = le32()"))
    os.utime(header, (0, 0))
    does(project, "make", "-s", "linux/thermometer.h")
    assert header.read_text() == before.replace("__le32 value;", "__le32 number;") != before


def test_a_header_that_is_out_of_step_fails_a_test(tmp_path: Path) -> None:
    project = new(tmp_path, DEFAULT)
    source = project / "thermometer.py"
    source.write_text(source.read_text().replace("FAILED = 3", "FAILED = 4"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not guest"],
        cwd=project, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "make linux/thermometer.h writes it" in done.stdout
    assert "1 failed" in done.stdout


def test_what_to_do_next_is_said(tmp_path: Path) -> None:
    said = run("new", "thermometer", cwd=tmp_path).stdout.splitlines()
    assert [line.split("#")[0].strip() for line in said[1:]] == ["cd thermometer", "make run", "make guest"]


def test_the_page_about_projects_shows_what_is_printed(tmp_path: Path) -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"```console\n\$ pyvirtio (.*)\n((?:.*\n)*?)```", text)
    assert len(blocks) == 2
    for words, printed in blocks:
        result = run(*words.split(), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert printed in {"", result.stdout}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == KINDS.keys() - {DEFAULT}


# What is refused.


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("my-device", "my_device"),
        ("My Device", "my_device"),
        ("9p", "such as p"),
        ("größe", "gr_e"),
        ("../up", "up"),
        ("", "thermometer"),
        ("class", "my_class"),
        ("random", "my_random"),
        ("pyvirtio", "my_pyvirtio"),
        ("demo", "my_demo"),
        ("a" * (LONGEST_NAME + 1), str(LONGEST_NAME)),
    ],
)
def test_a_name_that_no_module_can_have(name: str, advice: str) -> None:
    with pytest.raises(UsageError, match=re.escape(advice)):
        check_name(name)


@pytest.mark.parametrize(("name", "like"), [("status", ""), ("block", "block"), ("device", "factorial")])
def test_a_class_that_the_project_has_already(name: str, like: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"my_{name}"):
        create(name, like, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thermometer").mkdir()
    (tmp_path / "thermometer" / "notes").write_text("mine")
    refused(run("new", "thermometer", cwd=tmp_path), 1, "thermometer", "another name")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["notes"]
    (tmp_path / "lamp").write_text("mine")
    refused(run("new", "lamp", cwd=tmp_path), 1, "lamp")
    (tmp_path / "empty").mkdir()
    assert (new(tmp_path, DEFAULT, "empty") / "empty.py").is_file()


def test_wrong_words_are_refused_in_one_line(tmp_path: Path) -> None:
    refused(run("new", "my-device", cwd=tmp_path), 2, "my_device")
    refused(run("new", "device", "--like", "toaster", cwd=tmp_path), 2, "toaster", "block", "vsock")
    assert list(tmp_path.iterdir()) == []


def test_a_template_without_its_word_is_an_error() -> None:
    with pytest.raises(KeyError):
        Page("{{nme}}").substitute(name="x")
    with pytest.raises(ValueError, match="Invalid placeholder"):
        Page("{{ name }}").substitute(name="x")
