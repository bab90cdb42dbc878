"""Receivers and ranks of a run, as they connect, leave, and become silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.ending import Ending
from ips_components.coordination.messages import (
    ArraysDescribed,
    LaunchExpected,
    RankBlocks,
    RankBye,
    RankHello,
    RankLost,
    ReceiverOpened,
    ReleaseRanks,
)
from ips_components.coordination.outbox import Outbox
from ips_components.coordination.placement import Placer
from ips_components.coordination.watchdog import liveness_limit, missing_ranks, silent_workers
from ips_components.errors import ContractError, GeometryError
from ips_components.model.block import Block
from ips_components.model.decomposition import Decomposition
from ips_components.model.launch_steps import whole_axis


class Membership:
    """Owns which receivers and ranks take part in a run.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    outbox : Outbox
    placer : Placer
    ending : Ending
    greet : callable
        ``greet(run, worker)``: called when the receiver of a worker has opened.
    over : callable
        ``over(run)``: called when all ranks have said goodbye or are lost.
    """

    def __init__(
        self,
        scheduler: Any,
        outbox: Outbox,
        placer: Placer,
        ending: Ending,
        greet: Callable[[CoordinatedRun, str], None],
        over: Callable[[CoordinatedRun], None],
    ) -> None:
        self._greet, self._over = greet, over
        self._scheduler = scheduler
        self._outbox = outbox
        self._placer = placer
        self._ending = ending

    # -- receivers ---------------------------------------------------------------------

    def receiver_opened(self, run: CoordinatedRun, worker: str, event: ReceiverOpened) -> None:
        if event.settings and not run.state.attempts:  # no analysis has said more yet
            run.settings = dict(event.settings)
        run.plugin = event.plugin
        ordinal = len(run.state.endpoints)
        run.workers[worker] = ordinal
        run.state.endpoints[ordinal] = {
            **event.endpoint,
            "ordinal": ordinal,
            "receiver": ordinal,
            "address": worker,
        }
        if run.answered:
            self._placer.send_contract(run, [worker])
            if run.state.phase == "running":
                self._placer.share(run, ordinal)
        if run.launches:
            launch = run.launches[-1].message(run.settings["launches"])
            self._outbox.send(run, launch, [worker])
        if run.over:
            self._outbox.send(run, ReleaseRanks(), [worker])
        self._greet(run, worker)

    def worker_left(self, run: CoordinatedRun, worker: str) -> None:
        """A worker has left the Dask cluster, with its receiver if it had one."""
        ordinal = run.workers.pop(worker, None)
        run.expecting.discard(worker)
        if ordinal is None:
            return
        self._ending.ranks_left(run, worker)
        run.notify()
        if run.over:
            return
        run.state.fault(f"worker {worker}", "lost", "left the Dask cluster")
        if not run.workers:
            self._ending.fail(run, "analytics", "lost", "the last Dask worker is gone")
        elif run.answered:
            self._placer.replan(run)
            self._ending.flushed(run, worker)

    # -- ranks -------------------------------------------------------------------------

    def described(self, run: CoordinatedRun, worker: str, event: ArraysDescribed) -> None:
        if run.state.described is None:
            launches = run.settings.get("launches", {})
            try:
                run.state.described = [whole_axis(array, launches) for array in event.arrays]
            except ContractError as error:
                self._ending.fail(
                    run, "simulation", "contradicts its config", str(error), policy="abort"
                )

    def hello(self, run: CoordinatedRun, worker: str, event: RankHello) -> None:
        if wrong := self._is_not_of_run(run, event):
            self._ending.fail(run, "simulation", "was started wrongly", wrong, policy="abort")
            return
        expected = run.settings.get("n_ranks")
        if run.state.n_ranks is None and expected not in (None, event.size):
            # No error: a program may open its bridge on some of its ranks, or be a script that
            # launches more. Where all ranks were meant, the second one to come is refused below.
            text = (
                f"NPROC is {expected}, and the communicator of its bridge has {event.size} "
                f"rank{'' if event.size == 1 else 's'}; if all {expected} were meant: {REMEDY}"
            )
            run.state.fault("simulation", "notes", text)
        run.state.hello(event.rank, event.to_plain())
        if event.asks:
            run.begun[event.rank] = event.step
            if event.rank == 0 and run.state.described is None:
                run.nothing_described = True
        if event.asks and not run.asked:
            run.asked, run.hosts = True, list(event.hosts)
            run.asked_at = time.time()
            if run.state.phase == "running":
                self._placer.answer(run)
        if event.blocks and not any(event.blocks.values()):
            run.state.without_cells.add(event.rank)
        for name, blocks in event.blocks.items():
            self.blocks(run, worker, RankBlocks(event.rank, name, blocks))

    def _is_not_of_run(self, run: CoordinatedRun, event: RankHello) -> str:
        """Return why a rank cannot be one of the program that is coupled; empty if it can."""
        known = run.state.ranks.get(event.rank)
        if known is None:
            return ""
        if run.state.n_ranks not in (None, event.size):
            return (
                f"one program has {run.state.n_ranks} ranks, another {event.size}{_nproc(run)}: "
                f"{REMEDY}"
            )
        process, other = (event.host, event.pid), (known.get("host"), known.get("pid"))
        if process != other and event.rank not in run.state.lost_ranks:
            return (
                f"2 programs of {event.size} rank{'' if event.size == 1 else 's'}{_nproc(run)}: "
                f"process {event.pid} on {event.host} and process {known.get('pid')} on "
                f"{known.get('host')} are both rank {event.rank}: {REMEDY}"
            )
        return ""

    def blocks(self, run: CoordinatedRun, worker: str, event: RankBlocks) -> None:
        run.blocks.setdefault(event.name, {})[event.rank] = tuple(
            Block(tuple(offset), tuple(shape)) for offset, shape in event.blocks
        )
        self.check_tiling(run, event.name)

    def check_tiling(self, run: CoordinatedRun, name: str) -> None:
        """Fail the run unless every cell belongs to exactly one block, once all are known."""
        blocks = run.blocks[name]
        if run.contract is None or len(blocks) != run.state.n_ranks:
            return
        spec = run.contract[name].spec
        try:
            by_rank = tuple(blocks[rank] for rank in range(len(blocks)))
            Decomposition(spec.shape, by_rank).validate(name)
        except GeometryError as error:
            self._ending.fail(
                run, "simulation", "described wrong blocks", str(error), policy="abort"
            )

    def bye(self, run: CoordinatedRun, worker: str, event: RankBye) -> None:
        run.state.bye(event.rank, event.status, event.counters, event.last_step)
        if event.status != "ok":
            if _is_retried(run):
                run.state.fault(f"rank {event.rank}", "ended with an error", event.reason)
                return
            self._ending.fail(run, f"rank {event.rank}", "ended with an error", event.reason)
        elif run.over:
            self._outbox.send(run, ReleaseRanks())
        elif run.state.simulation_over:
            self._ending.ranks_closed(run)
        self._gone(run)

    def lost(self, run: CoordinatedRun, worker: str, event: RankLost) -> None:
        if run.state.rank_lost(event.rank, event.why) and not _is_retried(run):
            self._ending.fail(run, f"rank {event.rank}", "lost", event.why)
        self._gone(run)

    def _gone(self, run: CoordinatedRun) -> None:
        if run.state.simulation_over:
            self._over(run)
        self._ending.retire_if_over(run)

    def launch_expected(self, run: CoordinatedRun, worker: str, event: LaunchExpected) -> None:
        if run.launches and run.launches[-1].number == event.launch:
            run.expecting.discard(worker)

    # -- silence -----------------------------------------------------------------------

    async def check_liveness(self, run: CoordinatedRun) -> None:
        """Give up the ranks that do not come and the workers that give no sign of life."""
        if run.state.phase == "failed":
            return
        now = time.time()
        deadlines = run.settings["deadlines"]
        if not run.answered and run.asked and now - run.asked_at > 0.95 * deadlines["contract"]:
            self._ending.fail(run, "analysis", "gave no contract", _no_contract(run, deadlines))
        elif run.answered and not run.over:
            for rank in missing_ranks(run.state, run.answered_at, deadlines["connect"], now):
                why = f"it said no hello within {deadlines['connect']:g} s of the contract"
                self.lost(run, "", RankLost(rank, why))
        limit = liveness_limit(deadlines)
        for worker, seconds in silent_workers(
            self._scheduler.workers, list(run.workers), limit, now
        ):
            run.state.fault(f"worker {worker}", "silent", f"no heartbeat for {seconds:.0f} s")
            await self._scheduler.remove_worker(worker, stimulus_id=f"external-silent-{now}")


def _nproc(run: CoordinatedRun) -> str:
    """Return what the config says about the number of ranks, for messages."""
    expected = run.settings.get("n_ranks")
    return "" if expected is None else f", where NPROC is {expected}"


def _is_retried(run: CoordinatedRun) -> bool:
    """Whether a launch that fails is launched again, so that its ranks may die."""
    return bool(run.settings.get("launches", {}).get("retry")) and run.between_launches


def _no_contract(run: CoordinatedRun, deadlines: Mapping[str, float]) -> str:
    """Return why the ranks still wait for their contract."""
    seconds = f"{deadlines['contract']:g} s (CONTRACT_TIME_OUT) after rank 0 asked for the contract"
    if not run.state.attempts:
        return f"the analysis has not been started {seconds}"
    return (
        f"the analysis function has neither returned its results nor committed them {seconds}; it "
        "must describe results lazily, without a loop that waits for data"
    )


REMEDY = (
    "is mpiexec of another MPI than the one the program is linked to, or do two communicators of "
    "one program open a bridge each?"
)
