"""Chromium, driven over WebDriver's own protocol (W3C): a few JSON requests are all that is needed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to an element
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,900",
)


def installed() -> bool:
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


class Browser:
    """One window. `with Browser() as browser: …`"""

    def __enter__(self) -> Browser:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        options = {"args": list(ARGUMENTS), "binary": shutil.which("chromium")}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        for attempt in range(100):
            try:
                self.session = self._send("POST", "/session", wanted)["sessionId"]
                return self
            except urllib.error.URLError:
                if attempt == 99:
                    raise
                time.sleep(0.1)
        raise AssertionError("not reached")

    def __exit__(self, *error: object) -> None:
        try:
            self._send("DELETE", f"/session/{self.session}")
        finally:
            self.driver.terminate()
            self.driver.wait()

    def open(self, url: str) -> None:
        self._send("POST", f"/session/{self.session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body in the page returns."""
        body = {"script": script, "args": list(arguments)}
        return self._send("POST", f"/session/{self.session}/execute/sync", body)

    def until(self, script: str, seconds: float = 20) -> Any:
        """The same once it is true."""
        deadline = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.05)
        return found

    def choose(self, selector: str, file: str) -> None:
        """Put a file into an input of the page, as its user would."""
        found = {"using": "css selector", "value": selector}
        element = self._send("POST", f"/session/{self.session}/element", found)[ELEMENT]
        self._send("POST", f"/session/{self.session}/element/{element}/value", {"text": file})

    def picture(self) -> bytes:
        """A PNG file of the window."""
        return base64.b64decode(self._send("GET", f"/session/{self.session}/screenshot"))

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        request.method = method
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())["value"]
