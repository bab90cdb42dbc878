"""Runs a random case in this process: threads as ranks, real receivers, sockets and shared memory.

``python tests/faults/random_runs.py SEED [TIMES]`` repeats a case that failed.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import random_cases
from random_cases import Case, Field, poison

from ips_components.bridge import Bridge
from ips_components.bridge.statistics import BridgeStatistics
from ips_components.model.contract import Contract
from ips_components.model.placement import replace
from ips_components.receiver.receiver import Receiver
from ips_components.wire import contact as contacts

RUN, TOKEN = "random-run", "7a" * 32
PATIENCE = 60.0
"""Seconds after which a run that has not ended hangs; every deadline inside it is shorter."""
DEADLINES = {"connect": 10.0, "contract": 20.0, "step": 25.0, "drain": 20.0}
AMPLE = 256 << 20
MOST_CUTS = 60  # what is cut for ever gets nothing done


class Wrong(AssertionError):
    """A run broke the law: what, the case, and how to repeat it."""

    def __init__(self, case: Case, what: list[str]) -> None:
        again = f"python tests/faults/random_runs.py {case.seed}"
        super().__init__("\n".join([*what, str(case), f"again: {again}"]))


class Ranks:
    """A communicator of threads."""

    class Of:
        """One rank's view of it."""

        def __init__(self, ranks: Ranks, rank: int) -> None:
            self._ranks, self.rank, self.size = ranks, rank, ranks.size

        def bcast(self, value: Any, root: int = 0) -> Any:
            """Give the root's object to all."""
            if self.rank == root:
                self._ranks.value = value
            self._ranks.barrier.wait(PATIENCE)
            value = self._ranks.value
            self._ranks.barrier.wait(PATIENCE)
            return value

        def gather(self, value: Any, root: int = 0) -> list[Any] | None:
            """Give all objects to the root."""
            self._ranks.values[self.rank] = value
            self._ranks.barrier.wait(PATIENCE)
            values = list(self._ranks.values) if self.rank == root else None
            self._ranks.barrier.wait(PATIENCE)
            return values

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.value: Any = None
        self.values: list[Any] = [None] * size


class Ear:
    """The sink of one receiver: passes on to the analysis, which is one thread."""

    def __init__(self, number: int, analysis: Analysis) -> None:
        self.number, self.analysis = number, analysis
        self.byes: dict[int, Any] = {}
        self.lost_ranks: dict[int, str] = {}

    def chunk(self, array, chunk, value, nbytes):
        self.analysis.queue.put(("chunk", self.number, (array, chunk), value))

    def missing(self, array, chunk, rank, why):
        self.analysis.queue.put(("missing", self.number, (array, chunk), why))

    def described(self, arrays):
        self.analysis.described.set()

    def bye(self, rank, info):
        self.byes[rank] = info

    def lost(self, rank, why):
        self.lost_ranks[rank] = why

    def fault(self, text):
        self.analysis.wrong.append(f"receiver {self.number}: fault: {text}")

    def hello(self, info):
        pass

    def blocks(self, rank, array, blocks):
        pass

    def step_end(self, rank, info):
        pass


class Analysis:
    """Compares chunks with NumPy, keeps some of them, and lets a receiver die.

    One thread takes everything; the others read what it has noted under ``changed``.
    """

    def __init__(self, case: Case, contract: Contract) -> None:
        self.case, self.contract = case, contract
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.changed = threading.Condition()
        self.described = threading.Event()
        self.wrong: list[str] = []
        self.counts: Counter[tuple[int, int]] = Counter()
        self.missed: dict[tuple[int, int], str] = {}
        self.dead: set[int] = set()
        self.receivers: list[Receiver] = []
        self.kept: deque[tuple[tuple[int, int], Any]] = deque()
        self.needed = {
            (ordinal, int(chunk))
            for ordinal, array in enumerate(contract.arrays)
            for chunk in array.needed_ids()
        }
        self._most = {"none": 0, "few": case.rng("kept").randint(1, 5), "all": random_cases.NEVER}
        self._thread = threading.Thread(target=self._run, name="analysis")
        self._thread.start()

    def awaited(self) -> set[tuple[int, int]]:
        """Chunks that have not come and were not said to be missing."""
        return self.needed - self.counts.keys() - self.missed.keys()

    def stop(self) -> None:
        """End the thread, when it has taken what is there."""
        self.queue.put(None)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        try:
            while (item := self.queue.get()) is not None:
                kind, number, key, what = item
                if kind == "pressure":
                    self._release(0)
                elif number not in self.dead:
                    with self.changed:
                        if kind == "chunk":
                            self._take(number, key, what)
                        else:
                            self.missed[key] = what
                        self.changed.notify_all()
                del item, what
                self._die_in_time()
            while self.kept:
                self._release(0)
        except BaseException:
            self.wrong.append(traceback.format_exc())

    def _take(self, number: int, key: tuple[int, int], value: Any) -> None:
        if key not in self.needed:
            self.wrong.append(f"no receiver wanted array {key[0]}, chunk {key[1]}")
            return
        self.counts[key] += 1
        if self.counts[key] > 1:
            self.wrong.append(f"array {key[0]}, chunk {key[1]} has come twice, to {number}")
        self._compare(key, value, "as it came")
        self.kept.append((key, value))
        del value
        self._release(self._most[self.case.keep])

    def _release(self, most: int) -> None:
        while len(self.kept) > most:
            key, value = self.kept.popleft()
            self._compare(key, value, "when it was released")

    def _compare(self, key: tuple[int, int], value: Any, when: str) -> None:
        ordinal, chunk = key
        array = self.contract.arrays[ordinal]
        expected = self.case.arrays[ordinal].chunk(array, chunk, self.case.ranks)
        same = (
            value.dtype == expected.dtype
            and value.shape == expected.shape
            and value.tobytes() == expected.tobytes()
        )
        if not same:
            t = array.chunk_selection(chunk).start[0]
            self.wrong.append(
                f"array {ordinal}, chunk {chunk} (time index {t}) is wrong {when}: expected\n"
                f"{expected.dtype} {expected.shape} {expected}\ngot\n"
                f"{value.dtype} {value.shape} {value}"
            )

    def _die_in_time(self) -> None:
        if self.case.doomed is None or self.dead or not self.receivers:
            return
        doomed, after = self.case.doomed
        if sum(self.counts.values()) < after:
            return
        self.kept.clear()
        self.receivers[doomed].close()
        with self.changed:
            self.dead.add(doomed)
        self._replan()

    def _replan(self) -> None:
        """Do what the coordinator does when a receiver is gone (`Placer.replan`)."""
        awaited = self.awaited()
        living = [i for i in range(self.case.receivers) if i not in self.dead]
        resend: dict[int, list[tuple[int, int]]] = {i: [] for i in living}
        skip: dict[int, list[tuple[int, int]]] = {i: [] for i in living}
        rows, arrays = {}, []
        for ordinal, array in enumerate(self.contract.arrays):
            now = replace(array.placement, living, needed=array.needed_space)
            n_space, end = array.layout.n_space, array.layout.numblocks[0]
            since = min((c for a, c in awaited if a == ordinal), default=end * n_space) // n_space
            rows[ordinal] = (since, end)
            for chunk in array.needed_ids(since, end).tolist():
                owner = now.owner(chunk)
                if owner != array.placement.owner(chunk):
                    coming = (ordinal, chunk) in awaited
                    (resend if coming else skip)[owner].append((ordinal, chunk))
            arrays.append(array.with_placement(now))
        self.contract = Contract(self.contract.run, tuple(arrays))
        endpoints = [self.receivers[i].endpoint for i in living]
        placements = {i: array.placement for i, array in enumerate(arrays)}
        for i in living:
            self.receivers[i].set_placement(
                placements, endpoints, resend[i], epoch=1, rows=rows, skip=skip[i]
            )


def budget_of(case: Case, contract: Contract) -> int:
    """The bytes that a receiver may use."""
    if not case.share or any(one.ragged for one in case.arrays):
        return AMPLE
    # All rows that hold a step are open at once: less would be too little for any order of puts.
    need = 0
    for array in contract.arrays:
        rows: Counter[int] = Counter()
        for chunk in array.needed_ids().tolist():
            nbytes = int(np.prod(array.chunk_shape(chunk))) * array.spec.itemsize
            rows[chunk // array.layout.n_space] += nbytes
        need += max(rows.values())
    return int(need * case.share)


def simulate(case: Case, rank: int, comm: Any, contact: Path) -> BridgeStatistics:
    """One rank."""
    rng = case.rng(rank)
    how = {"comm": comm} if comm else {"rank": rank, "size": case.ranks}
    arrays = [field.described(rank) for field in case.arrays]
    with Bridge(contact=contact, arrays=arrays, **how) as bridge:
        for step in range(case.steps):
            if case.pace:
                time.sleep(rng.uniform(0, case.pace))
            for field in rng.sample(case.arrays, len(case.arrays)):
                if step in field.steps:
                    _put(bridge, field, rank, step, rng)
            if rng.random() < 0.1:
                bridge.step_end(step)
        if rng.random() < 0.3:
            bridge.wait()
    return bridge.statistics()


def _put(bridge: Bridge, field: Field, rank: int, step: int, rng: Any) -> None:
    if field.ragged:
        rows = field.rows(rank, step)
        bridge.put(field.name, step, rows)
        poison(rows)
        return
    blocks = list(field.blocks(rank, step))
    alone = len(blocks) == len(field.tilings) == 1
    rng.shuffle(blocks)
    with ExitStack() as stack:
        for block, cells in blocks:
            offset = None if alone else block.offset
            if field.how != "block":
                bridge.put(field.name, step, cells, offset=offset)
                poison(cells)  # it is the caller's again
                continue
            memory = bridge.block(field.name, step, offset=offset)
            if rng.random() < 0.5:
                with memory as inside:
                    inside[...] = cells
            else:  # several at once
                stack.enter_context(memory)[...] = cells


def run(case: Case, directory: Path) -> None:
    """Run a case.

    Raises
    ------
    Wrong
        When what came differs from NumPy without a cause, or something hangs.
    """
    contract = Contract(
        RUN, tuple(field.agree(RUN, range(case.receivers)) for field in case.arrays)
    )
    analysis = Analysis(case, contract)
    ears = [Ear(i, analysis) for i in range(case.receivers)]
    budget = budget_of(case, contract)
    receivers = [
        Receiver(
            ear,
            run=RUN,
            token=TOKEN,
            budget=budget,
            ordinal=i,
            hold_byes=case.doomed is not None,
            on_pressure=lambda nbytes: analysis.queue.put(("pressure", 0, None, nbytes)),
            pressure_after=0.02,
        )
        for i, ear in enumerate(ears)
    ]
    endpoints = tuple(receiver.endpoint for receiver in receivers)
    names = ("lanes", "replay_steps", "slot_bytes")
    options = {name: getattr(case, name) for name in names}
    path = directory / "contact.json"
    contacts.write(path, contacts.Contact(RUN, TOKEN, endpoints, DEADLINES, options))
    analysis.receivers = receivers
    comm = Ranks(case.ranks)
    outcomes: list[Any] = [None] * case.ranks
    ended = threading.Event()

    def rank(number: int) -> None:
        own = Ranks.Of(comm, number) if case.together else None
        try:
            outcomes[number] = simulate(case, number, own, path)
        except BaseException as error:
            outcomes[number] = error
            comm.barrier.abort()
            with analysis.changed:
                analysis.changed.notify_all()

    def cut() -> None:
        rng = case.rng("cuts")
        for _ in range(MOST_CUTS):
            if ended.wait(rng.uniform(case.cuts / 10, case.cuts)):
                return
            for receiver in receivers:
                for connection in receiver.connections():
                    if rng.random() < 0.7:
                        connection.shut("cut by the test")

    def agree() -> None:
        if case.late and not analysis.described.wait(20):
            analysis.wrong.append("rank 0 has described nothing")
        for receiver in receivers:
            receiver.set_size(case.ranks)  # a rank may have nothing for some of them
            receiver.set_contract(contract, endpoints)

    threads = [threading.Thread(target=agree, name="agree")]
    if case.cuts:
        threads.append(threading.Thread(target=cut, name="cut"))
    ranks = [
        threading.Thread(target=rank, args=(i,), name=f"rank {i}", daemon=True)
        for i in range(case.ranks)
    ]
    if not case.late:
        threads.pop(0).run()
    for thread in (*threads, *ranks):
        thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        with analysis.changed:
            analysis.changed.wait_for(
                lambda: (
                    not analysis.awaited() or any(isinstance(o, BaseException) for o in outcomes)
                ),
                PATIENCE,
            )
        for receiver in receivers:
            receiver.release_ranks()
        for thread in ranks:
            thread.join(max(0.0, deadline - time.monotonic()))
        if hung := [thread.name for thread in ranks if thread.is_alive()]:
            analysis.wrong += [f"{hung} did not end in {PATIENCE:g} s", _stacks()]
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
        analysis.stop()
        _check(case, analysis, ears, outcomes)
        analysis.kept.clear()
        threads.clear()
        _check_memory(case, analysis, receivers)
        for receiver in receivers:
            receiver.close()
        if analysis.wrong:
            raise Wrong(case, analysis.wrong)


def _check(case: Case, analysis: Analysis, ears: list[Ear], outcomes: list[Any]) -> None:
    wrong = analysis.wrong
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, BaseException):
            wrong += [f"rank {number}:", *traceback.format_exception(outcome)]
    # A goodbye to one receiver is enough: another one may just have been cut off (as the
    # coordinator sees it: `RunState.rank_lost`).
    left = {rank for ear in ears for rank in ear.byes}
    for ear in ears:
        for rank, why in ear.lost_ranks.items():
            if rank not in left:
                wrong.append(f"receiver {ear.number}: rank {rank} lost: {why}")
    drops = {i for i, field in enumerate(case.arrays) if field.policy == "drop"}
    for key, why in analysis.missed.items():
        dropped = key[0] in drops and "dropped" in why
        replayed = case.doomed is not None and "replay buffer" in why
        if not dropped and not replayed:
            wrong.append(f"array {key[0]}, chunk {key[1]} is missing without a cause: {why}")
        # Rows whose size is not known yet are taken one at a time, and hold up what follows them.
        ragged = any(field.ragged for field in case.arrays)
        ample = budget_of(case, analysis.contract) == AMPLE and not ragged
        if dropped and ample:
            wrong.append(f"array {key[0]}, chunk {key[1]} was dropped by an empty receiver")
    for key in sorted(analysis.awaited()):
        wrong.append(f"array {key[0]}, chunk {key[1]} has never come")
    if any(outcome is None or isinstance(outcome, BaseException) for outcome in outcomes):
        return
    for number, outcome in enumerate(outcomes):
        byes = [ear.byes[number] for ear in ears if number in ear.byes]
        if not byes or any(bye.status != "ok" for bye in byes):
            wrong.append(f"rank {number} has left with {byes}")
        for field in case.arrays:
            blocks = outcome.arrays[field.name]["blocks"]
            rest = [blocks[k] for k in ("skipped", "delivered", "dropped", "lost")]
            put = sum(
                1 if field.ragged else len(field.tilings[step % len(field.tilings)][number])
                for step in field.steps
            )
            lost_is_wrong = case.doomed is None and blocks["lost"]
            if blocks["produced"] != put or sum(rest) != put or lost_is_wrong:
                wrong.append(f"rank {number}, array {field.name}: {put} puts, account {blocks}")
            if blocks["dropped"] and field.policy != "drop":
                wrong.append(f"rank {number}, array {field.name} has dropped blocks: {blocks}")


def _check_memory(case: Case, analysis: Analysis, receivers: list[Receiver]) -> None:
    """Everything is given back when it is not needed any more."""
    deadline = time.monotonic() + 10
    while True:
        gc.collect()
        left = [
            (i, numbers)
            for i, receiver in enumerate(receivers)
            if i not in analysis.dead
            and ((numbers := receiver.statistics()).held or numbers.pool_leased)
        ]
        if not left or time.monotonic() > deadline:
            break
        threading.Event().wait(0.01)
    if left and not analysis.wrong:
        analysis.wrong.append(f"memory is not given back: {left}")


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"--- {names.get(ident)}\n{''.join(traceback.format_stack(frame)[-6:])}"
        for ident, frame in sys._current_frames().items()
    )


def main() -> None:
    """Repeat a case."""
    seed, times = int(sys.argv[1]), int((*sys.argv[2:], "1")[0])
    case = random_cases.case(seed)
    print(case)
    for n in range(times):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            run(case, Path(directory))
        print(f"right, {n + 1} of {times}, {time.monotonic() - began:.2f} s", flush=True)


if __name__ == "__main__":
    main()
