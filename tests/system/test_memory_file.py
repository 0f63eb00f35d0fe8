"""Memory files, which a Python that was built for an old C library has to make too."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.factorial import Factorial
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.system import memory_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["new", "old"])
def python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python as it was built for a C library that has memfd_create, or has not."""
    if request.param == "old":
        for name in [name for name in dir(os) if name.startswith(("memfd_", "MFD_"))]:
            monkeypatch.delattr(os, name)
    return str(request.param)


@pytest.mark.usefixtures("python")
def test_its_size_can_be_sealed():
    fd = memory_file.create("example")
    try:
        os.ftruncate(fd, 4096)
        assert not os.get_inheritable(fd)
        assert not memory_file.is_size_sealed(fd)
        memory_file.seal_size(fd)
        assert memory_file.is_size_sealed(fd)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@pytest.mark.usefixtures("python")
def test_proc_shows_its_name():
    fd = memory_file.create("example")
    try:
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:example")
    finally:
        os.close(fd)


@pytest.mark.usefixtures("python")
def test_without_descriptors_it_says_why():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory_file.is_size_sealed(0)  # what is imported at first use is imported
    os.close(memory_file.create("first"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match=r"Errno") as caught:
            memory_file.create("example")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_no_other_file_counts_as_sealed(tmp_path: Path):
    with open(tmp_path / "file", "wb") as file:
        assert not memory_file.is_size_sealed(file.fileno())


@pytest.mark.usefixtures("python")
def test_a_driver_and_its_device_meet_on_either_python():

    with open_driver(FactorialDriver, Factorial()) as driver:
        assert driver.factorial(5) == 120
