"""The pictures of the terminal, the live page and the report: ``python docs/pictures.py``.

The main job runs in a terminal of its own, slowed down, and Chromium takes the pictures. Run it
again when one of the three has changed its looks, and commit what it writes into ``figures``.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from ips_components.deadlines import Deadline

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures"
sys.path.append(str(ROOT / "tests" / "browser"))

from chromium import Chromium, Page  # noqa: E402

COMMAND = "ips.py --config heat2d.config --platform workstation.conf"
ROWS, COLUMNS = 40, 120
#: Step of the simulation at which a picture of what is under way is taken.
UNDER_WAY = 120
#: Seconds that the run may take.
LIMIT = 300.0
#: Cursor up, clear the line, new line, and what is shown.
_SEQUENCE = re.compile(r"\x1b\[\?25[lh]|\x1b\[(\d*)A|(\x1b\[2K)|(\n)|([^\x1b\r\n]+|\x1b\[[\d;]*m)")


def shown(output: str) -> str:
    """What a terminal shows after the sequences that rich writes, colours included."""
    rows, row = [""], 0
    for found in _SEQUENCE.finditer(output):
        up, clear, newline, words = found.groups()
        if up is not None:
            row -= int(up or 1)
        elif clear:
            rows[row] = ""
        elif newline:
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif words:
            rows[row] += words
    return "\n".join(rows).rstrip()


def write_files(folder: Path) -> None:
    """The main job's files, with a live page and 30 ms more for each step."""
    config = (ROOT / "configs" / "heat2d_ipca.config").read_text(encoding="utf-8")
    config = config.replace("$PWD/run/heat2d_ipca", "$PWD/run").replace("USE_PORTAL = True", "")
    config = config.replace("$PWD/examples", str(ROOT / "examples"))
    config = config.replace("{NSTEP}\n", "{NSTEP} --pace 30\n")
    config = config.replace("    DASK_NODES", "    LIVE_PAGE = True\n    DASK_NODES")
    (folder / "heat2d.config").write_text(f"USE_PORTAL = False\n{config}", encoding="utf-8")
    shutil.copy(ROOT / "platform" / "workstation.conf", folder)


class Run:
    """``ips.py`` in a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""
        self._terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            COMMAND.split(), cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "PWD": str(folder)},
        )  # fmt: skip
        os.close(theirs)
        asyncio.get_running_loop().add_reader(self._terminal, self._read)
        self.ended = asyncio.Event()

    def _read(self) -> None:
        try:
            self.output += os.read(self._terminal, 1 << 16).decode(errors="replace")
        except OSError:  # the other side is closed
            asyncio.get_running_loop().remove_reader(self._terminal)
            self.ended.set()

    async def live_page(self) -> str:
        """The address of the live page, once there is one."""
        deadline = Deadline(LIMIT)
        while True:
            for path in self.folder.glob("run/run_*/contact.json"):
                if address := json.loads(path.read_text()).get("live_page"):
                    return str(address)
            if self.ended.is_set():
                raise RuntimeError(f"ips.py has ended: {self.output[-2000:]}")
            deadline.raise_if_expired(f"no live page within {LIMIT:g} s: {self.output[-2000:]}")
            await asyncio.sleep(0.1)

    async def wait(self) -> Path:
        """The directory of the run, when it has succeeded."""
        await asyncio.wait_for(self.ended.wait(), LIMIT)
        if status := self._process.wait():
            raise RuntimeError(f"ips.py ended with {status}: {self.output[-2000:]}")
        return next(self.folder.glob("run/run_*"))


async def take(page: Page, name: str, width: int, height: int) -> None:
    """A picture of the upper part of a page, with few colours."""
    await page.resize(width, height)
    path = FIGURES / f"{name}.png"
    await page.screenshot(path)
    with Image.open(path) as taken:
        small = taken.crop((0, 0, width, height)).convert("RGB").quantize(64)
    small.save(path, optimize=True)


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder)
        async with Chromium() as browser:
            run = Run(folder)
            page = await browser.open(await run.live_page(), 1200)
            step = "parseInt(document.getElementById('steps').textContent.slice(5))"
            await page.until("document.querySelectorAll('#array option').length > 1", LIMIT)
            await page.evaluate("document.getElementById('array').selectedIndex = 1")
            await page.until(f"{step} > {UNDER_WAY}", LIMIT)
            await page.until("!document.getElementById('picture').hidden", LIMIT)
            await take(page, "live-page", 1200, 1300)
            text = shown(run.output)
            report = await run.wait() / "report.html"
            await take(await browser.open(f"file://{report}", 1100), "report", 1100, 1500)
            console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
            console.print(Text.from_ansi(text))
            drawing = folder / "terminal.svg"
            svg = console.export_svg(title=COMMAND)
            drawing.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S), encoding="utf-8")
            page = await browser.open(f"file://{drawing}", 1200)
            shape = "(b => b.height / b.width)(document.documentElement.viewBox.baseVal)"
            await take(page, "terminal", 1200, int(1200 * await page.evaluate(shape)))


if __name__ == "__main__":
    asyncio.run(main())
