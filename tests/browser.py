"""Headless Chromium through WebDriver (W3C), with nothing but the standard library.

Needs the programs chromium and chromedriver (Debian: apt-get install chromium chromium-driver).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_KEYS = {
    "Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Left": "\ue012", "Up": "\ue013",
    "Right": "\ue014", "Down": "\ue015", "End": "\ue010",
}  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, server: str, options: dict[str, Any]):
        self._url = f"{server}/session"
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._url += "/" + self._ask("POST", "", {"capabilities": capabilities})["sessionId"]

    def open(self, path: Path, *, width: int, height: int, dark: bool = False) -> None:
        """Show a file in a window of so many CSS pixels; below 600 it is that of a phone."""
        self.visit(path.resolve().as_uri(), width=width, height=height, dark=dark)

    def visit(self, address: str, *, width: int, height: int, dark: bool = False) -> None:
        """Show an address in a window as `open` does."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 2 if width < 600 else 1}
        self.devtools("Emulation.setDeviceMetricsOverride", **screen, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function returns in the page; promises are waited for."""
        body = {"script": script, "args": list(arguments)}
        return self._ask("POST", "/execute/sync", body)

    def click(self, selector: str) -> None:
        """Click the first such element, where a user could."""
        self._ask("POST", f"/element/{self._find(selector)}/click", {})

    def press(self, *keys: str) -> None:
        """Press keys, one after another, where the focus is."""
        actions = [
            {"type": kind, "value": _KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        body = {"actions": [{"type": "key", "id": "keys", "actions": actions}]}
        self._ask("POST", "/actions", body)

    def hover(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        move = {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0}
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self._ask("POST", "/actions", {"actions": [{**mouse, "actions": [move]}]})

    def touch(self, *places: tuple[float, float]) -> None:
        """Put a finger down, move it along the places in the window, and lift it."""
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 50}
                 for x, y in places]  # fmt: skip
        actions = [moves[0], {"type": "pointerDown"}, *moves[1:], {"type": "pointerUp"}]
        finger = {"type": "pointer", "id": "finger", "parameters": {"pointerType": "touch"}}
        self._ask("POST", "/actions", {"actions": [{**finger, "actions": actions}]})

    def drag(self, *places: tuple[float, float]) -> None:
        """Press the mouse at the first place in the window, move it along, and let go."""
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 50}
                 for x, y in places]  # fmt: skip
        down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
        actions = [moves[0], down, *moves[1:], up]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self._ask("POST", "/actions", {"actions": [{**mouse, "actions": actions}]})

    def picture(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def pdf(self, path: Path) -> None:
        """Print to a PDF."""
        path.write_bytes(base64.b64decode(self._ask("POST", "/print", {"background": False})))

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def close(self) -> None:
        """End the session."""
        self._ask("DELETE", "")

    def _find(self, selector: str) -> str:
        body = {"using": "css selector", "value": selector}
        return str(self._ask("POST", "/element", body)[_ELEMENT])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                value = json.load(error)["value"]
            raise RuntimeError(f"{method} {path}: {value['message']}") from error


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not program:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox does not work for root
    options = {"binary": program, "args": arguments}
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            # It names the port that it was given, and stays silent from then on.
            lines = iter(server.stdout.readline, "")
            port = next(m[1] for line in lines if (m := re.search(r"on port (\d+)\.", line)))
            browser = Browser(f"http://127.0.0.1:{port}", options)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            server.terminate()
