"""A real browser for the page's tests: Debian's Chromium, without a display."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

OpenPage = Callable[[Path], Any]


def find_chromium() -> tuple[str, str]:
    """(chromium, chromedriver); skips with a reason where they are not."""
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'ecgscale[test]'")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    return browser, driver


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that keeps the console and saves downloads in the folder `chromium.downloads`."""
    browser, driver_path = find_chromium()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "headless=new",
        "disable-gpu",
        "disable-dev-shm-usage",
        "force-prefers-reduced-motion",
        "window-size=1400,1000",
    ):
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to sandbox for root.
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    driver.downloads = folder
    yield driver
    driver.quit()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[OpenPage]:
    """Opens a page; when the test is over, nothing may stand on the console."""

    def opened(path: Path) -> Any:
        chromium.get(path.resolve().as_uri())
        return chromium

    chromium.get("about:blank")
    chromium.get_log("browser")
    yield opened
    chromium.execute_script("window.onbeforeunload = null")
    console = chromium.get_log("browser")
    assert not console, console
