"""The pictures of docs/service.md, taken anew.

    python tests/web/screenshots.py FILE [MODEL]

FILE is a CSV with texts, times and topics; MODEL a Buzzometer other than the package's.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from selenium.webdriver.common.by import By

from nextstate.buzzometer import Buzzometer
from nextstate.web.models import Models
from web.browser import chromium, serving

DOCS = Path(__file__).parents[2] / "docs"
TEXT = "The screen is wonderful, but the battery is terrible and support never answers."


def wait(condition):
    end = time.monotonic() + 600
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)


def shoot(driver, name, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_script("document.activeElement.blur()")
    time.sleep(1)
    driver.save_screenshot(str(DOCS / name))
    print(f"{name}: {(DOCS / name).stat().st_size // 1024} KB")


def main(file, model=None):
    buzz = Buzzometer.load(None if model is None else Path(model))
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Models(buzz=buzz)) as address,
        chromium(Path(folder)) as driver,
    ):
        driver.get(address)
        driver.find_element(By.ID, "text").send_keys(TEXT)
        wait(lambda: driver.find_element(By.ID, "strongest").text)
        shoot(driver, "page.png", 1000, 470)
        driver.find_element(By.ID, "file").send_keys(str(Path(file).resolve()))
        wait(lambda: driver.find_element(By.ID, "summary").text)
        driver.execute_script("document.querySelector('[aria-labelledby=file-title]').scrollIntoView()")
        shoot(driver, "page-file.png", 1000, 1150)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
        driver.execute_script("scrollTo(0, 0)")
        shoot(driver, "page-narrow-dark.png", 380, 900)


if __name__ == "__main__":
    main(*sys.argv[1:])
