"""Dask's dashboard: only who knows its address sees it."""

import asyncio
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from distributed import Client, LocalCluster
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.websocket import websocket_connect

from ips_components.coordination import dashboard
from ips_components.deadlines import Deadline

pytest.importorskip("bokeh")
# Of bokeh and what it imports, not of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PATIENCE = 60


async def get(url):
    try:
        answer = await AsyncHTTPClient().fetch(url, follow_redirects=False)
    except HTTPClientError as error:
        return error.code, ""
    return answer.code, answer.body.decode()


async def ready(url):
    deadline = Deadline(PATIENCE)
    while True:
        code, body = await get(url)
        if "being prepared" not in body:
            return code, body
        deadline.raise_if_expired("the dashboard is not prepared")
        await asyncio.sleep(0.2)


@pytest.fixture
def served():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0",
            protocol="tcp", host="127.0.0.1", scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client, dashboard.open_dashboard(client)


def test_the_address_answers_and_without_the_token_nothing_does(served):
    client, url = served
    assert dashboard.open_dashboard(client) == url  # opened once
    server = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    token = urlsplit(url).path.split("/")[1]

    async def look():
        code, body = await ready(url)
        assert code == 200
        assert "bokeh" in body.lower()
        assert (await get(f"{server}/{token}/info/main/workers.html"))[0] == 200
        assert (await get(f"{server}/{token}/json/counts.json"))[0] == 200
        socket = await websocket_connect(
            f"ws://{urlsplit(url).netloc}/{token}/status/ws?bokeh-protocol-version=1.0",
            subprotocols=["bokeh", "token"],
        )
        socket.close()
        wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
        others = ["/status", "/sitemap.json", "/statics/", f"/{wrong}/status", f"/x/{token}/status"]
        for path in ("", "/", *others):
            code, body = await get(server + path)
            assert code == 404, path
            assert token not in body

    asyncio.run(look())


def test_it_costs_nothing_until_somebody_looks():
    code = (
        "import sys\n"
        "from distributed import Client, LocalCluster\n"
        "from ips_components.coordination import dashboard\n"
        "with LocalCluster(n_workers=0, processes=False, dashboard_address=':0',"
        " protocol='tcp', scheduler_kwargs={'dashboard': False}) as cluster,"
        " Client(cluster) as client:\n"
        "    assert dashboard.open_dashboard(client)\n"
        "    assert 'bokeh' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_problem_is_said_on_the_page(served, monkeypatch):
    _, url = served

    def broken(name):
        raise ImportError("Dask needs another bokeh")

    monkeypatch.setattr(dashboard, "import_module", broken)
    code, _ = asyncio.run(ready(url))
    assert code == 503
