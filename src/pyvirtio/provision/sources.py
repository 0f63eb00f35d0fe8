"""Where this machine gets its packages from: apt's lists of sources, in both of their forms.

>>> [source] = parse_list("deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian bookworm main contrib")
>>> source.uris, source.suites, source.signed_by
(('http://mirror/debian',), ('bookworm',), '/k.gpg')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pyvirtio.errors import ProvisionError

OPTIONS_INSTEAD = "give --qemu PATH (QEMU 10.2 or newer) and --kernel PATH instead"
DISTRIBUTION_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Source:
    """One line of a ``.list`` file, or one stanza of a ``.sources`` file."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


@dataclass(frozen=True)
class Archives:
    """The distribution's archives: the main one and, where the machine uses it, the one with security updates."""

    main: Source
    security: Source | None = None


def parse_list(text: str) -> list[Source]:
    """Return the sources of binary packages in the one-line form (``deb [options] URI suite component…``)."""
    sources = []
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        match = re.fullmatch(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)", line)
        if not match:
            continue
        options = dict(option.partition("=")[::2] for option in (match[1] or "").split())
        signed_by = options.get("signed-by", "").replace(",", " ")
        sources.append(Source((match[2],), (match[3],), tuple(match[4].split()), signed_by))
    return sources


def parse_deb822(text: str) -> list[Source]:
    """Return the sources of binary packages in the form of stanzas (``Types:``, ``URIs:``, ``Suites:`` …)."""
    sources = []
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", kept):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip().lower() == "no":
            continue
        uris, suites, components = (tuple(fields.get(name, "").split()) for name in ("uris", "suites", "components"))
        sources.append(Source(uris, suites, components, fields.get("signed-by", "").strip("\n")))
    return sources


def machine_sources(etc: Path) -> list[Source]:
    """Return every source of this machine's apt, whose settings are in the folder `etc` (``/etc/apt``)."""
    found = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        parse = {".list": parse_list, ".sources": parse_deb822}.get(path.suffix)
        if parse and path.is_file():
            found += parse(path.read_text(errors="replace"))
    return found


def distribution_archives(sources: list[Source], codename: str) -> Archives:
    """Return the distribution's own archives among `sources`, which may include those of third parties.

    The main archive is the one that serves the release `codename` and, if any does, its updates.

    Raises:
        ProvisionError: none of them serves the release.
    """
    releases = (codename, "stable", "testing", "unstable", "sid")
    candidates = [source for source in sources if "main" in source.components and set(releases) & set(source.suites)]
    if not candidates:
        raise ProvisionError(
            f"apt's settings name no source of packages for Debian {codename}; add one, or {OPTIONS_INSTEAD}"
        )

    def priority(source: Source) -> tuple[bool, bool]:
        served = {suite for other in sources if set(other.uris) & set(source.uris) for suite in other.suites}
        return f"{codename}-updates" not in served, "debian-archive" not in source.signed_by

    main = min(candidates, key=priority)
    security = (source for source in sources if any(suite.endswith("-security") for suite in source.suites))
    return Archives(main, next(security, None))


def release_of_machine(os_release: Path = Path("/etc/os-release")) -> str:
    """Return the code name of the Debian release that runs here.

    Raises:
        ProvisionError: this is not Debian; the message names the options that work without it.
    """
    text = os_release.read_text() if os_release.is_file() else ""
    fields = {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in text.splitlines())}
    if fields.get("ID") != "debian":
        name = fields.get("PRETTY_NAME") or fields.get("ID") or "an unknown distribution"
        raise ProvisionError(f"QEMU and kernels are provisioned on Debian only, and this is {name}; {OPTIONS_INSTEAD}")
    return fields.get("VERSION_CODENAME") or "sid"


def _fields(stanza: str) -> dict[str, str]:
    """Return the fields of a stanza; a value keeps its continuation lines, which an embedded key consists of."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in " \t" and name:
            fields[name] += f"\n{line}"
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
