"""Where packages come from, read from apt's own settings in both of their forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.sources import (
    Source,
    distribution_archives,
    machine_sources,
    parse_deb822,
    parse_list,
    release_of_machine,
)

if TYPE_CHECKING:
    from pathlib import Path

STANZAS = """\
# what an installer wrote
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
# a comment inside
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://sources.example/
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/
Suites: bookworm
Components: main
"""

LINES = """\
# deb http://old.example/debian bookworm main
deb [ arch=amd64 signed-by=/a.gpg,/b.gpg ] http://mirror.example/debian bookworm main non-free # ours
deb http://mirror.example/debian bookworm-updates main
deb http://mirror.example/security bookworm-security main
deb-src http://mirror.example/debian bookworm main
deb cdrom:[Debian]/ bookworm
"""


def test_stanzas() -> None:
    main, security = parse_deb822(STANZAS)
    assert main.uris == ("http://mirror.example/debian",)
    assert main.suites == ("bookworm", "bookworm-updates")
    assert main.signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert security == Source(("http://mirror.example/security",), ("bookworm-security",), ("main",))


def test_a_key_inside_a_stanza_stays_whole() -> None:
    text = "Types: deb\nURIs: http://x/\nSuites: sid\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n -----END\n"
    [source] = parse_deb822(text)
    assert source.signed_by == " -----BEGIN\n .\n abc\n -----END"


def test_lines() -> None:
    first, *others = parse_list(LINES)
    expected = Source(("http://mirror.example/debian",), ("bookworm",), ("main", "non-free"), "/a.gpg /b.gpg")
    assert first == expected
    assert [source.suites for source in others[:2]] == [("bookworm-updates",), ("bookworm-security",)]


@pytest.mark.parametrize(("name", "text"), [("x.list", LINES), ("x.sources", STANZAS)])
def test_both_forms_lead_to_the_same_archives(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / name).write_text(text)
    (tmp_path / "sources.list.d/y.list.disabled").write_text("deb http://no.example/ bookworm main")
    archives = distribution_archives(machine_sources(tmp_path), "bookworm")
    assert archives.main.uris == ("http://mirror.example/debian",)
    assert archives.security is not None
    assert archives.security.uris == ("http://mirror.example/security",)


def test_a_foreign_archive_with_the_same_suite_is_not_taken_for_the_distributions() -> None:
    foreign = Source(("http://vendor.example/",), ("bookworm",), ("main",), "/vendor.gpg")
    archives = distribution_archives([foreign, *parse_list(LINES)], "bookworm")
    assert archives.main.uris == ("http://mirror.example/debian",)


def test_no_source_for_the_release() -> None:
    with pytest.raises(ProvisionError, match="--kernel PATH"):
        distribution_archives([Source(("http://x/",), ("nodistro",), ("main",))], "bookworm")


def test_another_distribution_is_told_which_options_to_give(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=fedora\nPRETTY_NAME="Fedora Linux 45"\n')
    with pytest.raises(ProvisionError, match=r"this is Fedora Linux 45; give --qemu PATH .* and --kernel PATH"):
        release_of_machine(release)
    with pytest.raises(ProvisionError, match="an unknown distribution"):
        release_of_machine(tmp_path / "missing")


def test_debian_is_known_by_its_code_name(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text("ID=debian\nVERSION_CODENAME=trixie\n")
    assert release_of_machine(release) == "trixie"
    release.write_text("ID=debian\n")
    assert release_of_machine(release) == "sid"
