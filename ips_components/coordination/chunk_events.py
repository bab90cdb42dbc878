"""What happens to the chunks of a run in Dask, and what follows from it for the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.ending import Ending, describe_chunk
from ips_components.coordination.messages import ChunkMissing
from ips_components.coordination.placement import Placer
from ips_components.errors import ExternalTaskError, StepPassed
from ips_components.wire.messages import Dropped


class ChunkEvents:
    """Observes the external tasks of all runs.

    Parameters
    ----------
    find : callable
        ``find(run id)`` returns the run, or None.
    tasks : ExternalTasks
    placer : Placer
    ending : Ending
    """

    def __init__(
        self,
        find: Callable[[str], CoordinatedRun | None],
        tasks: Any,
        placer: Placer,
        ending: Ending,
    ) -> None:
        self._find = find
        self._tasks = tasks
        self._placer = placer
        self._ending = ending

    def observe(self, kind: str, keys: list[Any], info: Mapping[str, Any]) -> None:
        """Observer of the external tasks; ask again for what was lost."""
        run = self._find(info["group"])
        if run is None or run.contract is None:
            return
        if kind in ("in_memory", "erred"):
            run.again.difference_update(keys)
            self._ending.conclude(run)
        elif kind == "released":
            self._note_analysed(run, keys)
        elif kind in ("lost", "wanted_again"):
            if run.state.left_out is not None:
                self._ending.fill(run, keys)
                return
            gone = keys
            if not run.over:
                gone = [key for key in keys if _is_of_earlier_launch(run, key)]
                self._placer.request_resend(run, [key for key in keys if key not in gone])
            if gone:
                self._ending.give_up(run, gone)
        run.notify()

    def missing(self, run: CoordinatedRun, worker: str, event: ChunkMissing) -> None:
        contract = run.agreed.arrays[event.array]
        text = (
            f"array {contract.spec.name!r}, {describe_chunk(contract, event.chunk)}: "
            f"the part of rank {event.rank} will not come: {event.why}"
        )
        run.state.fault(f"worker {worker}", "chunk lost", text)
        if run.settings.get("leave_out"):
            self._ending.fail(run, f"rank {event.rank}", "lost a chunk", text)
            return
        error = StepPassed if event.why == Dropped.WHY_PASSED else ExternalTaskError
        self._tasks.fail([contract.key(event.chunk)], error(text))

    def _note_analysed(self, run: CoordinatedRun, keys: list[Any]) -> None:
        """The last consumer of these chunks is done: their steps count as analysed."""
        arrays = {array.name: array for array in run.agreed.arrays}
        for name, row, *_ in keys:
            array = arrays[name]
            first, stop = array.layout.bounds(0, row)
            for index in range(first, stop):
                run.state.analysed(array.spec.steps.step(index))


def _is_of_earlier_launch(run: CoordinatedRun, key: Any) -> bool:
    """Whether a chunk has steps of a launch whose ranks are not there any more."""
    if not run.launches:
        return False
    array = next(array for array in run.agreed.arrays if array.name == key[0])
    first = array.spec.steps.step(array.layout.bounds(0, key[1])[0])
    return run.idle or first < run.launches[-1].first_step
