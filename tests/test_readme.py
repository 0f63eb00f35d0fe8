"""What the README shows runs: its Python as programs, its commands as they stand, its QEMU with a guest."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.testing.served import served
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.launch import OWN_DRIVER, GuestOptions, LaunchConfig, default_builder
from tests.support import pages
from tests.support.pages import moved, printed_by, run_python

README = Path(__file__).parents[1] / "README.md"
PACKAGE = Path(__file__).parents[1] / "src" / "pyvirtio"
SOCKET = "/tmp/double.sock"
TEXT = README.read_text()


def blocks(language: str) -> list[str]:
    """Return the README's blocks of a language."""
    return [block.text for block in pages.blocks(TEXT, language)]


DEVICE, *PROGRAMS = blocks("python")
IN_GUESTS = [program for program in PROGRAMS if "pyvirtio.vm" in program]
SERVE, RUN, QEMU = blocks("sh")
ANSWER = "21! mod 2**32 = 42"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the README's device, saved as it says."""
    (tmp_path / "double.py").write_text(DEVICE)
    return tmp_path


def run(command: list[str], folder: Path, limit: float = 60.0) -> str:
    done = subprocess.run(
        command, check=False, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def name_of(program: str) -> str:
    return str(re.findall(r"class (\w+)", program)[0])


@pytest.mark.parametrize("program", [one for one in PROGRAMS if one not in IN_GUESTS], ids=name_of)
def test_a_program_of_the_readme_prints_what_it_says(program, folder):
    expected = printed_by(program)
    assert expected
    assert run_python(moved(program, folder), folder) == expected


def serving_as_the_readme_does(folder: Path):
    command, verb, device, option, path, *others = shlex.split(SERVE)
    assert (command, verb, option, path) == ("pyvirtio", "serve", "--socket", SOCKET)
    file, class_name = device.split(":")
    return served(f"{folder / file}:{class_name}", *others, path=str(folder / "double.sock"))


def test_the_driver_of_the_readme_drives_the_device_that_it_serves(folder):
    driver = next(program for program in PROGRAMS if "Double())" in program)
    with serving_as_the_readme_does(folder):
        over_socket = driver.replace("Double())", f'"vhost-user:{SOCKET}")')
        assert run_python(moved(over_socket, folder), folder) == printed_by(driver)


def with_the_command_in_it(config: LaunchConfig, folder: Path) -> None:
    """Write the kernel and an initramfs that runs the README's command."""
    command = Initramfs()
    command.file("command", b"factorial --wrap32 21\n")
    (folder / "initrd").write_bytes(config.initramfs.read_bytes() + command.to_bytes())
    (folder / "vmlinuz").symlink_to(config.kernel)


@pytest.mark.guest
@pytest.mark.timeout(900)  # the first run downloads some 250 MB
def test_the_guests_of_the_readme_answer(folder):
    try:
        config = default_builder().prepare(GuestOptions(accel="tcg", drivers=[OWN_DRIVER]))
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")
    assert isinstance(config, LaunchConfig)
    assert f"prints `{ANSWER}`" in TEXT

    program, *words = shlex.split(RUN)
    assert program == "pyvirtio"
    assert run([sys.executable, "-m", "pyvirtio", *words], folder, limit=300) == f"{ANSWER}\n"

    [in_python] = IN_GUESTS
    assert printed_by(in_python)[0] == ANSWER
    assert run_python(in_python, folder, limit=300) == printed_by(in_python)

    with_the_command_in_it(config, folder)
    program, *arguments = shlex.split(moved(QEMU.replace("\\\n", " "), folder))
    assert program == "qemu-system-x86_64"
    with serving_as_the_readme_does(folder):
        assert ANSWER in run([*config.qemu.prefix, *arguments], folder, limit=300)


def test_links_of_the_pages_lead_somewhere():
    pages = [README, *README.parent.glob("*.md"), *(README.parent / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert len(links) > 20
    assert not [(page.name, link) for page, link in links if not (page.parent / link).exists()]


def test_the_table_of_commands_shows_options_that_exist():
    rows = re.findall(r"^\| `pyvirtio ([a-z ]+?)(?: [A-Z][^`]*)?` \| (.*) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 14
    for command, what in rows:
        options = re.findall(r"`(--[a-z0-9-]+)", what)
        if not options:
            continue
        usage = run([sys.executable, "-m", "pyvirtio", *command.split(), "--help"], README.parent)
        assert not [option for option in options if option not in usage], command


# The picture of the rooms.


def rooms() -> set[str]:
    return {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} | {"guest"}


def imports_of(room: str) -> set[str]:
    nodes = [node for file in (PACKAGE / room).rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {module.split(".")[1] for module in modules if module.startswith("pyvirtio.")} - {room}


def test_the_picture_shows_every_room():
    drawn = set(re.findall(r"\b(\w+)\[\"", blocks("mermaid")[0]))
    assert drawn == rooms()


def test_each_arrow_of_the_picture_is_an_import_and_each_import_lies_along_arrows():
    lines = [re.sub(r'\[".*?"\]', "", line) for line in blocks("mermaid")[0].splitlines()]
    arrows = {tuple(line.replace(" ", "").split("-->")) for line in lines if "-->" in line}
    below = {room: {target for source, target in arrows if source == room} for room in rooms()}
    assert not [(source, target) for source, target in arrows if target not in imports_of(source)]

    def reachable(room: str) -> set[str]:
        return below[room].union(*map(reachable, below[room]))

    hidden = {room: (imports_of(room) & rooms()) - reachable(room) for room in rooms()}
    assert not {room: missing for room, missing in hidden.items() if missing}
