"""The commands `vm` and `doctor`, as a user types them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.testing.served import served
from pyvirtio.vm.launch import OWN_DRIVER, GuestOptions, default_builder
from tests.support import disk, entropy
from tests.support.guests import TROUBLE

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]  # the first run downloads what it needs

COMMAND = [sys.executable, "-m", "pyvirtio"]


def run(*words):
    return subprocess.run([*COMMAND, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def provisioned():
    """Skip, with the reason, where nothing can be provisioned."""
    try:
        default_builder().prepare(GuestOptions(accel="tcg"))
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")


def test_vm_factorial_prints_what_the_guest_computes():
    done = run("vm", "factorial", "5", "34", "--accel", "tcg", "--console")
    assert done.stdout == "5! = 120\n34! = 295232799039604140847618609643520000000\n", done.stderr
    assert done.returncode == 0
    assert "pyvirtio-guest: exit 0" in done.stderr
    assert not any(sign in done.stderr for sign in TROUBLE)


def test_vm_run_is_the_command_its_output_and_its_status(tmp_path):
    """Options that make a guest, in one: devices of two kinds, a driver from source, a package, a module, a file."""
    shutil.copytree(OWN_DRIVER, tmp_path / "driver")
    (tmp_path / "a b").write_text("a file\n")
    everything = (
        "head -c 16 /dev/hwrng; ./tool; cat 'a b'; factorial 5; lsmod | grep -c '^virtio_balloon'; command -v mke2fs; "
        "printf 'no newline, and \\377\\000 as they are'; echo wrong >&2; exit 7"
    )
    (tmp_path / "tool").write_text("#!/bin/sh\necho a tool\n")
    (tmp_path / "tool").chmod(0o755)
    done = subprocess.run(
        [
            *(*COMMAND, "vm", "run", "--device", f"{entropy.__file__}:Entropy", "--device", "factorial"),
            *("--driver", "driver", "--module", "virtio_balloon", "--package", "e2fsprogs", "--file", "tool"),
            *("--file", f"{tmp_path}/a b:/root/a b", "--accel", "tcg", "--", everything),
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    expected = b"0123456789abcdefa tool\na file\n5! = 120\n1\n/sbin/mke2fs\nno newline, and \xff\0 as they are"
    assert (done.returncode, done.stdout) == (7, expected), done.stderr.decode()
    assert done.stderr.decode().splitlines()[-1] == "wrong"


def test_vm_run_in_user_mode_linux_passes_words_on_as_they_are():
    done = run(
        "vm", "run", "--arch", "um", "--device", f"{disk.__file__}:Disk", "--", "printf", "%s\n", "a  b", "$HOME"
    )
    assert (done.returncode, done.stdout) == (0, "a  b\n$HOME\n"), done.stderr


def test_what_print_prints_boots(tmp_path):
    done = run("vm", "run", "--device", "factorial", "--accel", "tcg", "--print", "--", "factorial", "5")
    assert done.returncode == 0, done.stderr
    hint = next(line for line in done.stdout.splitlines() if "pyvirtio serve" in line)
    word, path = re.findall(r"pyvirtio serve (\S+) --socket (\S+)", hint)[0]
    ours = str(tmp_path / "s")
    with served(word, path=ours):
        booted = subprocess.run(
            ["sh", "-c", done.stdout.replace(path, ours)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert "5! = 120" in booted.stdout, booted.stderr
    for monitor in ("cloud-hypervisor", "libvirt"):
        other = run("vm", "run", "--device", "factorial", "--accel", "tcg", "--print", "--for", monitor)
        assert (other.returncode, path in other.stdout) == (0, True), other.stderr
    assert ElementTree.fromstring(other.stdout).tag == "domain", "the hints would be no XML"


def test_the_qemu_that_guests_run_in_takes_any_arguments():
    assert run("qemu", "--version").stdout.startswith("QEMU emulator version")
    assert "virt-10.2" in run("qemu", "aarch64", "-M", "help").stdout


WRAPPED = {0: 1, 5: 120, 10: 3628800, 12: 479001600, 13: 1932053504, 20: 2192834560, 33: 2147483648, 34: 0}


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_vm_factorial_of_a_device_that_does_not_know_exact_values(arch):
    done = run("vm", "factorial", *map(str, WRAPPED), "--arch", arch, "--accel", "tcg", "--wrap32", "--json")
    answers = [{"n": n, "factorial": str(value), "mod32": True} for n, value in WRAPPED.items()]
    assert json.loads(done.stdout) == answers, done.stderr
    assert done.returncode == 0


def test_vm_factorial_says_what_the_guest_could_not_do():
    done = run("vm", "factorial", "4294967295", "--accel", "tcg", "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert "larger than what the device computes exactly" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "hint"),
    [
        (("vm", "factorial", "-1"), 2, "negative"),
        (("vm", "factorial"), 2, "N"),
        (("vm", "factorial", "5", "--arch", "sparc"), 2, "aarch64"),
        (("vm", "factorial", "5", "--transport", "mmio"), 1, "x86_64 with pci"),
        (("vm", "factorial", "5", "--qemu", "/missing/qemu"), 1, "/missing/qemu"),
        (("vm", "factorial", "5", "--kernel", "/missing/kernel"), 1, "/missing/kernel"),
        (("vm", "shell"), 1, "terminal"),
        (("vm", "run", "--device", "factorial"), 2, "-- COMMAND"),
        (("vm", "run", "--device", "nothing", "--", "true"), 2, "'nothing'"),
        (("vm", "run", "--file", "/missing/file", "--", "true"), 1, "/missing/file"),
        (("vm", "run", "--module", "virtio_blc", "--", "true"), 1, "virtio_blk"),
        (("vm", "run", "--arch", "um", "--device", "factorial", "--", "true"), 1, "driver"),
        (("vm", "run", "--for", "crosvm", "--", "true"), 2, "--print"),
        (("vm", "run", "--print", "--for", "crosvm", "--device", "factorial"), 1, "crosvm"),
    ],
)
def test_wrong_use_is_one_line_that_helps(words, status, hint):
    done = run(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("pyvirtio")]
    assert len(complaints) == 1, done.stderr


def test_doctor_finds_what_was_provisioned():
    done = run("doctor", "--json")
    states = {row["name"]: row["state"] for row in json.loads(done.stdout)}
    assert states["ring engine"] == states["package registry"] == states["QEMU for x86_64"] == "ok"
    assert run("doctor").stdout.splitlines()[0].startswith("ring engine")


def test_vm_shell_is_a_shell_with_the_device():
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [*COMMAND, "vm", "shell", "--device", "factorial", "--accel", "tcg"])
    try:
        seen = read_until(terminal, b"# ")
        os.write(terminal, b"factorial 6; poweroff -f\n")
        seen += read_until(terminal, b"6! = 720")
        while read_some(terminal):
            pass
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen
        pid = 0
    finally:
        os.close(terminal)
        if pid:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def read_until(terminal, text, limit=300):
    seen, end = b"", time.monotonic() + limit
    while text not in seen:
        piece = read_some(terminal)
        assert piece, f"the terminal closed after {seen.decode(errors='replace')[-2000:]}"
        seen += piece
        assert time.monotonic() < end
    return seen


def read_some(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # what a terminal gives once nobody holds its other side
        return b""
