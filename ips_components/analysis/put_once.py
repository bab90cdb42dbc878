"""Arrays that are put a known number of times, beside windows, and what a checkpoint has of them.

A run that goes on from a checkpoint does not get them again: its launches begin at later steps.
What had come is made of the checkpoint, under the keys that the ranks would have delivered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dask._task_spec import Task
from distributed import Client, Future

from ips_components.analysis.arrays import ExternalArray
from ips_components.analysis.views import Source, View
from ips_components.errors import ContractError
from ips_components.model.selection import Selection


@dataclass(frozen=True, slots=True)
class OnceState:
    """What is kept of arrays that are put once, by name; arrays of which nothing has come are not.

    Parameters
    ----------
    arrays
        All cells of the view that had come, in all dimensions.
    """

    arrays: dict[str, Any]


class PutOnce:
    """The arrays beside the windows of one run.

    Parameters
    ----------
    client
        Of the cluster.
    """

    def __init__(self, client: Client) -> None:
        self.over = True
        """A checkpoint after the last window need not have them."""
        self._client = client
        self._views: dict[str, View] = {}
        self._restored: dict[str, Any] = {}
        self._held: list[Future] = []

    def __contains__(self, source: Source) -> bool:
        return source.name in self._views

    @property
    def views(self) -> Iterable[View]:
        """What is needed of each array."""
        return self._views.values()

    def add(self, array: Any) -> None:
        """Add an array, or a view of one.

        Raises
        ------
        ContractError
            When it has no known number of steps, or was added before.
        """
        steps = array.spec.steps if isinstance(array, ExternalArray) else None
        if steps is None or steps.at_most or steps.open_ended:
            what = getattr(getattr(array, "spec", None), "name", type(array).__name__)
            raise ContractError(
                f"beside windows, {what!r} must be an external array with a known number of "
                "steps, such as one that is put once; give others to run.rolling itself"
            )
        if array.source in self:
            raise ContractError(f"array {array.spec.name!r} is beside windows twice")
        self._views[array.source.name] = array.external_view

    def refuse_unkept(self) -> None:
        """Raise if there is an array that no checkpoint can keep."""
        for view in self.views:
            if view.source.spec.ragged:
                raise ContractError(
                    f"array {view.source.spec.name!r} beside windows has rows of any number, which "
                    "no checkpoint keeps; give it to run.rolling itself, or take no checkpoints "
                    "(NUM_CHECKPOINT = 0 in [CHECKPOINT])"
                )

    # -- checkpoints ---------------------------------------------------------------------------

    def kind(self) -> dict[str, Any]:
        """Return what must be the same in a run that goes on."""
        return {
            "beside": [
                (view.source.spec.name, *((p.start, p.count, p.step) for p in view.selection.dims))
                for view in self.views
            ]
        }

    def at(self, step: int | None) -> OnceState:
        """Return what is to be kept when all steps before `step` have come; None: nothing more."""
        there = {}
        for view in self.views if step is not None else ():
            if (came := _came(view, step)) is not None:
                there[view.source.spec.name] = came
        values = self._client.gather(self._client.compute(list(there.values())))
        return OnceState(dict(zip(there, values, strict=True)))

    def restore(self, saved: OnceState) -> None:
        """Go on from a checkpoint."""
        self._restored = dict(saved.arrays)

    def provide(self, source: Source, came: int) -> None:
        """Make the chunks of an array before the time index `came` of what the checkpoint has."""
        contract, kept = source.contract, self._restored.pop(source.spec.name, None)
        if contract is None or kept is None:
            return
        outer = self._views[source.name].selection.dims
        tasks = {}
        for chunk in contract.needed_ids(0, source.layout.chunk_of(0, came - 1) + 1).tolist():
            inside = [
                part.within(whole)
                for part, whole in zip(contract.chunk_selection(chunk).dims, outer, strict=True)
            ]
            cut = tuple(slice(part.start, part.stop, part.step) for part in inside)
            key = contract.key(chunk)
            tasks[key] = Task(key, _value, kept[cut])
        self._held += self._client.get(tasks, list(tasks), sync=False)

    def release(self) -> None:
        """Leave what was made to the graphs that need it."""
        self._held = []


def _value(chunk: Any) -> Any:
    return chunk


def _came(view: View, step: int) -> Any:
    """Return, lazily and in all dimensions, the cells of a view that are put before a step."""
    source = view.source
    came = source.spec.steps.index_from(step)
    refuse_cut(source, came, step)
    time = view.selection.dims[0].clip(0, came)
    if not time.count:
        return None
    whole = Selection.of([time, *view.selection.dims[1:]])
    return ExternalArray(source.view(whole, tuple(range(whole.ndim))))


def refuse_cut(source: Source, index: int, step: int) -> None:
    """Raise if a chunk has steps on both sides of a time index, the first one of `step`."""
    count = source.spec.steps.count
    if index == 0 or index == count:
        return
    if source.layout.chunk_of(0, index - 1) == source.layout.chunk_of(0, index):
        raise ContractError(
            f"steps before and after {step} of array {source.spec.name!r} are in one chunk; "
            "choose chunks of time (CHUNKS) that end where launches end"
        )
