"""A browser: Debian's Chromium, out of its packages, run without installing it and driven as a person drives it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, default_root, digest
from pyvirtio.provision.packages import Registry
from pyvirtio.vm.guest_packages import GUEST, prune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver.remote.webelement import WebElement

PATIENCE = 60.0  # seconds
PACKAGES = ("chromium", "chromium-driver", "fonts-dejavu-core")
# It starts itself again for each page, so it runs with this machine's C library, which may be newer than its own.
UNWANTED = ("libc6", "libc-bin", "adwaita-icon-theme", "libgl1-mesa-dri", "libllvm15", "libz3-4", "perl-modules-5.36")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-default-apps", "--no-default-browser-check", "--disable-breakpad", "--window-size=1280,900"),
)
FONTS = "<?xml version='1.0'?><fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>"


def chromium() -> Path:
    """Return the folder that its packages are in; skip the test where they cannot be had."""
    registry = Registry(Cache(default_root()))

    def make(folder: Path) -> None:
        registry.unpack(GUEST, PACKAGES, folder, dependencies=True, unwanted=UNWANTED.__contains__)
        prune(folder)

    try:
        return registry.cache.entry("browser", digest(GUEST.name, *PACKAGES, "", *UNWANTED), make)
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")


class Browser:
    """One window.

    Attributes:
        driver: what selenium has for it.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Open a page, and wait until it is loaded."""
        self.driver.get(address)

    def find(self, selector: str) -> WebElement:
        """Return the first element that a CSS selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return all elements that a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return the text of an element, as it is in the page."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.find(selector).click()

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, held: str, key: str) -> None:
        """Press a key while another is held."""
        ActionChains(self.driver).key_down(held).send_keys(key).key_up(held).perform()

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition holds, and return what it returned."""
        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.02).until(lambda _: condition())

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until an element's text contains ``text``."""
        try:
            self.wait(lambda: text in self.text(selector))
        except Exception as error:
            error.add_note(f"{selector} has {self.text(selector)!r}, and {text!r} was awaited")
            raise

    def resize(self, width: int, height: int) -> None:
        """Have the page be so many pixels wide and high, as on a telephone."""
        measures = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", measures)

    def prefer(self, **features: str) -> None:
        """Have the system prefer something, as ``prefers_color_scheme="dark"``."""
        wishes = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wishes})

    def accessible(self) -> list[dict[str, Any]]:
        """Return the nodes of the page as a screen reader has them: role, name, and what else there is."""
        nodes = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        return [
            {"role": node["role"]["value"], "name": node.get("name", {}).get("value", "")}
            | {entry["name"]: entry["value"].get("value") for entry in node.get("properties", ())}
            for node in nodes
            if not node["ignored"]
        ]

    def complaints(self) -> list[str]:
        """Return what the console has said since the last call: errors, refused scripts, refused addresses."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def picture(self, path: Path) -> None:
        """Save what is seen."""
        self.driver.save_screenshot(str(path))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser while the block runs; its profile is below the empty ``folder``."""
    root = chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = str(root / "usr/lib/chromium/chromium")
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="b-") as temporary:  # its sockets are there, whose paths must be short
        service = webdriver.ChromeService(str(root / "usr/bin/chromedriver"), env=_environment(root, folder, temporary))
        driver = webdriver.Chrome(options, service, keep_alive=False)
        try:
            driver.set_page_load_timeout(PATIENCE)
            yield Browser(driver)
        finally:
            driver.quit()


def _environment(root: Path, folder: Path, temporary: str) -> dict[str, str]:
    fonts = folder / "fonts.conf"
    fonts.write_text(FONTS.format(fonts=root / "usr/share/fonts", cache=folder / "fonts"))
    return {
        "PATH": os.environ.get("PATH", ""),
        "LD_LIBRARY_PATH": ":".join(str(path) for path in sorted(root.glob("**/lib/*-linux-gnu"))),
        "HOME": str(folder),
        "TMPDIR": temporary,
        "FONTCONFIG_FILE": str(fonts),
        "DBUS_SESSION_BUS_ADDRESS": "disabled:",
        "LANG": "C.UTF-8",
    }
