"""The live page without a browser: who may see it, what it says, and that it ends."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from distributed import Scheduler
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from ips_components.coordination.coordinator import RunCoordinator
from ips_components.coordination.launch_record import LaunchRecord
from ips_components.coordination.live_page import (
    MAX_BARS,
    MAX_LAUNCHES,
    MAX_POINTS,
    _bars,
    _throughput,
    open_live_page,
)
from ips_components.errors import ConfigError
from ips_components.external.tasks import ExternalTasks
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis

TOKEN = "0123456789-abcdef_XYZ"


@asynccontextmanager
async def scheduler_with_run():
    async with Scheduler(
        host="127.0.0.1", port=0, dashboard_address=":0", dashboard=False
    ) as scheduler:
        coordinator = RunCoordinator(ExternalTasks(scheduler))
        state = coordinator.run("r1").state
        state.endpoints[0] = {"receiver": 0, "address": "tcp://w:1", "hostname": "n1"}
        state.hello(0, {"size": 2})
        state.hello(1, {"size": 2})
        for rank in (0, 1):
            counters = {"t": {"bytes": {"produced": 10, "delivered": 4, "skipped": 6}}}
            state.step_end(rank, 0, 0.5 * rank, counters)
        state.sample({"worker": "tcp://w:1", "rss": 7, "held": 3, "credits": 5})
        state.fault("rank 1", "slow", "<b>")
        yield scheduler, coordinator


async def status_of(url: str) -> int:
    try:
        return (await AsyncHTTPClient().fetch(url)).code
    except HTTPClientError as error:
        return error.code


def test_it_tells_the_state_as_json():
    async def look():
        async with scheduler_with_run() as (scheduler, coordinator):
            page = open_live_page(scheduler, coordinator, "r1", TOKEN)
            answer = await AsyncHTTPClient().fetch(page.url + "state")
            await page.close()
            return answer

    answer = asyncio.run(look())
    state = json.loads(answer.body)
    assert state["steps"] == 1
    assert state["delivered"] == 8
    assert state["position"] == 1
    assert state["throughput"] == []
    assert state["rate"] is state["step_rate"] is state["left"] is None
    assert state["waiting"] == {"ranks_per_bar": 1, "seconds": [0.0, 0.5]}
    assert state["workers"][0]["rss"] == 7
    assert state["workers"][0]["alive"] is False
    assert state["contract"] == []
    assert state["fault_log"][0]["cause"] == "<b>"
    assert state["dashboard"] is None
    assert state["tasks"] == {"done": 0, "total": 0}
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Server" not in answer.headers


def test_it_tells_the_newest_launches_with_the_times_of_the_loop():
    async def look():
        async with scheduler_with_run() as (scheduler, coordinator):
            run = coordinator.runs["r1"]
            for number in range(MAX_LAUNCHES + 3):
                launch = LaunchRecord(number, 4 * number, 2, 100.0 + number)
                launch.time, launch.ended, launch.ok = float(number + 1), 100.5 + number, True
                run.launches.append(launch)
            run.launches[-1].ended = run.launches[-1].ok = None
            page = open_live_page(scheduler, coordinator, "r1", TOKEN)
            answer = await AsyncHTTPClient().fetch(page.url + "state")
            await page.close()
            return json.loads(answer.body)["launches"]

    found = asyncio.run(look())
    assert [each["launch"] for each in found] == list(range(3, MAX_LAUNCHES + 3))
    assert found[0] == {
        "launch": 3,
        "first_step": 12,
        "time": 4.0,
        "began": 103.0,
        "ended": 103.5,
        "ok": True,
    }
    assert found[-1]["ended"] is found[-1]["ok"] is None


def test_windows_that_have_declared_no_task_yet_are_shown_as_none():
    """A client that attached between the contract and the first window got an error."""
    spec = ArraySpec("t", "<f8", (4,), StepAxis())
    agreed = ArrayContract.agree(spec, run="r1")

    async def look():
        async with scheduler_with_run() as (_, coordinator):
            blob = Contract("r1", (agreed,)).to_bytes()
            await coordinator.call("contract", "r1", blob=blob, ahead=True)
            before = coordinator.progress("r1")["states"]
            await coordinator.call("declare_ahead", "r1", array=0, first=0, stop=2)
            return before, coordinator.progress("r1")["states"]

    before, after = asyncio.run(look())
    assert before == {}
    assert sum(after.values()) == 2


def test_only_who_knows_the_token_sees_anything():
    async def look():
        async with scheduler_with_run() as (scheduler, coordinator):
            page = open_live_page(scheduler, coordinator, "r1", TOKEN)
            root = page.url.removesuffix(f"{TOKEN}/")
            assert root.startswith("http://127.0.0.1:")
            wrong = ["", f"{TOKEN[:-1]}/", f"{TOKEN}x/state", "%C3%A9/", "state", f"{TOKEN}/.."]
            assert {path: await status_of(root + path) for path in wrong} == dict.fromkeys(
                wrong, 404
            )
            assert await status_of(page.url) == 200
            await page.close()

    asyncio.run(look())


def test_its_token_is_in_no_log(caplog):
    caplog.set_level("DEBUG")

    async def look():
        async with scheduler_with_run() as (scheduler, coordinator):
            page = open_live_page(scheduler, coordinator, "r1", TOKEN)
            assert await status_of(page.url) == 200
            assert await status_of(f"{page.url}nothing") == 404
            await page.close()

    asyncio.run(look())
    assert "Live page of run r1" in caplog.text
    assert TOKEN not in caplog.text


def test_the_page_forbids_everything_it_does_not_need():
    async def look():
        async with scheduler_with_run() as (scheduler, coordinator):
            page = open_live_page(scheduler, coordinator, "r1", TOKEN)
            first, second = [await AsyncHTTPClient().fetch(page.url) for _ in range(2)]
            await page.close()
            return first, second

    first, second = asyncio.run(look())
    policy = first.headers["Content-Security-Policy"]
    assert not [name for name in first.headers if name.startswith("Access-Control")]
    assert policy.startswith("default-src 'none'; connect-src 'self'")
    assert policy != second.headers["Content-Security-Policy"]  # the nonce is used once
    assert b"NONCE" not in first.body


def test_closing_frees_the_port():
    async def look():
        async with scheduler_with_run() as (scheduler, coordinator):
            page = open_live_page(scheduler, coordinator, "r1", TOKEN)
            port = int(page.url.split(":")[2].split("/")[0])
            await page.close()
            again = open_live_page(scheduler, coordinator, "r1", TOKEN, port=port)
            await again.close()

    asyncio.run(look())


def test_a_taken_port_and_a_weak_token_are_named():
    async def look():
        async with scheduler_with_run() as (scheduler, coordinator):
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = taken.getsockname()[1]
                with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
                    open_live_page(scheduler, coordinator, "r1", TOKEN, port=port)
            for weak in ("short", "a/path/in/a/token/of/length"):
                with pytest.raises(ConfigError, match="must be 16 or more letters"):
                    open_live_page(scheduler, coordinator, "r1", weak)

    asyncio.run(look())


def test_many_ranks_share_bars_without_hiding_the_slowest():
    bars = _bars([0.0] * 9_999 + [3.5])
    assert len(bars["seconds"]) <= MAX_BARS
    assert max(bars["seconds"]) == 3.5
    assert _bars([]) == {"ranks_per_bar": 1, "seconds": []}


def test_a_client_opens_the_page_and_the_scheduler_closes_it():
    async def look():
        async with scheduler_with_run() as (_, coordinator):
            page = {"token": TOKEN, "host": "127.0.0.1", "port": 0}
            url = await coordinator.call("live_page", "r1", **page)
            assert await coordinator.call("live_page", "r1", **page) == url
            assert await status_of(url) == 200
        with pytest.raises(ConnectionError):
            await AsyncHTTPClient().fetch(url)

    asyncio.run(look())


def test_the_throughput_is_bounded_and_has_both_ends():
    steps = {
        n: SimpleNamespace(complete=float(n), delivered=10 * n) for n in range(10 * MAX_POINTS + 7)
    }
    steps[len(steps)] = SimpleNamespace(complete=None, delivered=None)
    found = _throughput(steps)
    assert len(found) == MAX_POINTS
    assert (found[0][0], found[-1][0]) == (0.0, float(len(steps) - 2))
    assert [rate for _, rate in found] == pytest.approx([10] * MAX_POINTS)
    assert _throughput({}) == []
