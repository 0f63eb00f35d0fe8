"""Compares structures and numbers with Linux's own: what a C compiler says of the newest uapi headers to be had.

The test of a device says which of its structures is which of Linux's, and everything else follows::

    def test_it_speaks_as_linux_does(uapi: Uapi) -> None:
        assert uapi.differences(
            "linux/virtio_net.h",
            structs={Config: "virtio_net_config"},
            bits={"VIRTIO_NET_F_": Feature},
            numbers={"VIRTIO_NET_OK": OK, "VIRTIO_NET_CTRL_": Command},
        ) == []
"""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, default_root, digest
from pyvirtio.provision.packages import Registry
from pyvirtio.vm.guest_packages import EMULATOR, TOOLCHAINS, GuestPackages, prune
from pyvirtio.vm.module_build import tool_environment

if TYPE_CHECKING:
    import enum
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from pyvirtio.spec.struct import Struct

    Numbers = Mapping[str, int | type[enum.Enum]]

GCC = min(TOOLCHAINS)
HEADERS = "linux-libc-dev"


@dataclass(frozen=True)
class Uapi:
    """Linux's headers for programs, and a compiler that reads them."""

    headers: Path
    tools: Path

    @classmethod
    def provisioned(cls, registry: Registry) -> Uapi:
        """Return those of the distribution's newest kernel; raises ProvisionError where they cannot be had."""

        def make(folder: Path) -> None:
            registry.unpack(EMULATOR, [HEADERS], folder)
            prune(folder)

        packages = GuestPackages(registry)
        root = registry.cache.entry("uapi", digest(EMULATOR.name, HEADERS), make)
        return cls(root / "usr/include", packages.toolchain(platform.machine(), GCC))

    def differences(
        self,
        header: str,
        *,
        structs: Mapping[type[Struct], str] | None = None,
        bits: Numbers | None = None,
        numbers: Numbers | None = None,
        newer: Collection[str] = (),
        renamed: Mapping[str, str] | None = None,
        beginnings: Collection[type[Struct]] = (),
    ) -> list[str]:
        """Return a line for everything in which ours is not what ``header`` says.

        Args:
            header: as C includes it.
            structs: our structures, and the name of each in C. Field by field, offsets and sizes have to be equal, and
                so has the size of the whole. A field whose name Python reserves ends in an underscore here.
            bits: flags, by the name of the constant that holds the *number* of their bit.
            numbers: numbers, by the name of the constant. In both, an enumeration stands for its members, and its key
                for the beginning of their names.
            newer: fields and constants that the headers do not know yet, by their names in C.
            renamed: what C calls fields that VIRTIO's text, and so ours, calls otherwise.
            beginnings: those of our structures that are the beginning of Linux's only.
        """
        expected: dict[str, int] = {}
        for ours, theirs in (structs or {}).items():
            expected |= _of_structure(ours, theirs, newer, renamed or {})
            if ours in beginnings:
                del expected[f"sizeof(struct {theirs})"]
        expected |= {f"1ull << {name}": value for name, value in _single(bits or {}) if name not in newer}
        expected |= {name: value for name, value in _single(numbers or {}) if name not in newer}
        found = self.evaluate(header, list(expected))
        return [
            f"{expression} is {actual} for Linux, {value} here"
            for (expression, value), actual in zip(expected.items(), found, strict=True)
            if value != actual
        ]

    def evaluate(self, header: str, expressions: list[str]) -> list[int]:
        """Return the values of constant expressions of C, behind ``header``; the assembler's source holds them.

        Raises:
            ValueError: the compiler does not know something.
        """
        own = next(self.tools.glob("usr/lib/gcc/*/*/include"))  # stdint.h, which some headers include
        architecture = next(self.headers.glob(f"{platform.machine()}-linux-gnu"), self.headers)
        source = f"#include <{header}>\nunsigned long long values[] = {{ {', '.join(expressions)} }};\n"
        done = subprocess.run(
            [
                *(
                    str(self.tools / "usr/bin" / f"gcc-{GCC}"),
                    "-S",
                    "-xc",
                    "-",
                    "-o",
                    "-",
                    "-ffreestanding",
                    "-nostdinc",
                ),
                *("-fno-zero-initialized-in-bss", f"-I{self.headers}", f"-I{architecture}", f"-I{own}"),
            ],
            input=source,
            env=tool_environment(self.tools),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(done.stderr)
        values: list[int] = []
        for directive, number in re.findall(r"^\s*\.(quad|xword|zero)\s+(\d+)", done.stdout, re.MULTILINE):
            values += [0] * (int(number) // 8) if directive == "zero" else [int(number)]
        return values


def _of_structure(
    ours: type[Struct], theirs: str, newer: Collection[str], renamed: Mapping[str, str]
) -> dict[str, int]:
    """Return what C has to say of a structure: expressions, and the values that they have here."""
    expected = {f"sizeof(struct {theirs})": ours.nbytes}
    for name in ours().as_dict():
        if (c_name := renamed.get(name, name.rstrip("_"))) in newer:
            expected[f"sizeof(struct {theirs})"] -= ours.size_of(name)
            continue
        expected[f"__builtin_offsetof(struct {theirs}, {c_name})"] = ours.offset_of(name)
        expected[f"sizeof(((struct {theirs} *)0)->{c_name})"] = ours.size_of(name)
    return expected


def _single(numbers: Numbers) -> Iterator[tuple[str, int]]:
    """Yield each constant's name and value."""
    for name, value in numbers.items():
        if isinstance(value, int):
            yield name, int(value)
            continue
        for member_name, member in value.__members__.items():
            yield f"{name}{member_name}", int(member.value)


@pytest.fixture(scope="session")
def uapi() -> Uapi:
    """Return Linux's headers; a test that asks for them is marked ``guest``, for they come with what guests need."""
    try:
        return Uapi.provisioned(Registry(Cache(default_root())))
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")
