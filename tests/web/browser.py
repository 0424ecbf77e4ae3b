"""A service in a thread and a headless Chromium that looks at it."""

import asyncio
import shutil
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from nextstate.web.app import create_app
from nextstate.web.connections import Connections
from nextstate.web.limits import Limits
from nextstate.web.models import Models

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def absent() -> str:
    """Why no browser can be started here; empty if one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install 'nextstate[test]')"
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not found (apt-get install chromium chromium-driver)" if missing else ""


@contextmanager
def serving(models: Models, limits: Limits | None = None):
    """The address of a service that runs in a thread of this process until the block ends."""
    limits = limits or Limits()
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(models, limits), http=Connections(limits), ws="none", log_level="critical", lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


@contextmanager
def chromium(folder: Path):
    """A browser that saves downloads in `folder` and notes what its console says."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1100,900"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()
