"""An open-ended run keeps as much after many steps as after some: its structures are counted."""

from __future__ import annotations

import asyncio
import gc
import secrets
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Set
from functools import partial
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.scheduler import TaskGroup

from ips_components.analysis import run_analysis, wait_for_end, wait_for_receivers
from ips_components.analysis import views as _views
from ips_components.bridge import Array, Bridge
from ips_components.coordination import RunSettings, run_plugin
from ips_components.coordination import coordinator as _coordinator
from ips_components.coordination import run_state as _run_state
from ips_components.coordination.steps import Steps
from ips_components.coordination.worker import EXTENSION as RUNS
from ips_components.external.tasks import EXTENSION
from ips_components.receiver import admission, bulletin
from ips_components.wire.contact import Contact, Endpoint, write

#: Windows after which is counted; what would grow by one a step grows by more than `SLACK`.
FIRST, LAST, STEPS = 40, 90, 96
SLACK = 35
LIMIT = 32
DEADLINES = dict.fromkeys(("connect", "contract", "step", "drain"), 20.0)

counts: list[dict[str, int]] = []
count: Any = None


def windows(arrays, run):
    """Analysis: the mean of every step, with a count of everything now and then."""
    n, total = 0, 0.0
    for window in run.rolling(arrays["t"], 1).map(lambda x: x[:, 1:].mean()):
        n, total = n + 1, total + float(window.value)
        run.send("gain", total, step=n)
        if n in (FIRST, LAST):
            counts.append(count())
    return {"count": np.array(n), "total": np.array(total)}


def entries(roots: Mapping[str, Any]) -> dict[str, int]:
    """Entries of every container that our own objects hold, by their path from a root."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    todo = deque(roots.items())
    while todo:
        path, value = todo.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        children: Any = ()
        if isinstance(value, np.ndarray):
            found[path] = found.get(path, 0) + value.size
        elif isinstance(value, Mapping) and not _ours(value):
            found[path] = found.get(path, 0) + len(value)
            children = [(f"{path}[]", each) for each in _snapshot(value.values)]
            children += [(f"{path}.keys", each) for each in _snapshot(value.keys)]
        elif isinstance(value, (list, tuple, Set, deque)) and not _ours(value):
            found[path] = found.get(path, 0) + len(value)
            children = [(f"{path}[]", each) for each in _snapshot(lambda value=value: value)]
        elif _ours(value):
            children = [(f"{path}.{name}", each) for name, each in _attributes(value)]
            if isinstance(value, dict):
                children += [(f"{path}[]", each) for each in _snapshot(value.values)]
                found[path] = found.get(path, 0) + len(value)
        todo.extend(children)
    return found


def _ours(value: Any) -> bool:
    return type(value).__module__.startswith("ips_components.")


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    names = [n for c in type(value).__mro__ for n in getattr(c, "__slots__", ())]
    for name in {*names, *getattr(value, "__dict__", ())}:
        if hasattr(value, name):
            yield name, getattr(value, name)


def _snapshot(values: Any) -> list[Any]:
    """The members of what another thread may be changing."""
    while True:
        try:
            return list(values())
        except RuntimeError:
            continue


@pytest.fixture
def few_are_kept(monkeypatch):
    """Limits that a short run reaches."""
    monkeypatch.setattr(bulletin, "MAX_FEEDBACK", LIMIT)
    monkeypatch.setattr(admission, "_BATCH", LIMIT // 4)
    monkeypatch.setattr(_views, "MAX_VIEWS", LIMIT)
    monkeypatch.setattr(_run_state, "MAX_SAMPLES", 4)
    monkeypatch.setattr(_run_state, "Steps", partial(Steps, LIMIT))
    monkeypatch.setattr(_coordinator, "INTERVAL", 0.05)
    monkeypatch.setattr(
        _coordinator, "forget_groups", partial(_coordinator.forget_groups, limit=LIMIT)
    )


def test_an_open_ended_run_keeps_no_more_for_more_steps(few_are_kept, tmp_path, monkeypatch):
    name = "r" + secrets.token_hex(4)
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        settings = RunSettings(
            run=name,
            token=secrets.token_hex(32),
            analysis=f"{__name__}:windows",
            n_receivers=2,
            results=str(tmp_path / "results.zarr"),
            run_dir=str(tmp_path),
            deadlines=DEADLINES,
        )
        client.register_plugin(run_plugin(settings))
        endpoints = wait_for_receivers(client, name, 2, 20)
        known = Endpoint.__dataclass_fields__
        there = tuple(Endpoint(**{k: e[k] for k in known}) for e in endpoints)
        contact = tmp_path / "contact.json"
        write(contact, Contact(name, settings.token, there, DEADLINES, {"lanes": ["tcp"]}))
        tasks = cluster.scheduler.extensions[EXTENSION]
        tasks.log._max_records, tasks.log._max_keys = LIMIT, LIMIT // 4
        roots = {"tasks": tasks}
        for i, worker in cluster.workers.items():
            roots[f"external[{i}]"] = worker.extensions[EXTENSION]
            roots[f"run[{i}]"] = worker.extensions[RUNS]

        async def look() -> dict[str, int]:
            gc.collect()
            groups = [each for each in gc.get_objects() if type(each) is TaskGroup]
            return {**entries(roots), "groups of Dask": len(groups)}

        def count_all() -> dict[str, int]:
            loop = cluster.loop.asyncio_loop
            return asyncio.run_coroutine_threadsafe(look(), loop).result(20)

        monkeypatch.setattr(sys.modules[__name__], "count", count_all)
        counts.clear()
        future = client.submit(run_analysis, settings.to_dict(), pure=False)
        ranks = [threading.Thread(target=simulate, args=(contact, rank)) for rank in (0, 1)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(60)
        assert future.result(30)["variables"]["count"]["values"] == STEPS
        record = wait_for_end(client, name, 20)
    assert record["ledger"]["closed"]
    done = record["step_counts"]
    assert done["begun"] == done["complete"] == STEPS >= done["analysed"] >= FIRST
    assert len(record["steps"]) <= LIMIT + LIMIT // 2
    some, many = counts
    assert "tasks.companions[].runs[].state.steps._kept" in many
    growing = [
        f"{path}: from {some.get(path, 0)} to {n}"
        for path, n in many.items()
        if n > some.get(path, 0) + SLACK
    ]
    assert not growing, "\n".join(growing)


def simulate(contact, rank):
    array = Array("t", (8, 6), "f8", offset=(4 * rank, 0))
    with Bridge(contact=contact, arrays=[array], rank=rank, size=2) as bridge:
        for step in range(STEPS):
            bridge.put("t", step, np.ones((4, 6)))
