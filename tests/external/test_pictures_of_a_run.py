"""Pictures on the live page of a real run: made while a browser asks, by an attached client."""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from attached_runs import SteppingRun, whole
from coupled_processes import fork_server

from ips_components.analysis import open_live_page
from ips_components.deadlines import Deadline, poll_until
from ips_components.live.pictures import PictureMaker
from ips_components.wire import contact as contacts


@pytest.fixture(scope="module", autouse=True)
def server():
    with fork_server():
        yield


def state(page, array=""):
    with urllib.request.urlopen(f"{page}state?array={array}", timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("pace", [0.005, 0.05])
def test_pictures_are_made_while_a_browser_asks(tmp_path, pace):
    run = SteppingRun(tmp_path, pace=pace)
    try:
        page = open_live_page(run.client, run.name)
        PictureMaker(run.client, contacts.read(run.contact), tmp_path)
        found = state(page)
        assert found["attach"]
        assert poll_until(
            lambda: state(page)["offered"] == [{"name": "t", "units": ""}], Deadline(60), pause=0.1
        )
        assert state(page, "other")["picture"] is None
        steps = set()

        def several():
            picture = state(page, "t")["picture"]
            if picture is None:
                return False
            assert "error" not in picture, picture
            expected = whole(picture["step"])
            cells = np.frombuffer(base64.b64decode(picture["cells"]), np.uint8)
            low, high = picture["low"], picture["high"]
            assert (low, high) == (expected.min(), expected.max())
            assert picture["shape"] == list(expected.shape)
            np.testing.assert_allclose(
                low + (high - low) * cells.reshape(expected.shape) / 254,
                expected,
                atol=(high - low) / 254,
            )
            steps.add(picture["step"])
            return len(steps) >= 3

        assert poll_until(several, Deadline(90), pause=0.1)
        assert len(run.record()["attached"]) == 1
        # The browser has gone: the client detaches.
        record = run.until(lambda r: r["attached"][0]["until"], "the client to detach")
        assert record["attached"][0]["name"].startswith("live page-")
        assert record["attached"][0]["why"] == "detached"
        assert run.stop() == [("done", None)] * run.n_ranks
        assert run.end()["phase"] == "ended"
        run.future.result(20)
        assert all(c["ledger"]["closed"] for c in run.record()["attached"][0]["contracts"])
        assert state(page, "t")["picture"]["step"] >= max(steps)  # the last one stays
        assert len(run.record()["attached"]) == 1
    finally:
        print(run.logs())
        run.close()


def test_a_wrong_token_is_said_on_the_page(tmp_path):
    run = SteppingRun(tmp_path)
    try:
        page = open_live_page(run.client, run.name)
        PictureMaker(run.client, replace(contacts.read(run.contact), token="ab" * 32), tmp_path)

        def error():
            picture = state(page, "t")["picture"]
            return picture and picture.get("error")

        assert "the token is not that of the run" in poll_until(error, Deadline(60), pause=0.1)
    finally:
        run.close()
