"""A run coordinator that is fed with events by hand: no workers, no sockets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from ips_components.coordination.step_report import StepTally
from ips_components.external.names import ExternalName
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.sink import StepInfo


class Stream:
    def __init__(self) -> None:
        self.sent: list[dict] = []

    def send(self, message) -> None:
        self.sent.append(message)


class Tasks:
    """External tasks that remember what was asked of them."""

    def __init__(self) -> None:
        self.scheduler = SimpleNamespace(
            handlers={},
            worker_plugins={},
            unregister_worker_plugin=None,
            workers={},
            stream_handlers={},
            stream_comms={"a": Stream(), "b": Stream()},
            tasks={},
            clients={},
            add_plugin=lambda plugin, name: None,
            client_desires_keys=lambda keys, client: None,
            loop=SimpleNamespace(
                call_later=lambda *args: self.later.append(args),
                add_callback=lambda *args, **kwargs: self.callbacks.append((args, kwargs)),
            ),
        )
        self.released_groups: list[str] = []
        self.later: list[tuple] = []
        self.callbacks: list[tuple] = []
        self.there = self.count_waiting = False
        self.declared: set = set()
        self.groups: dict = {}  # by key
        self.lost: set = set()

    def declare(self, name, numblocks, needed, **kwargs) -> int:
        return self.declare_keys(ExternalName(name, numblocks, tuple(needed)).keys(), **kwargs)

    def declare_keys(self, keys, *, group, **kwargs) -> int:
        keys = list(keys)
        self.declared.update(keys)
        self.groups.update(dict.fromkeys(keys, group))
        return len(self.declared)

    def release_group(self, group) -> None:
        self.released_groups.append(group)

    def fail(self, keys, failure) -> None:
        self.declared.difference_update(keys)

    def fail_remaining(self, group, failure) -> int:
        self.afterwards = failure
        return len(self.waiting(group)) if self.count_waiting else 0

    def counts(self, group) -> dict:
        return {}

    def waiting(self, group) -> list:
        keys = self.lost if self.there else self.declared | self.lost
        return sorted(key for key in keys if self.groups.get(key, group) == group)


SPEC = ArraySpec("t", "<f8", (8, 6), StepAxis(count=4), ("y", "x"))


def contract(receivers=2, of="r") -> Contract:
    return Contract(of, (ArrayContract.agree(SPEC, run=of, receivers=range(receivers)),))


def open_receiver(coordinator, worker, hostname, of="r") -> None:
    endpoint = {"ordinal": 0, "host": "127.0.0.1", "port": 1, "hostname": hostname}
    coordinator.event(worker, "open", of, endpoint=endpoint)


def hello(coordinator, rank, size=4, asks=False, hosts=(), of="r") -> None:
    info = {"size": size, "host": "h", "pid": rank, "lane": "tcp"}
    info |= {"asks": asks, "blocks": {}, "hosts": [list(each) for each in hosts]}
    coordinator.event("a", "hello", of, rank=rank, **info)


def told(coordinator, worker, action):
    sent = coordinator.scheduler.stream_comms[worker].sent
    return [message for message in sent if message["action"] == action]


async def sign(coordinator, of="r") -> None:
    await sign_with(coordinator, contract(of=of))


async def sign_with(coordinator, agreed, **options) -> None:
    await coordinator.call("contract", agreed.run, blob=agreed.to_bytes(), **options)
    await coordinator.call("committed", agreed.run, keys=[], timeout=1.0)


def run(coroutine):
    return asyncio.run(coroutine)


def say_goodbye(coordinator, *ranks, counters=(), of="r") -> None:
    info = {"status": "ok", "reason": "", "last_step": 3, "counters": dict(counters)}
    for rank in ranks:
        tally = StepTally()
        tally.add(rank, StepInfo(3, 0.0, ()))
        coordinator.event("a", "steps", of, report=tally.take(["t"]).to_message())
        coordinator.event("a", "bye", of, rank=rank, **info)
