"""The page as a person meets it: fields to fill, a file to choose, what is said."""

import time


class Page:
    """What a person does with the page."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get_log("browser")
        driver.get(address)
        self.wait(lambda: self["version"].text.startswith("NextState"))

    def __getitem__(self, name):
        return self.driver.find_element("id", name)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition, seconds=40):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"the page does not come to it: {self['summary'].text}"
            time.sleep(0.05)
        return found

    def type(self, text):
        self["text"].clear()
        self["text"].send_keys(text)

    def score(self):
        return float(self["gauge"].get_attribute("aria-valuenow"))

    def choose(self, path):
        """Choose a file; returns the summary, or what is said to be wrong."""
        self["file"].send_keys(str(path))
        return self.outcome()

    def outcome(self):
        return self.wait(lambda: self["summary"].text or self["file-error"].text)

    def run(self, script, *arguments):
        return self.driver.execute_async_script(
            f"const done = arguments[arguments.length - 1]; (async () => {{ {script} }})()"
            ".then(done, error => done(`failed: ${error}`));",
            *arguments,
        )
