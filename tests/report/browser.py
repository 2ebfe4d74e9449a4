"""A headless Chromium driven over its debugging pipe: no extra package, and the events of a real browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

BINARY = shutil.which("chromium") or shutil.which("chromium-browser")
_PATIENCE_S = 180.0


class Browser:
    """One page of a headless Chromium.

    Attributes:
        requests: URLs that the page asked for, the page itself among them.
        problems: console errors and warnings, uncaught exceptions, failed loads.
    """

    def __init__(self, profile: Path) -> None:
        assert BINARY is not None
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        arguments = [
            BINARY, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
            "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            "about:blank",
        ]  # fmt: skip
        # Chromium reads commands from descriptor 3 and answers on 4.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "bash", *arguments],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._last = 0
        self._events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._session: str | None = None
        self._scripts = True
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def open(
        self,
        page: Path,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        phone: bool = False,
        media: str = "",
    ) -> None:
        """Load a file and wait for its load event; earlier requests and problems are forgotten.

        Args:
            dark: whether the reader prefers dark pages.
            phone: emulate a touch device, whose page is as wide as it says it is.
            media: "print" shows the page as it prints.
        """
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.requests.clear()
        self.problems.clear()
        self._events.clear()
        self._call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for(lambda: any(event["method"] == "Page.loadEventFired" for event in self._events))
        if self._scripts:
            self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def set_scripts(self, allowed: bool) -> None:
        """Switch JavaScript of the pages opened from now on on or off."""
        self._call("Emulation.setScriptExecutionDisabled", value=not allowed)
        self._scripts = allowed

    def text_tree(self) -> str:
        """All text that assistive technology is offered, which is what is visible; needs no script."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return "\n".join(str(node["name"].get("value", "")) for node in nodes if "name" in node)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; promises are awaited."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A real mouse event: kind is mouseMoved, mousePressed, mouseReleased or mouseWheel."""
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Save a PNG of the whole page or of the window."""
        made = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(made["data"]))

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(
            self._call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"]
        )

    def wait_until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        self.evaluate(
            f"new Promise((done) => (function look() {{ ({expression}) ? done() : requestAnimationFrame(look) }})())"
        )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Read events until the condition holds."""
        end = time.monotonic() + _PATIENCE_S
        while not condition():
            self._receive(end)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE_S
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self, end: float) -> dict[str, Any]:
        """The next message; events are kept and sorted."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            if not chunk:
                raise AssertionError(f"Chromium did not answer within {_PATIENCE_S:.0f} s, or went away")
            self._buffer += chunk
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self._events.append(message)
            self._sort(message["method"], message["params"])
        return message

    def _sort(self, method: str, event: dict[str, Any]) -> None:
        """Notice requests and problems."""
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Network.loadingFailed":
            self.problems.append(f"failed to load: {event['errorText']}")
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console {event['type']}: {json.dumps(event['args'])[:500]}")
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"log: {event['entry']['text']}")
