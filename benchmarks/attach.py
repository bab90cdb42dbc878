"""What a put costs when clients may attach, with none and with one client attached.

``before`` is the same put without the lines for attached runs; the methods take turns. Blocks have
32 KiB and go over shared memory to a receiver in another process; one that is not wanted is put at
a step that the contract does not name. Figures are medians of the time that a put holds the rank.
"""

from __future__ import annotations

import inspect
import multiprocessing
import statistics
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Load, interleave, machine, spread, write
from ips_components.bridge import Bridge, api
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.wire import contact as contacts

RUN, ATTACHED = "benchmark", "benchmark~1"
CELLS = (64, 64)
STEPS, UNWANTED, PACE = 300, 20_000, 0.001
NAMES = ("before", "no client attached", "one client attached")


class Sink:
    """Takes everything and keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def before() -> type[Bridge]:
    """Return a bridge whose put is the present one without its last lines, on attached runs."""
    source = textwrap.dedent(inspect.getsource(Bridge.put))
    kept, found, _ = source.partition("    if self._attached:")
    if not found:
        raise RuntimeError("Bridge.put has no lines on attached runs at its end any more")
    namespace: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + kept, vars(api), namespace)
    return type("Before", (Bridge,), {"put": namespace["put"]})


def serve(folder: str, attached: bool, pipe: Any) -> None:
    """Open the receivers, in a process of their own."""
    spec = ArraySpec("t", "f8", CELLS, StepAxis(count=STEPS))
    opened = []
    for run in (RUN, ATTACHED) if attached else (RUN,):
        token = contacts.new_token()
        one = Receiver(Sink(), run=run, token=token, budget=64 << 20, ordinal=0)
        array = ArrayContract.agree(spec, run=run, receivers=(0,), policy="drop")
        one.set_contract(Contract(run, (array,)), (one.endpoint,))
        opened.append((one, contacts.Contact(run, token, (one.endpoint,))))
    contacts.write(Path(folder, "contact.json"), opened[0][1])
    pipe.send("open")
    pipe.recv()
    if attached:
        opened[0][0].attach(opened[1][1].to_bytes())
    pipe.send("invited")
    pipe.recv()
    for one, _ in opened:
        one.release_ranks()
    pipe.send("released")
    pipe.recv()
    for one, _ in opened:
        one.close()


def measure(name: str) -> tuple[float, float]:
    """Return microseconds of a put that is wanted, and of one that is not."""
    mine, theirs = multiprocessing.Pipe()
    block = np.random.default_rng(0).random(CELLS)
    attached = name == "one client attached"
    with tempfile.TemporaryDirectory() as folder:
        server = multiprocessing.Process(target=serve, args=(folder, attached, theirs))
        server.start()
        mine.recv()
        kind = before() if name == "before" else Bridge
        bridge = kind(contact=Path(folder, "contact.json"))
        mine.send("join")
        mine.recv()
        until = time.monotonic() + 10
        while attached and not bridge._attachments.active and time.monotonic() < until:
            time.sleep(0.01)
        times = []
        for step in range(STEPS):
            time.sleep(PACE)
            start = time.perf_counter_ns()
            bridge.put("t", step, block)
            times.append(time.perf_counter_ns() - start)
        start = time.perf_counter_ns()
        for step in range(STEPS, STEPS + UNWANTED):
            bridge.put("t", step, block)
        unwanted = (time.perf_counter_ns() - start) / UNWANTED
        mine.send("leave")
        mine.recv()
        bridge.close()
        mine.send("end")
        server.join()
    return statistics.median(times[STEPS // 10 :]) / 1e3, unwanted / 1e3


def run(quick: bool = False, repeat: int = 5, folder: Path | None = None) -> dict[str, Any]:
    """Measure all methods; write a table."""
    load = Load()
    turns = interleave(NAMES, 2 if quick else repeat, measure)
    rows = [
        {
            "method": name,
            "us per put": spread([wanted for wanted, _ in each], 3),
            "us per put that is not wanted": spread([other for _, other in each], 3),
        }
        for name, each in turns.items()
    ]
    document = {"machine": machine(), "load": load.facts(), "turns of each": repeat, "rows": rows}
    write("attach", document, **({} if folder is None else {"folder": folder}))
    return document
