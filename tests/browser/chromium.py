"""A headless Chromium over its DevTools protocol, with Tornado's websocket and nothing else."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tornado.websocket import websocket_connect

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
#: Seconds that one answer of the browser may take.
DEADLINE = 60.0

_UNTIL = """new Promise(done => {
  const look = () => { const value = (EXPRESSION); value ? done(value) : setTimeout(look, 20); };
  look();
})"""


def executable() -> str | None:
    """Path of a Chromium on this machine, None without one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class Chromium:
    """One browser process with a profile of its own; an asynchronous context manager."""

    async def __aenter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        program = executable()
        if program is None:
            raise FileNotFoundError("no chromium in PATH")
        self._process = await asyncio.create_subprocess_exec(
            program,
            *OPTIONS,
            f"--user-data-dir={self._profile.name}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        address = await asyncio.wait_for(self._address(), DEADLINE)
        self._drain = asyncio.create_task(self._process.stderr.read())
        self._socket = await websocket_connect(address, max_message_size=2**28)
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._reader.cancel()
        self._socket.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.wait({self._drain, self._reader})
        self._profile.cleanup()

    async def open(self, url: str, width: int = 1400, height: int = 900) -> Page:
        """Open a page in a tab of its own and wait until it is loaded."""
        target = await self.send("Target.createTarget", {"url": "about:blank"})
        attached = await self.send("Target.attachToTarget", {**target, "flatten": True})
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.send(f"{domain}.enable")
        await page.resize(width, height)
        await page.go(url)
        return page

    async def send(
        self, method: str, params: Mapping[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        """Send one command and wait for its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": dict(params or {})}
        if session is not None:
            message["sessionId"] = session
        # The answer may be read, and its entry taken out, before we get to wait for it.
        answered = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.write_message(json.dumps(message))
        answer = await asyncio.wait_for(answered, DEADLINE)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    async def _address(self) -> str:
        while line := await self._process.stderr.readline():
            if found := re.search(rb"DevTools listening on (ws://\S+)", line):
                return found[1].decode()
        raise RuntimeError("chromium ended before it listened")

    async def _read(self) -> None:
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif page := self._pages.get(message.get("sessionId", "")):
                page.note(message["method"], message["params"])


class Page:
    """A tab.

    Attributes
    ----------
    errors : list of str
        Exceptions, console errors and warnings, failed requests.
    requests : list of str
        Addresses of everything that was asked for.
    """

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self.loaded = asyncio.Event()
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def send(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self._browser.send(method, params, self._session)

    async def go(self, url: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.loaded.clear()
        await self.send("Page.navigate", {"url": url})
        await asyncio.wait_for(self.loaded.wait(), DEADLINE)

    async def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", metrics)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = await self.send(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True},
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def until(self, expression: str, timeout: float = 30.0) -> Any:
        """Wait until an expression is true, looked at with every frame; its value."""
        looking = _UNTIL.replace("EXPRESSION", expression)
        return await asyncio.wait_for(self.evaluate(looking), timeout)

    async def text(self) -> str:
        return await self.evaluate("document.body.innerText")

    async def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        taken = await self.send("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(taken["data"]))

    async def pdf(self) -> bytes:
        printed = await self.send("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
        return base64.b64decode(printed["data"])

    def note(self, event: str, params: Mapping[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self.loaded.set()
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(str(params["entry"]["text"]))
            case "Network.loadingFailed":
                self.errors.append(params["errorText"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
