"""The documentation in a real browser: on a phone the text comes first and fits; drawings fit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from chromium import Chromium

pytestmark = pytest.mark.browser

DOCS = Path(__file__).parents[2] / "docs"
# A text has to fit into the smallest box that it begins in, and into the picture.
OUTSIDE = """(() => {
  const box = e => e.getBoundingClientRect(), svg = document.documentElement;
  const boxes = [...svg.querySelectorAll('rect')].map(box);
  return [...svg.querySelectorAll('text')].filter(t => {
    const a = box(t), holds = b => b.left <= a.left + 3 && a.left + 3 < b.right &&
      b.top <= a.top + 3 && a.top + 3 < b.bottom;
    const inner = boxes.filter(holds).sort((b, c) => b.width * b.height - c.width * c.height)[0];
    return inner === undefined || a.right > inner.right || a.bottom > inner.bottom;
  }).map(t => t.textContent);
})()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("myst_parser")
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-d", folder / "trees", DOCS, folder / "html"]
    subprocess.run(command, check=True, timeout=110)
    return folder / "html"


def test_on_a_phone_the_text_comes_first_and_fits(pages):
    async def look():
        wide = {}
        async with Chromium() as browser:
            page = await browser.open("about:blank", 390)
            for path in sorted(pages.rglob("*.html")):
                await page.go(f"file://{path}")
                width = await page.evaluate("document.documentElement.scrollWidth")
                top = await page.evaluate(
                    "document.querySelector('div.body h1').getBoundingClientRect().top"
                )
                if width > 390 or top > 200:
                    wide[path.name] = (width, top)
        return wide

    assert asyncio.run(look()) == {}


@pytest.mark.parametrize("drawing", sorted(DOCS.glob("figures/*.svg")), ids=lambda path: path.name)
def test_the_text_of_a_drawing_fits_in_any_usual_font(drawing, tmp_path):
    async def look():
        found = {}
        async with Chromium() as browser:
            for font in ("Liberation Sans", "DejaVu Sans"):  # as Arial is, and a wide one
                path = tmp_path / f"{font}.svg"
                text = drawing.read_text(encoding="utf-8").replace('"Source Sans 3"', f'"{font}"')
                path.write_text(text, encoding="utf-8")
                page = await browser.open(f"file://{path}", 960, 500)
                found[font] = await page.evaluate(OUTSIDE)
        return found

    assert asyncio.run(look()) == {"Liberation Sans": [], "DejaVu Sans": []}
