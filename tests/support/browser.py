"""Debian's Chromium without a window, driven by its DevTools protocol over pipes: pages as their readers see them."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

NAMES = ("chromium", "chromium-browser", "google-chrome")
REMEDY = "Chromium is not installed; on Debian or Ubuntu: apt-get install chromium"
EXIT_SECONDS = 20


def find_chromium() -> str | None:
    """Return the path of Chromium, None if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True)
class Screen:
    """A window of a size in CSS pixels."""

    width: int
    height: int
    is_dark: bool = False
    is_phone: bool = False


@dataclass
class Tab:
    """A page in the browser."""

    browser: "Browser"
    session: str

    def send(self, method: str, **values: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result. Raises AssertionError if it fails."""
        return self.browser.send(method, self.session, **values)

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression, as JSON has it."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as PNG."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings that the page has caused: of scripts, of the network, of its security policy."""
        return [text for session, text in self.browser.complaints if session == self.session]


class Browser:
    """A running Chromium."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO):
        self._commands, self._answers = commands, answers
        self._number = 0
        self.complaints: list[tuple[str, str]] = []

    def send(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events that arrive before it are looked at."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        self._commands.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def wait_for(self, method: str, session: str) -> None:
        """Wait for an event."""
        while (event := self._read()).get("method") != method or event.get("sessionId") != session:
            self._note(event)

    def open(self, page: Path, screen: Screen) -> Tab:
        """Open a file in a new tab and wait until it is loaded."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        tab = Tab(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.send(f"{domain}.enable")
        tab.send(
            "Emulation.setDeviceMetricsOverride",
            width=screen.width, height=screen.height, deviceScaleFactor=1, mobile=screen.is_phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if screen.is_dark else "light"}
        tab.send("Emulation.setEmulatedMedia", features=[scheme])
        tab.send("Page.navigate", url=page.absolute().as_uri())
        self.wait_for("Page.loadEventFired", tab.session)
        return tab

    def _read(self) -> dict[str, Any]:
        """Return the next message. Raises AssertionError if the browser has ended."""
        content = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            content += byte
        return dict(json.loads(content))

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        is_complaint = method == "Runtime.exceptionThrown" or (
            (method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"))
            or (method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"))
            or (method == "Network.requestWillBeSent" and values["request"]["url"].startswith("http"))
        )
        if is_complaint:
            self.complaints.append((event.get("sessionId", ""), json.dumps(values)[:2000]))


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """Run Chromium with a profile in a folder, without network, until the block ends."""
    program = find_chromium()
    assert program is not None, REMEDY
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--proxy-server=127.0.0.1:9", "--remote-debugging-pipe",
        f"--user-data-dir={folder}",
    ]  # fmt: skip
    # the protocol uses descriptors 3 and 4
    shell = f'exec "$@" 3<&{from_us} 4>&{to_us}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", program, *options], pass_fds=(from_us, to_us), stderr=subprocess.DEVNULL
    )
    os.close(from_us)
    os.close(to_us)
    with os.fdopen(to_browser, "wb") as commands, os.fdopen(from_browser, "rb") as answers:
        browser = Browser(commands, answers)
        try:
            yield browser
            browser.send("Browser.close")
        finally:
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
