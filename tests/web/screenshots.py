"""The pictures of docs/service.md, taken anew.

    python tests/web/screenshots.py [MODEL]

MODEL is a Buzzometer other than the package's. The posts that are shown are made here; no one wrote them.
"""

import csv
import random
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

GOOD = ("I love this {}, best morning in weeks!", "Really nice {}, thank you all.", "What a wonderful {}.")
BAD = (
    "The {} was cold and nobody said sorry.",
    "Worst {} I ever had.",
    "Two broken cups, {} all over my bag.",
)
PLAIN = ("Having a {} on the train.", "They sell {} at the corner now.", "Is the {} place open on Sunday?")


def write_posts(path):
    """Posts on two drinks over three weeks; what people feel about one of them turns on the twelfth day."""
    draw = random.Random(4)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["posted", "brand", "text"])
        for number in range(1600):
            day, drink = draw.randint(1, 21), draw.choice(("coffee", "tea"))
            happy = 0.25 if drink == "coffee" and day >= 12 else 0.6
            mood = draw.choices((GOOD, BAD, PLAIN), (happy, 0.8 - happy, 0.5))[0]
            text = f"{draw.choice(mood).format(drink)} #{number}"
            writer.writerow([f"2026-03-{day:02} {draw.randint(6, 22)}:30", drink, text])


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


def main(model=None):
    buzz = Buzzometer.load(None if model is None else Path(model))
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Models(buzz=buzz)) as address,
        chromium(Path(folder)) as driver,
    ):
        driver.get(address)
        driver.find_element(By.ID, "text").send_keys(TEXT)
        wait(lambda: driver.find_element(By.ID, "strongest").text)
        shoot(driver, "page.png", 1000, 530)
        write_posts(Path(folder) / "posts.csv")
        driver.find_element(By.ID, "file").send_keys(str(Path(folder) / "posts.csv"))
        wait(lambda: driver.find_element(By.ID, "summary").text)
        driver.execute_script("document.querySelector('[aria-labelledby=file-title]').scrollIntoView()")
        shoot(driver, "page-file.png", 1000, 1060)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
        driver.execute_script("scrollTo(0, 0)")
        shoot(driver, "page-narrow-dark.png", 380, 900)


if __name__ == "__main__":
    main(*sys.argv[1:])
