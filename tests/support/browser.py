"""A headless Chromium, where there is one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

in_a_browser = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="no Chromium with its driver here")


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Open a headless browser."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,900"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def complaints(driver: webdriver.Chrome) -> list[Any]:
    """Return what the browser's console holds, apart from refused requests: blocked scripts, exceptions."""
    logged: list[Any] = driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium's own
    return [each for each in logged if each["source"] != "network"]


def be_a_phone(driver: webdriver.Chrome) -> None:
    """Be 360 px wide, and prefer dark colours."""
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
