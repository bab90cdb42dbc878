"""The live page in a real browser, served by a real scheduler, while a run goes on and dies."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import run_records
from chromium import Chromium
from distributed import Scheduler

from ips_components.coordination.coordinator import RunCoordinator
from ips_components.coordination.launch_record import LaunchRecord
from ips_components.coordination.live_page import open_live_page
from ips_components.external.tasks import ExternalTasks

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-this-test-0123"


@contextlib.asynccontextmanager
async def served(feed):
    """A run, the server of its live page, and a browser."""
    async with (
        Scheduler(host="127.0.0.1", port=0, dashboard_address=":0", dashboard=False) as scheduler,
        Chromium() as browser,
    ):
        coordinator = RunCoordinator(ExternalTasks(scheduler))
        live = coordinator.run("heat2d_ipca")
        live.state = feed.state
        yield live, open_live_page(scheduler, coordinator, "heat2d_ipca", TOKEN), browser


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_follows_a_run_to_its_bad_end(width, tmp_path):
    async def look():
        feed = run_records.Feed()
        async with served(feed) as (live, page_server, browser):
            live.settings = {"n_steps": 100}
            live.workers = {e["address"]: o for o, e in feed.state.endpoints.items()}
            page = await browser.open(page_server.url, width)
            await page.until("document.getElementById('phase').textContent == 'open'")
            feed.begin()
            feed.run(20)
            await page.until("document.getElementById('steps').textContent == 'step 20 of 100'")
            feed.run(40, first=20)
            await page.until("document.getElementById('steps').textContent == 'step 60 of 100'")
            await page.until("document.querySelectorAll('#waiting rect').length == 4")
            feed.run(10, first=60)
            # From the first step on, however late the page is opened.
            points = "document.querySelector('#throughput polyline')?.getAttribute('points')"
            await page.until(f"({points} || '').split(' ').length == 120")
            titles = "[...document.querySelectorAll('#waiting title')].map(t => t.textContent)"
            assert (await page.evaluate(titles))[2].startswith("rank 2: ")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert (await page.evaluate("document.getElementById('workers').rows.length")) == 2
            feed.state.fail("rank 2", "lost", "<img src=x onerror=alert(1)>")
            del live.workers["tcp://10.0.0.2:40711"]
            await page.until("document.getElementById('phase').textContent == 'failed'")
            text = await page.text()
            assert "rank 2 lost" in text
            assert "<img src=x onerror=alert(1)>" in text
            assert "1 (gone)" in text
            assert "560 MiB" in text
            await page.screenshot(tmp_path / "live.png")
            assert page.errors == []
            assert all(r.startswith((page_server.url, "data:")) for r in page.requests)
            await page_server.close()
            await page.until("!document.getElementById('silent').hidden")

    asyncio.run(look())


def test_the_page_shows_a_bar_for_each_launch():
    """With the time of the loop; the one under way is as long as it lasts, a failed one is red."""

    async def look():
        feed = run_records.Feed()
        async with served(feed) as (live, server, browser):
            page = await browser.open(server.url, 800)
            await page.until("document.getElementById('phase').textContent == 'open'")
            assert await page.evaluate("document.getElementById('launch-track').hidden")
            now = feed.state.clock()
            for number in range(3):
                launch = LaunchRecord(number, 4 * number, 2, now - 30 + 10 * number)
                launch.time, launch.ended, launch.ok = number + 0.5, launch.began + 8, number != 1
                live.launches.append(launch)
            live.launches[-1].ended = live.launches[-1].ok = None
            bars = "[...document.querySelectorAll('#launches rect')].map(r => r.className.baseVal)"
            await page.until(f"{bars}.length == 3")
            assert await page.evaluate(bars) == ["sim", "failed", "sim"]
            await page.until("document.getElementById('launch').textContent == 'launch 2, t = 2.5'")
            live.launches[-1].ended, live.launches[-1].ok = feed.state.clock(), True
            await page.until(
                "document.getElementById('launch').textContent == 'launch 2, t = 2.5, ended'"
            )
            assert page.errors == []
            await server.close()

    asyncio.run(look())
