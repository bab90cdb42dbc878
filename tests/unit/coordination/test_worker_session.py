"""One run on one worker: where its receiver listens."""

import asyncio
from types import SimpleNamespace

import pytest

from ips_components.coordination.settings import RunSettings
from ips_components.coordination.worker import WorkerSession


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_receiver_listens_where_its_worker_does(host):
    shown = f"[{host}]" if ":" in host else host
    sent = []
    worker = SimpleNamespace(
        address=f"tcp://{shown}:4000",
        memory_manager=SimpleNamespace(memory_limit=1 << 26),
        state=SimpleNamespace(nthreads=1),
        batched_send=sent.append,
    )
    settings = RunSettings(run="r", token="5e" * 32, analysis="a:b")

    async def opened():
        session = WorkerSession(settings, worker, external=None)
        session.open()
        await session.close()

    asyncio.run(opened())
    assert sent[0]["endpoint"]["host"] == host
