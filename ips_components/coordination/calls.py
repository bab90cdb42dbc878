"""Calls of the analysis: open a run, sign its contract, commit its graph, finish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.ending import Ending
from ips_components.coordination.messages import (
    Await,
    AwaitDescription,
    Check,
    Commit,
    DeclareAhead,
    EndWindows,
    Feedback,
    Finish,
    Open,
    Publish,
    ReleaseKeys,
    ReleaseSteps,
    SendFeedback,
    SendStop,
    SetHorizon,
    Sign,
    Stop,
    WindowsSaved,
)
from ips_components.coordination.outbox import Outbox
from ips_components.coordination.placement import Placer
from ips_components.errors import ContractError
from ips_components.external.groups import Observer
from ips_components.model.array_contract import ArrayContract
from ips_components.model.contract import Contract


class AnalysisCalls:
    """Answers an analysis; owns the contract and the graph of a run.

    Parameters
    ----------
    tasks : ExternalTasks
    outbox : Outbox
    placer : Placer
    ending : Ending
    observe : callable
        Observer of the external tasks that are declared.
    opened : callable
        Called when an analysis has opened a run.
    """

    def __init__(
        self,
        tasks: Any,
        outbox: Outbox,
        placer: Placer,
        ending: Ending,
        observe: Observer,
        opened: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._scheduler = tasks.scheduler
        self._outbox = outbox
        self._placer = placer
        self._ending = ending
        self._observe = observe
        self._opened = opened

    async def open(self, run: CoordinatedRun, call: Open) -> dict[str, Any]:
        run.settings = call.settings
        run.state.attempts += 1
        if path := call.settings.get("task_log"):
            try:
                self._tasks.log.write_to(path, group=run.state.run)
            except OSError as error:  # a run is worth more than its log
                run.state.fault("scheduler", "cannot write", f"{path}: {error.strerror}")
        self._opened()
        return {"results": run.results, "outcome": run.outcome}

    async def described(self, run: CoordinatedRun, call: AwaitDescription) -> list[dict[str, Any]]:

        await self._first_launch(run)

        def arrays() -> list[dict[str, Any]] | None:
            run.raise_if_failed()
            if run.state.described is None and (fault := run.state.left_out) is not None:
                raise ContractError(
                    f"{run.settings.get('simulation')} failed before it had described its arrays, "
                    "and so cannot be left out of the run: describe them in the config, section "
                    f"[[ARRAYS]]; {fault.who} {fault.what}: {fault.cause}"
                )
            if run.state.described is None and run.nothing_described:
                raise ContractError(
                    "no array is described: rank 0 of the simulation has asked for the contract "
                    "without describing any, and the config has none; describe what is put where "
                    "the bridge is opened (Bridge(arrays=[Array(...)]), ips_bridge_declare) or in "
                    "the config, below [[ARRAYS]] in the section of the analytics"
                )
            return run.state.described

        described: list[dict[str, Any]] = await run.until(
            arrays,
            call.timeout,
            "rank 0 of the simulation to describe its arrays (neither the config nor "
            "the simulation has done so)",
        )
        return described

    async def _first_launch(self, run: CoordinatedRun) -> None:
        """Wait until the workflow launches the simulation, which may be long after the start."""
        while run.settings.get("launches") and not (
            run.launches or run.closed or run.state.left_out
        ):
            run.raise_if_failed()
            await run.changed.wait()

    async def sign(self, run: CoordinatedRun, call: Sign) -> int:
        """Declare the external tasks of a contract; the same contract again changes nothing."""
        run.raise_if_failed()
        contract = Contract.from_bytes(call.blob)
        if run.contract is not None:
            again = f"run {run.state.run}: the analysis was started again after its worker died"
            if run.grows:
                raise ContractError(
                    f"{again}; a graph that grows with the steps cannot be resumed: give the "
                    "arrays a number that is never exceeded (STEPS = 0:1000 and AT_MOST = True)"
                )
            if call.ahead:
                raise ContractError(f"{again}; one that works with windows cannot be resumed")
            if run.contract.digest() == contract.digest():
                return 0
            raise ContractError(
                f"{again} and now asks for something else than its first contract; make the "
                "analysis deterministic so that it can be resumed"
            )
        run.agree(contract, call.blob)
        run.remarks = call.remarks or {}
        specs = *(array.spec for array in contract.arrays), *contract.unneeded
        run.state.ledger.declare(spec.name for spec in specs)
        declared = 0
        run.ahead = call.ahead
        for array in () if call.ahead else contract.arrays:
            declared += self._tasks.declare(
                array.name,
                array.layout.numblocks,
                array.needed,
                group=run.state.run,
                on_event=self._observe,
            )
        run.state.phase = "contracted"
        run.notify()
        return declared

    async def commit(self, run: CoordinatedRun, call: Commit) -> None:
        """Hold the results, release the external chunks, and send the contract to the ranks.

        Results are held by a client of the run's own, so that they outlive the worker that runs
        the analysis, which finds them by their names when it runs again.
        """
        keys = call.keys
        run.graph_keys = {key for key in keys if key not in self._scheduler.tasks}
        await run.until(
            lambda: not (run.graph_keys or set()) - self._scheduler.tasks.keys(),
            call.timeout,
            f"the scheduler to register the graph of {len(keys)} results",
        )
        run.graph_keys = None
        run.results = dict(zip(call.names, keys, strict=False))
        self._scheduler.client_desires_keys(keys=keys, client=run.holder)
        if not call.hold and run.has_tasks:
            self._tasks.release_group(run.state.run)
        if run.state.phase == "contracted":
            run.state.phase = "running"
            if run.asked:
                self._placer.answer(run)
            self._ending.committed(run)
        run.notify()

    async def declare_ahead(self, run: CoordinatedRun, call: DeclareAhead) -> bool:
        """Declare external tasks; return whether data may come for them."""
        if run.grows and run.over:
            return False
        keys, last_row = _keys_between(run.agreed.arrays[call.array], call.first, call.stop)
        self._tasks.declare_keys(keys, group=run.state.run, on_event=self._observe)
        run.horizon = {**run.horizon, call.array: last_row}
        self._outbox.send(run, SetHorizon(call.array, last_row))
        return True

    async def end_windows(self, run: CoordinatedRun, call: EndWindows) -> None:
        """Take what ranks put beyond the last window, and drop it: they must not wait for ever."""
        for ordinal, array in enumerate(run.agreed.arrays):
            wanted, end = run.horizon.get(ordinal, 0), array.layout.numblocks[0]
            run.wanted[ordinal], run.horizon[ordinal] = wanted, end
            self._outbox.send(run, SetHorizon(ordinal, end, wanted))

    async def release_steps(self, run: CoordinatedRun, call: ReleaseSteps) -> None:
        keys, _ = _keys_between(run.agreed.arrays[call.array], call.first, call.stop)
        self._tasks.release_keys(keys)

    async def release_keys(self, run: CoordinatedRun, call: ReleaseKeys) -> None:
        self._tasks.release_keys([tuple(key) for key in call.keys])

    async def publish(self, run: CoordinatedRun, call: Publish) -> None:
        run.published.add(call.step, call.values)

    async def awaits(self, run: CoordinatedRun, call: Await) -> None:
        run.awaited = call.keys

    async def windows_saved(self, run: CoordinatedRun, call: WindowsSaved) -> None:
        run.windows.note(call.number, call.wrong)
        run.notify()

    async def check(self, run: CoordinatedRun, call: Check) -> None:
        run.raise_if_failed()

    async def finish(self, run: CoordinatedRun, call: Finish) -> None:
        """Release what is held for the analysis."""
        run.outcome = call.outcome
        run.analysis_over = True
        if run.holder in self._scheduler.clients:
            self._scheduler.remove_client(run.holder)
        self._ending.retire_if_over(run)

    async def feedback(self, run: CoordinatedRun, call: Feedback) -> None:
        self._outbox.send(run, SendFeedback(call.message))

    async def stop(self, run: CoordinatedRun, call: Stop) -> None:
        run.state.stop_reason = call.reason
        self._outbox.send(run, SendStop(call.reason))


def _keys_between(array: ArrayContract, first: int, stop: int) -> tuple[list[Any], int]:
    """Keys of the chunks with time indices ``first .. stop - 1``, and the row after them."""
    rows = array.layout.chunk_of(0, first), array.layout.chunk_of(0, stop - 1) + 1
    return [array.key(int(chunk)) for chunk in array.needed_ids(*rows)], rows[1]
