"""The header of a device says in C what its structures say in Python, or why it cannot."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Queue, Struct, array, be16, be32, be64, chars, le16, le32, le64, nested, raw, u8
from pyvirtio.devices.factorial import Config, ExactResponse, Request, Response
from pyvirtio.scaffold import c_header
from pyvirtio.scaffold.c_types import declaration, needs_packing
from pyvirtio.spec.layout import fields_of
from pyvirtio.vm.launch import OWN_DRIVER
from tests.support.commands import refused, run
from tests.support.devices import sensors

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.support.uapi import Uapi

OWN_HEADER = OWN_DRIVER / "virtio_test.h"


class Reading(Struct):
    value: int = le32()
    units: tuple[int, ...] = array(u8(kind=sensors.Unit), 4)


class Station(Device):
    """Uses what another file declares."""

    requests = Queue(Reading, sensors.Range)

    @requests.each
    def answer(self, reading: Reading) -> sensors.Range:
        return sensors.Range()


def body(device: Device) -> str:
    """Return a header from its first macro on, with single blanks for tabs."""
    text = c_header(device)
    assert text.startswith("/* SPDX-License-Identifier: GPL-2.0 OR MIT */\n")
    assert not [line for line in text.splitlines() if len(line.expandtabs(8)) > 100 or line != line.rstrip()]
    return re.sub(r"\t+", " ", text.partition("#include <linux/types.h>\n")[2])


def test_a_header_has_everything_that_a_device_declares() -> None:
    text = body(sensors.Sensors())
    for expected in (
        "#define VIRTIO_ID_SENSORS 38\n",
        "/* What driver and device agree on */\n#define VIRTIO_SENSORS_F_CALIBRATION 0\n",
        "#define VIRTIO_SENSORS_F_HISTORY 50\n",
        "#define VIRTIO_SENSORS_VQ_REQUESTS 0\n#define VIRTIO_SENSORS_VQ_EVENTS 2\n",
        "#define VIRTIO_SENSORS_UNIT_KELVIN 0\n#define VIRTIO_SENSORS_UNIT_PASCAL 2147483648U\n",
        "#define VIRTIO_SENSORS_FLAGS_VALID 0x1\n#define VIRTIO_SENSORS_FLAGS_FRESH 0x800000000ULL\n",
        "/* From where to where */\nstruct virtio_sensors_range {\n __le16 low;\n __le64 high;\n} __packed;\n",
        " __le32 interval_ms; /* a driver may write it */\n",
        " __u8 unused[3];\n __le32 unit; /* VIRTIO_SENSORS_UNIT_* */\n struct virtio_sensors_range ranges[2];\n",
        " __be16 grid[2][4];\n __u8 keys[2][6];\n char name[16];\n /* VIRTIO_SENSORS_FLAGS_* */\n __le64 kinds_of",
        "struct virtio_sensors_answer {\n __be64 stamp;\n __le64 flags; /* VIRTIO_SENSORS_FLAGS_* */\n};\n",
        "static_assert(sizeof(struct virtio_sensors_answer) == 16);\n",
    ):
        assert expected in text, expected
    assert "the * / unit" in text
    assert "This is not in the header" not in text
    assert text.count("static_assert") == 4


def test_a_device_has_what_its_file_declares_and_uses_each_before_it_is_used() -> None:
    text = body(Station())
    names = re.findall(r"^struct (\w+) {", text, re.MULTILINE)
    assert names[0] == "virtio_station_reading"
    assert names[-1] == "virtio_station_range"
    assert text.index("STATION_UNIT_KELVIN") < text.index("struct")
    assert " __u8 units[4]; /* VIRTIO_STATION_UNIT_* */\n" in text


def test_the_same_device_has_the_same_header() -> None:
    assert c_header(sensors.Sensors()) == c_header(sensors.Sensors())


DEVICE = """
from enum import IntEnum, IntFlag

from pyvirtio import Device, Queue, Struct, le32, nested, u8

class Named(IntFlag):
    ONE = 1

class Kind(IntEnum):
    FIRST = 1

class Number(Struct):
    value: int = le32()

class Double(Device):
    requests = Queue(Number, Number)

    @requests.each
    def double(self, number):
        return number
"""


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("value:", "switch:", "'switch'"),
        ("value:", "linux:", "'linux'"),
        ("value:", "int_:", "'int'"),
        ("value:", "größe:", "größe"),
        ("value:", "x: int = u8()\n    x_:", "x and x_"),
        ("FIRST = 1", "BELOW = -1", "Kind.BELOW"),
        ("FIRST = 1", "FIRST = 1\n    first = 2", "both be VIRTIO_DOUBLE_KIND_FIRST"),
        ("class Kind(IntEnum)", "class DoubleNumber(Struct):\n    x: int = u8()\nclass Kind(IntEnum)", "both be"),
        ("requests =", "features = 1\n    requests =", "0x1"),
        ("requests =", "features = Named.ONE | 6\n    requests =", "0x6"),
        ("value: int = le32()", "value: int = le32()\n    def pack(self, order='little'): ...", "packs itself"),
        ("class Double(", "class Größe(", "Größe"),
    ],
)
def test_what_c_has_no_name_for_is_refused(tmp_path: Path, before: str, after: str, why: str) -> None:
    text = DEVICE.replace(before, after)
    assert text != DEVICE
    (tmp_path / "double.py").write_text(text)
    name = "Größe" if "Größe" in after else "Double"
    refused(run("header", f"double.py:{name}", cwd=tmp_path), 1, why)


def test_an_enumeration_without_members_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "double.py").write_text(DEVICE.replace("    FIRST = 1", "    pass"))
    printed = run("header", "double.py:Double", cwd=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert "KIND" not in printed.stdout


def test_the_command_prints_it_or_writes_it(tmp_path: Path) -> None:
    (tmp_path / "double.py").write_text(DEVICE)
    printed = run("header", "double.py:Double", cwd=tmp_path)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "`pyvirtio header double.py:Double`" in printed.stdout
    assert "struct virtio_double_number {" in printed.stdout
    written = run("header", str(tmp_path / "double.py:Double"), "--output", "double.h", cwd=tmp_path)
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert (tmp_path / "double.h").read_text() == printed.stdout


def test_what_cannot_be_made_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "double.py").write_text(DEVICE.replace("value", "switch"))
    (tmp_path / "double.h").write_text("before")
    refused(run("header", "double.py:Double", "--output", "double.h", cwd=tmp_path), 1, "switch", "rename")
    assert (tmp_path / "double.h").read_text() == "before"
    (tmp_path / "double.py").write_text(DEVICE)
    refused(run("header", "double.py:Double", "--output", "no/double.h", cwd=tmp_path), 1, "no/double.h", "--output")
    refused(run("header", "double.py:Single", cwd=tmp_path), 2, "Double")


# What a compiler says.

FOR_PROGRAMS = "#define static_assert _Static_assert\n#define __packed __attribute__((packed))\n"


@pytest.mark.guest
def test_a_compiler_lays_the_structures_out_as_they_are(uapi: Uapi, tmp_path: Path) -> None:
    text = c_header(sensors.Sensors()).replace("#include <linux/build_bug.h>\n", FOR_PROGRAMS)
    assert FOR_PROGRAMS in text
    (tmp_path / "sensors.h").write_text(text)
    structures: tuple[type[Struct], ...] = (sensors.Range, sensors.Config, sensors.Request, sensors.Answer)
    names = {structure: f"virtio_sensors_{structure.__name__.lower()}" for structure in structures}
    flags = {"VIRTIO_SENSORS_F_": sensors.Feature}
    numbers = {"VIRTIO_SENSORS_UNIT_": sensors.Unit, "VIRTIO_SENSORS_FLAGS_": sensors.Flags}
    header = str(tmp_path / "sensors.h")
    assert uapi.differences(header, structs=names, bits=flags, numbers=numbers) == []


NUMBERS = (u8, le16, le32, le64, be16, be32, be64)


def random_structure(rng: random.Random, name: str, parts: list[type[Struct]]) -> type[Struct]:
    """Return a structure with one to five fields of any kind, some of them from ``parts``."""
    fields = {}
    for number in range(rng.randint(1, 5)):
        choices = [rng.choice(NUMBERS)(), chars(rng.randint(1, 9)), raw(rng.randint(1, 9))]
        if parts:
            choices.append(nested(rng.choice(parts)))
        field = rng.choice(choices)
        fields[f"f{number}"] = array(field, rng.randint(1, 3)) if rng.random() < 0.3 else field
    return type(name, (Struct,), fields)


@pytest.mark.guest
def test_a_compiler_finds_random_structures_as_they_are(uapi: Uapi, tmp_path: Path, rng: random.Random) -> None:
    structures: list[type[Struct]] = []
    for number in range(100):
        structures.append(random_structure(rng, f"S{number}", structures))

    class Everything(Device):
        requests = Queue(type("All", (Struct,), {f"m{n}": nested(one) for n, one in enumerate(structures)}), Reading)

        @requests.each
        def answer(self, _request: Struct) -> Reading:
            return Reading()

    text = c_header(Everything()).replace("#include <linux/build_bug.h>\n", FOR_PROGRAMS)
    (tmp_path / "random.h").write_text(text)
    names = {structure: f"virtio_everything_s{number}" for number, structure in enumerate(structures)}
    assert uapi.differences(str(tmp_path / "random.h"), structs=names) == []
    assert 0 < text.count("} __packed;") < len(structures)


# The header of the driver that comes with pyvirtio was written by hand.


@pytest.mark.parametrize(
    ("structure", "name"),
    [(Config, "config"), (Request, "request"), (Response, "response"), (ExactResponse, "exact")],
)
def test_the_header_of_the_own_driver_declares_what_the_generator_would(structure: type[Struct], name: str) -> None:
    found = re.search(rf"^struct virtio_test_{name} {{\n(.*?)^}};", OWN_HEADER.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    # A legacy driver's numbers are in the guest's order, which is little-endian here; the value behind has no size.
    declared = re.findall(r"^\t(\w+ \w+(?:\[\d+\])?);", found[1].replace("__virtio", "__le"), re.MULTILINE)
    expected = []
    for field_name, field in fields_of(structure).items():
        before, behind = declaration(field, str)
        expected.append(f"{before} {field_name}{behind}")
    assert declared == expected
    assert not needs_packing(structure)
