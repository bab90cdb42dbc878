"""The report in a real browser: no errors, no network, nothing cut off, readable on paper."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import run_records
from chromium import Chromium
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ips_components.report.html import write_report

pytestmark = pytest.mark.browser

SHOWN_DRAWINGS = (
    "[...document.querySelectorAll('figure.chart svg')].filter(s => s.checkVisibility())"
)


@pytest.fixture
def run_dir(tmp_path):
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(np.add.outer(np.arange(20.0), np.arange(40.0)))
    axes.set(xlabel="x (cells)", ylabel="y (cells)")
    figure.savefig(tmp_path / "principal_components.png", dpi=150)
    return tmp_path


@pytest.mark.parametrize("width", [400, 800, 1400])
@pytest.mark.parametrize("name", run_records.RECORDS)
def test_the_report_opens_without_errors_at_every_width(name, width, run_dir):
    record = run_records.RECORDS[name]()
    record["figures"] = ["principal_components.png"]
    path = write_report(run_dir, record)

    async def look():
        async with Chromium() as browser:
            page = await browser.open(f"file://{path}", width)
            assert page.errors == []
            assert [r for r in page.requests if not r.startswith(("file:", "data:"))] == []
            # nothing sticks out sideways
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            # each figure is drawn exactly once for this width, and has its labels inside
            figures = await page.evaluate("document.querySelectorAll('figure.chart').length")
            assert await page.evaluate(f"{SHOWN_DRAWINGS}.length") == figures
            assert await page.evaluate(
                f"{SHOWN_DRAWINGS}.every(s => s.getBoundingClientRect().width > 250)"
            )
            outside = await page.evaluate(
                f"{SHOWN_DRAWINGS}.flatMap(s => [...s.querySelectorAll('text')].filter(t => "
                "{ const a = t.getBoundingClientRect(), b = s.getBoundingClientRect(); "
                "return a.left < b.left - 1 || a.right > b.right + 1; }).map(t => t.textContent))"
            )
            assert outside == []
            pictures = await page.evaluate(
                "[...document.images].map(i => i.complete && i.naturalWidth > 0)"
            )
            assert pictures == [True]
            return await page.text()

    text = asyncio.run(look())
    verdict = "Succeeded" if record["status"] == "ok" else "Failed"
    assert verdict in text
    assert "Configuration as resolved" in text


def test_cells_out_of_sight_make_no_row_high_on_a_narrow_screen(run_dir):
    record = run_records.ok_record()
    for variable in record["results"]["variables"].values():
        variable["values"] = [float(k) for k in range(9)]
    path = write_report(run_dir, record)

    async def look():
        async with Chromium() as browser:
            page = await browser.open(f"file://{path}", 400)
            return await page.evaluate(
                "Math.max(...[...document.querySelectorAll('.scroll tbody tr')]"
                ".map(row => row.getBoundingClientRect().height))"
            )

    assert asyncio.run(look()) < 50  # one line and its rim


def test_the_report_prints_on_few_pages(run_dir):
    path = write_report(run_dir, run_records.ok_record())

    async def look():
        async with Chromium() as browser:
            page = await browser.open(f"file://{path}")
            return await page.pdf()

    pdf = asyncio.run(look())
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 7
