"""The site is built without a warning, its links lead somewhere, and every public name has its place in it."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from pyvirtio.devices import SHIPPED
from pyvirtio.driver import Driver
from tests.support.pages import ROOT, public_packages

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

pytestmark = pytest.mark.long

DOCS = ROOT / "docs"


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as `make site` does."""
    [recipe] = re.findall(r"\$\(bin\)/sphinx-build (.*) docs build/site", (ROOT / "Makefile").read_text())
    command = [sys.executable, "-m", "sphinx", *recipe.split(), "-d", out / "doctrees", docs, out / "html"]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site."""
    out = tmp_path_factory.mktemp("site")
    done = build(DOCS, out)
    assert (done.returncode, done.stderr) == (0, "")
    return out / "html"


WRONG = {
    "a page": "[x](none.md)",
    "a heading": "[x](index.md#none)",
    "a file": "[x](../none.py)",
    "a language": "```nothing\nx\n```",
    "a name": "{py:obj}`NoSuchName`",
}


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_what_is_not_there_is_an_error(tmp_path: Path, line: str):
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("conf.py", "_extensions", "_static"):
        (docs / name).symlink_to(DOCS / name)
    (tmp_path / "src").symlink_to(ROOT / "src")
    (docs / "index.md").write_text("# Title\n\n{py:obj}`Device`, [here](#title)\n")
    assert build(docs, tmp_path / "right").returncode == 0
    (docs / "index.md").write_text(f"# Title\n\n{line}\n")
    done = build(docs, tmp_path / "wrong")
    assert done.returncode == 1
    assert done.stderr.count("WARNING") == 1


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    """Return the full names of what the API's pages document."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    rows = [line.split() for line in zlib.decompress(inventory).decode().splitlines()]
    return {name for name, kind, priority, *_ in rows if kind.startswith("py:") and int(priority) >= 0}


def names_of(module: ModuleType) -> list[str]:
    """Return what a module lists in ``__all__``, or else defines without an underscore."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]


def drivers() -> list[str]:
    modules = [path.stem for path in sorted((ROOT / "src/pyvirtio/drivers").glob("[!_]*.py"))]
    return [
        f"pyvirtio.drivers.{module}.{name}"
        for module in modules
        for name, value in vars(import_module(f"pyvirtio.drivers.{module}")).items()
        if isinstance(value, type) and issubclass(value, Driver) and value.__module__ == f"pyvirtio.drivers.{module}"
    ]


def public() -> dict[str, object]:
    """Return what is public, by each of its full names."""
    modules = {package: import_module(package) for package in public_packages()}
    return {
        f"{package}.{name}": getattr(module, name) for package, module in modules.items() for name in names_of(module)
    }


def test_every_public_object_is_documented_under_one_of_its_names(documented: set[str]):
    shown = {id(value) for name, value in public().items() if name in documented}
    assert [name for name, value in public().items() if id(value) not in shown] == []


def test_what_ships_is_documented(documented: set[str]):
    wanted = [*(place.replace(":", ".") for place in SHIPPED.values()), *drivers()]
    assert [name for name in wanted if name not in documented] == []


def test_nothing_is_documented_that_is_not_public(documented: set[str]):
    allowed = {*public(), *public_packages()}
    ours = {name for name in documented if not name.startswith(("pyvirtio.devices.", "pyvirtio.drivers."))}
    members = {name for name in ours if any(name.startswith(f"{one}.") for one in public())}
    assert sorted(ours - allowed - members) == []


def test_the_table_of_fixtures_is_what_pytest_finds():
    plugin = (ROOT / "src/pyvirtio/testing/pytest_plugin.py").read_text()
    defined = re.findall(r"@pytest\.fixture.*\ndef (\w+)", plugin)
    listed = re.findall(r"^\| `(virtio_\w+)` \|", (DOCS / "reference/api/testing.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(defined)


def test_links_within_the_site_lead_somewhere(site: Path):
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    broken = []
    for page, text in pages.items():
        for link in re.findall(r'<a[^>]*\bhref="([^"]*)"', text):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and target in anchors and anchor not in anchors[target]):
                broken.append((page.relative_to(site), link))
    assert len(pages) > 20
    assert broken == []
