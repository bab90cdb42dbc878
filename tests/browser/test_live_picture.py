"""A picture of the newest step on the live page, in a real browser, of a real run of ips.py."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from chromium import Chromium
from plates import Plate, whole

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHOOSE = "document.getElementById('array').value = 'plate'"
WORDS = "document.getElementById('picture-words').textContent"
# Colours of the cells at the bottom left and the top right.
DRAWN = """(() => {
  const canvas = document.getElementById('picture');
  if (canvas.hidden || canvas.width !== 8 || canvas.height !== 6) return 'nothing';
  const data = canvas.getContext('2d').getImageData(0, 0, 8, 6).data;
  const cell = (x, y) => [...data.slice(4 * (8 * y + x), 4 * (8 * y + x) + 4)].join();
  return [cell(0, 5), cell(7, 0)].join(' ');
})()"""


def page_of(workflow):
    (contact,) = workflow.root.glob("run_*/contact.json")
    return json.loads(contact.read_text())["live_page"]


def seen_by(look, workflow):
    """Have a person look at a run, and stop it; its record."""
    try:
        asyncio.run(look())
        return workflow.stop()
    finally:
        workflow.close()


def test_a_chosen_array_is_drawn_while_somebody_looks(tmp_path):
    workflow = Plate.begin(tmp_path, ANALYSIS="", LIVE_PAGE=True)

    async def look():
        async with Chromium() as browser:
            page = await browser.open(page_of(workflow), 500)
            await page.until("document.getElementById('array').options.length === 2", 90)
            assert "until you choose" in await page.evaluate(WORDS)
            await page.evaluate(CHOOSE)
            await page.until(f"{WORDS}.startsWith('step ')", 90)
            words = await page.evaluate(WORDS)
            step = int(words.split(",")[0].split()[1])
            cells = whole(step)
            # As many digits as the numbers need to differ, and the unit once.
            assert words.endswith(" K"), words
            low, high = map(float, words.split(", ")[1].removesuffix(" K").split(" to "))
            assert (low, high) == pytest.approx((cells.min(), cells.max()), abs=np.ptp(cells) / 10)
            # Viridis: from violet, at the bottom left, to yellow.
            assert await page.evaluate(DRAWN) == "71,1,85,255 252,231,34,255"
            await page.until(f"{WORDS}.startsWith('step ') && {WORDS} !== {words!r}", 90)
            assert await page.evaluate("document.documentElement.scrollWidth") <= 500
            await page.screenshot(tmp_path / "picture.png")
            assert page.errors == []

    record = seen_by(look, workflow)
    (client,) = record["attached"]
    assert client["name"].startswith("live page-")
    assert all(each["ledger"]["closed"] for each in client["contracts"])


def test_a_run_that_may_not_be_attached_to_has_no_picture(tmp_path):
    workflow = Plate.begin(tmp_path, ANALYSIS="", LIVE_PAGE=True, ATTACH=False)

    async def look():
        async with Chromium() as browser:
            page = await browser.open(page_of(workflow), 500)
            await page.until(f"{WORDS}.includes('ATTACH = False')", 60)
            assert await page.evaluate("document.getElementById('array').hidden")
            assert page.errors == []

    record = seen_by(look, workflow)
    assert not record.get("attached")
