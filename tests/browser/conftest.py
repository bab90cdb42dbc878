"""Browser tests are skipped where there is no Chromium; they leave no process behind."""

from __future__ import annotations

import sys
from pathlib import Path

import chromium
import psutil
import pytest

sys.path.append(str(Path(__file__).parent.parent / "unit" / "report"))  # run_records


@pytest.fixture(autouse=True)
def browser_only():
    if chromium.executable() is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive, f"processes left behind: {alive}"
