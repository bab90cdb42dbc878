"""What opening the bridge costs in a later launch, against bare connections to as many receivers.

One rank and real receivers in one process. The contract was made before; a launch begins at each
receiver, the bridge is opened, puts one step and is closed. Beside it stand bare Unix connections
with one message each way. Figures are medians: wall times, which a busy machine lengthens wherever
threads wait for a core, and CPU times of rank and receivers together.
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Load, interleave, machine, ratio, spread, write
from ips_components.bridge import Bridge
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.receiver.sink import Sink
from ips_components.wire import contact as contacts
from ips_components.wire.messages import ContractIs

RUN, TOKEN = "launches", "17" * 32
LAUNCHES = 20
BYTES = 600
"""Of a greeting and a hello, about."""
DEADLINES = {"connect": 30.0, "contract": 30.0, "step": 30.0, "drain": 30.0}


class Discard(Sink):
    """A consumer that looks at nothing."""


@contextmanager
def receivers(n: int) -> Iterator[tuple[Path, list[Receiver]]]:
    """Receivers that have a contract, and the contact file."""
    spec = ArraySpec("t", "<f8", (64 * n,), StepAxis(count=10 * LAUNCHES))
    contract = Contract(RUN, (ArrayContract.agree(spec, run=RUN, receivers=range(n)),))
    started = [
        Receiver(Discard(), run=RUN, token=TOKEN, budget=64 << 20, ordinal=i) for i in range(n)
    ]
    try:
        endpoints = tuple(each.endpoint for each in started)
        for each in started:
            each.set_contract(contract, endpoints)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "contact.json"
            contacts.write(file, contacts.Contact(RUN, TOKEN, endpoints, DEADLINES, {}))
            yield file, started
    finally:
        for each in started:
            each.close()


def later_launches(n: int) -> tuple[float, float, float]:
    """Seconds of opening the bridge: in the first launch, in a later one, CPU in a later one."""
    opened, worked = [], []
    cells = np.zeros(64 * n)
    with receivers(n) as (file, started):
        for launch in range(LAUNCHES):
            for each in started:
                each.begin_launch(1, launch, launch, ContractIs.MANY_LAUNCHES)
            begin, cpu = time.perf_counter(), time.process_time()
            bridge = Bridge(contact=file)
            opened.append(time.perf_counter() - begin)
            worked.append(time.process_time() - cpu)
            with bridge:
                bridge.put("t", bridge.first_step, cells)
    return opened[0], statistics.median(opened[1:]), statistics.median(worked[1:])


def bare_connections(n: int) -> tuple[float, float]:
    """Seconds, and of CPU, for a connection and a message each way with each of `n` servers."""
    servers = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(n)]
    for server in servers:
        server.bind("")  # the kernel chooses an abstract name
        server.listen()

    def serve(server: socket.socket) -> None:
        for _ in range(LAUNCHES):
            connection, _ = server.accept()
            with connection:
                connection.send(connection.recv(BYTES))

    threads = [threading.Thread(target=serve, args=[server], daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    took, worked = [], []
    for _ in range(LAUNCHES):
        begin, cpu = time.perf_counter(), time.process_time()
        for server in servers:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.connect(server.getsockname())
                connection.send(bytes(BYTES))
                connection.recv(BYTES)
        took.append(time.perf_counter() - begin)
        worked.append(time.process_time() - cpu)
    for thread, server in zip(threads, servers, strict=True):
        thread.join(30)
        server.close()
    return statistics.median(took[1:]), statistics.median(worked[1:])


def run(quick: bool = False, repeat: int = 5, folder: Path | None = None) -> dict[str, Any]:
    """Measure all numbers of receivers; write a table."""
    load, rows = Load(), []
    for n in (1, 4, *(() if quick else (16,))):
        measure = {"bridge": later_launches, "connections": bare_connections}
        turns = interleave(measure, repeat, lambda name, n=n, m=measure: m[name](n))
        first, later, cpu = ([1e3 * each[i] for each in turns["bridge"]] for i in range(3))
        bare, bare_cpu = ([1e3 * each[i] for each in turns["connections"]] for i in range(2))
        rows.append(
            {
                "receivers": n,
                "ms, first launch": spread(first, 3),
                "ms, later launch": spread(later, 3),
                "ms, bare connections": spread(bare, 3),
                "ms of CPU, later launch": spread(cpu, 3),
                "ms of CPU, bare connections": spread(bare_cpu, 3),
                "times the bare CPU": ratio(bare_cpu, cpu),
            }
        )
    document = {"machine": machine(), "load": load.facts(), "turns of each": repeat, "rows": rows}
    write("launches", document, **({} if folder is None else {"folder": folder}))
    return document
