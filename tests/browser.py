"""A real browser without a window, for tests of pages; they are skipped where there is none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

Found = TypeVar("Found")
SOON = 30.0


@contextmanager
def chromium(downloads: str | None = None) -> Iterator[Any]:
    """Chromium, driven by selenium. downloads: where files go that a page offers."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1600"):
        options.add_argument(argument)
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": downloads})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


def soon(find: Callable[[], Found], seconds: float = SOON) -> Found:
    """What is found as soon as there is something, that is not false; fails after a while."""
    ends = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < ends, "it did not appear"
        time.sleep(0.05)
    return found
