"""A receiver with a sink that remembers, and what is needed to start ranks against it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ips_components.bridge import Bridge
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.placement import Placement
from ips_components.model.spec import ArraySpec
from ips_components.receiver.receiver import Receiver
from ips_components.wire import contact as contacts

RUN = "test-run"
TOKEN = "5e" * 32  # the same in all processes of a test
DEADLINE = 20.0


class RememberingSink:
    """Keeps all that a receiver reports; tests wait on it with a deadline."""

    def __init__(self, keep: bool = True) -> None:
        self.changed = threading.Condition()
        self.keep = keep
        self.hellos: list[Any] = []
        self.arrays: list[Any] = []
        self.chunks: dict[tuple[int, int], Any] = {}
        self.counts: dict[tuple[int, int], int] = {}
        self.missed: list[Any] = []
        self.steps: list[Any] = []
        self.times = []
        self.byes: dict[int, Any] = {}
        self.losses: dict[int, str] = {}
        self.faults: list[str] = []
        self.on_described: Callable[[Any], None] | None = None

    def _note(self, change: Callable[[], Any]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()

    def hello(self, info):
        self._note(lambda: self.hellos.append(info))

    def described(self, arrays):
        self._note(lambda: self.arrays.append(arrays))
        if self.on_described is not None:
            self.on_described(arrays)

    def chunk(self, array, chunk, value, nbytes):
        key = (array, chunk)

        def change():
            self.counts[key] = self.counts.get(key, 0) + 1
            self.chunks[key] = value if self.keep else None

        self._note(change)

    def missing(self, array, chunk, rank, why):
        self._note(lambda: self.missed.append((array, chunk, rank, why)))

    def step_time(self, rank, step, time):
        self._note(lambda: self.times.append((rank, step, time)))

    def step_end(self, rank, info):
        self._note(lambda: self.steps.append((rank, info)))

    def blocks(self, rank, array, blocks):
        pass

    def bye(self, rank, info):
        self._note(lambda: self.byes.__setitem__(rank, info))

    def lost(self, rank, why):
        self._note(lambda: self.losses.__setitem__(rank, why))

    def fault(self, text):
        self._note(lambda: self.faults.append(text))

    def wait(self, done: Callable[[], bool], timeout: float = DEADLINE) -> None:
        with self.changed:
            if not self.changed.wait_for(done, timeout):
                raise TimeoutError(
                    f"chunks {sorted(self.counts)}, byes {self.byes}, losses {self.losses}, "
                    f"faults {self.faults}, missed {self.missed}"
                )


def agree(*specs: ArraySpec, receivers: int = 1, **options: Any) -> Contract:
    """Return a contract over whole arrays."""
    return Contract(
        RUN,
        tuple(
            ArrayContract.agree(spec, run=RUN, receivers=range(receivers), **options)
            for spec in specs
        ),
    )


@contextmanager
def receivers(
    path: Path,
    contract: Contract | None,
    n: int = 1,
    *,
    budget: int = 64 << 20,
    keep: bool = True,
    contact_options: dict[str, Any] | None = None,
    deadlines: dict[str, float] | None = None,
    **options: Any,
) -> Iterator[tuple[Path, list[Receiver], list[RememberingSink]]]:
    """Start receivers, give them the contract, and write the contact file."""
    sinks = [RememberingSink(keep) for _ in range(n)]
    started = [
        Receiver(sink, run=RUN, token=TOKEN, budget=budget, ordinal=i, **options)
        for i, sink in enumerate(sinks)
    ]
    try:
        endpoints = tuple(receiver.endpoint for receiver in started)
        if contract is not None:
            for receiver in started:
                receiver.set_contract(contract, endpoints)
        file = path / "contact.json"
        contact = contacts.Contact(
            RUN,
            TOKEN,
            endpoints,
            {"connect": 5.0, "contract": 10.0, "step": 15.0, "drain": 10.0, **(deadlines or {})},
            contact_options or {},
        )
        contacts.write(file, contact)
        yield file, started, sinks
    finally:
        for receiver in started:
            receiver.close()


def together(n: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ranks as threads and return what they return, or raise the first error."""
    results: list[Any] = [None] * n
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError("a rank did not end")
    return results


@contextmanager
def joined(
    file: Path, contract: Contract, first: Receiver, sink: RememberingSink
) -> Iterator[tuple[Bridge, Callable[[int], None]]]:
    """Connect a bridge while a second receiver with `sink` is there.

    What comes with the bridge gives the chunks from a step on to that receiver, which asks for
    those of the step itself, and waits until the rank has heard it.
    """
    n_space = contract.arrays[0].layout.n_space
    with (
        Receiver(sink, run=RUN, token=TOKEN, budget=1 << 20, ordinal=1) as newcomer,
        Bridge(contact=file) as bridge,
    ):
        endpoints = (first.endpoint, newcomer.endpoint)
        newcomer.set_contract(contract, endpoints)
        delivery = bridge._delivery
        asked, send_again = threading.Event(), delivery._send_again

        def send_again_and_report(*args: Any) -> None:
            send_again(*args)
            asked.set()

        delivery._send_again = send_again_and_report

        def move(step: int) -> None:
            placement = Placement(1, 1, (1,) * n_space)
            chunks = [(0, chunk) for chunk in range(step * n_space, (step + 1) * n_space)]
            for receiver, again in ((first, []), (newcomer, chunks)):
                receiver.set_placement({0: placement}, endpoints, again, rows={0: (step, 60)})
            assert asked.wait(10)

        yield bridge, move


def assembled(contract: Contract, ordinal: int, sinks: list[RememberingSink]) -> np.ndarray:
    """Return an array of the contract, put together from all chunks that came."""
    array = contract.arrays[ordinal]
    cover = array.cover
    whole = np.zeros(cover.count, array.dtype)
    for sink in sinks:
        for (number, chunk), value in sink.chunks.items():
            if number == ordinal:
                where = array.chunk_selection(chunk).within(cover).to_slices()
                whole[where] = value
    return whole
