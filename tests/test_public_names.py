"""The names that ``pyvirtio`` offers: each is there, is documented, and is imported when it is first used."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import pyvirtio


def test_every_public_name_comes_from_one_room():
    offered = [name for names in pyvirtio._ROOMS.values() for name in names]
    assert sorted(offered) == sorted(pyvirtio.__all__)


@pytest.mark.parametrize("name", pyvirtio.__all__)
def test_a_public_name_is_documented_in_the_package_and_where_it_is_defined(name):
    assert name in re.findall(r"`(\w+)`", pyvirtio.__doc__ or "")
    assert getattr(pyvirtio, name).__doc__


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Divice"):
        pyvirtio.Divice  # noqa: B018  # the access is the test


def test_importing_the_package_imports_none_of_its_rooms():
    program = "import sys, pyvirtio; print([name for name in sys.modules if name.startswith('pyvirtio.')])"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"
