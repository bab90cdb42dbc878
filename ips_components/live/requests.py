"""Requests of an attached client: results of steps to come, each by a contract of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dask import is_dask_collection

from ips_components.analysis.arrays import ExternalArray, external_arrays
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import (
    AnalyticsLost,
    ContractError,
    IPSComponentsError,
    SelectionError,
    StepPassed,
)
from ips_components.live.attached_contract import AttachedContract, new_id
from ips_components.live.pace import REACTION, Pace
from ips_components.live.steps import Wanted, first_to_come, specs_of
from ips_components.live.watch import Batch
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire.contact import Certificates

if TYPE_CHECKING:
    from distributed import Client, Future

#: Times that a request for the next steps is made again, further ahead each time.
ATTEMPTS = 7


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be computed, and of which steps; see `LiveRun.compute`."""

    results: Any
    steps: Wanted

    @property
    def is_function(self) -> bool:
        """Whether it is a function of arrays; a Dask collection may be callable (`Delayed`)."""
        return callable(self.results) and not is_dask_collection(self.results)

    @property
    def can_move(self) -> bool:
        """Whether it may be made of later steps, since it names none."""
        return self.is_function and not isinstance(self.steps, slice | range)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request that is under way."""

    contract: AttachedContract
    futures: dict[str, Future]
    form: Callable[[Mapping[str, Any]], Any]  # puts values in the places of lazy results


class Requests:
    """Makes contracts for what an attached client asks, and submits it.

    Parameters
    ----------
    client
        Client of the run's scheduler.
    run, name
        The run, and the name of the attached client.
    facts
        What the coordinator has said of the run.
    specs
        Descriptions of the arrays.
    tls
        Certificates of the run, if it has any.
    pace
        Where the simulation is.
    progress
        Asks how far the run is; raises when it is not attached any more.
    """

    def __init__(
        self,
        client: Client,
        run: str,
        name: str,
        facts: Mapping[str, Any],
        specs: Sequence[ArraySpec],
        tls: Certificates | None,
        pace: Pace,
        progress: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._client, self._run, self._name = client, run, name
        self._facts, self._specs, self._tls = facts, specs, tls
        self._pace, self._progress = pace, progress
        self._lock = threading.Lock()
        self._offer: tuple[str, dict[str, Any]] | None = None

    def offer(self) -> Mapping[str, ExternalArray]:
        """Return lazy arrays of all steps, for results that are given instead of a function."""
        with self._lock:
            if self._offer is None:
                attached = new_id(self._run)
                self._offer = attached, self._arrays(attached, self._specs)
            return self._offer[1]

    def compute(self, request: Request) -> Any:
        """Compute, and wait for it; further ahead as long as the first step has passed."""
        margin, attempt = self._pace.margin(), 1
        while True:
            submitted = self._submit(request, margin)
            try:
                return submitted.form(self._client.gather(submitted.futures))
            except StepPassed as error:
                if not request.can_move or attempt == ATTEMPTS:
                    raise self._passed(error) from None
                margin, attempt = max(4, 4 * margin), attempt + 1
            finally:
                submitted.contract.end()

    def submit(self, request: Request) -> Any:
        """Submit, and return futures; the contract ends with the last of them."""
        submitted = self._submit_in_time(request)
        left = {future.key for future in submitted.futures.values()}

        def done(future: Future) -> None:
            left.discard(future.key)
            if not left:
                threading.Thread(
                    target=submitted.contract.end, name="attached", daemon=True
                ).start()

        for future in submitted.futures.values():
            future.add_done_callback(done)
        return submitted.form(submitted.futures)

    def _submit_in_time(self, request: Request) -> Submitted:
        """Submit, further ahead as long as the first step has passed when the ranks know of it."""
        margin = max(1, self._pace.margin())
        for _ in range(ATTEMPTS):
            submitted = self._submit(request, margin)
            if not request.can_move or not self._has_passed(submitted):
                break
            submitted.contract.end()
            margin *= 4
        return submitted

    def _has_passed(self, submitted: Submitted) -> bool:
        """Wait until the ranks have the contract and a moment longer; return whether it is late."""
        reaction = submitted.contract.wait_for_ranks()
        self._pace.reaction(reaction)

        def passed() -> bool:
            erred = [each for each in submitted.futures.values() if each.status == "error"]
            return any(isinstance(each.exception(), StepPassed) for each in erred)

        return bool(poll_until(passed, Deadline(max(REACTION, 2 * reaction)), pause=0.02))

    def _submit(self, request: Request, margin: int) -> Submitted:
        """Open a contract for these results, and submit them."""
        self._progress()
        if request.is_function:
            offered = None
            attached = new_id(self._run)
        else:
            if request.steps is not None:
                raise ContractError(
                    "steps belong to a function of arrays; lazy results of run.arrays have their "
                    "own steps, by slicing"
                )
            with self._lock:
                offered, self._offer = self._offer, None
            if offered is None:
                raise ContractError(
                    "these results are not of the present run.arrays: arrays are used up by the "
                    "first compute or submit; take them from run.arrays again"
                )
            attached = offered[0]
        contract = self._open(attached)
        try:
            first = self._first_of(contract)
            results = request.results
            if offered is None:
                ahead = margin if request.can_move else 0
                arrays = self._arrays(attached, specs_of(self._specs, request.steps, first + ahead))
                results = results(arrays)
            else:
                arrays = offered[1]
            named, form = _named(results)
            return Submitted(contract, contract.submit(named, arrays, first, "drop"), form)
        except BaseException:
            contract.end()
            raise

    # -- for `Watch` ---------------------------------------------------------------------

    def open_windows(
        self,
        function: Callable[..., Any],
        every: int,
        window: int,
        n: int,
        start: int,
        margin: int,
    ) -> Batch:
        """Open a contract over `n` windows, from a step on or from the next one that can be had."""
        self._progress()
        contract = self._open(new_id(self._run))
        try:
            margin = max(margin, self._pace.margin())
            ahead = margin if start < 0 else margin // 2  # it was opened early
            first = max(start, self._first_of(contract) + ahead)
            axis = self._specs[0].steps
            begin = axis.index_from(first)
            if start >= 0:  # windows stay a multiple apart
                begin += -(begin - axis.index_from(start)) % every
            if axis.count is not None:
                n = min(n, (axis.count - begin - window) // every + 1)
            if n < 1:
                raise SelectionError(f"run {self._run} has no further windows")
            mine = [each for each in self._specs if each.steps == axis]
            steps = StepAxis(axis.step(begin), axis.every, (n - 1) * every + window)
            arrays = self._arrays(contract.attached, [replace(each, steps=steps) for each in mine])
            lazy: dict[str, Any] = {}
            parts = []
            for i in range(n):
                at = slice(i * every, i * every + window)
                named, form = _named(function({name: each[at] for name, each in arrays.items()}))
                lazy |= {f"{i}/{name}": each for name, each in named.items()}
                parts.append((list(named), form))
            futures = contract.submit(lazy, arrays, 0, "drop")
            self._pace.reaction(contract.wait_for_ranks())
        except BaseException:
            contract.end()
            raise
        distance = every * axis.every
        windows = []
        for i, (names, form) in enumerate(parts):
            low = steps.start + i * distance
            own = {name: futures[f"{i}/{name}"] for name in names}
            windows.append((range(low, low + window * axis.every, axis.every), own, form))
        return Batch(contract, windows, n, steps.start + n * distance)

    def close_windows(self, batch: Batch) -> None:
        """End the contract of a batch."""
        batch.windows.clear()
        batch.contract.end()

    def is_over(self) -> bool:
        """Whether the simulation has ended, or nothing is known of it any more."""
        try:
            state = self._progress()
            return state["over"] or state["phase"] in ("ended", "failed")
        except (IPSComponentsError, OSError, TimeoutError):
            return True

    # -- internals -----------------------------------------------------------------------

    def _arrays(self, attached: str, specs: Iterable[ArraySpec]) -> dict[str, Any]:
        return external_arrays(
            list(specs), run=attached, n_receivers=int(self._facts["n_receivers"])
        )

    def _open(self, attached: str) -> AttachedContract:
        contract = AttachedContract(
            self._client, self._run, self._name, attached, self._facts, self._tls
        )
        contract.open()
        return contract

    def _first_of(self, contract: AttachedContract) -> int:
        """Return the first step that the ranks of a contract have not begun."""
        first = first_to_come(contract.begun, 0)
        self._pace.begun(contract.joined_at, first)
        return first

    def _passed(self, error: StepPassed) -> StepPassed:
        """Return an error that says what can be had."""
        try:
            self._progress()
        except (AnalyticsLost, OSError, TimeoutError):
            return error
        first = self._pace.newest + 1 + self._pace.margin()
        return type(error)(f"{error}; the first step that can be had now is about {first}")


def _named(results: Any) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], Any]]:
    """Return lazy results by name, and a function that puts values in their places."""
    if isinstance(results, Mapping):
        lazy = {str(k): v for k, v in results.items() if is_dask_collection(v)}
        plain = {k: v for k, v in results.items() if not is_dask_collection(v)}
        return _some(lazy), lambda found: {
            k: found[str(k)] if str(k) in lazy else plain[k] for k in results
        }
    if isinstance(results, list | tuple):
        kind = type(results)
        lazy = {str(i): v for i, v in enumerate(results) if is_dask_collection(v)}
        return _some(lazy), lambda found: kind(found.get(str(i), v) for i, v in enumerate(results))
    lazy = {"result": results} if is_dask_collection(results) else {}
    return _some(lazy), lambda found: found["result"]


def _some(lazy: dict[str, Any]) -> dict[str, Any]:
    if not lazy:
        raise ContractError(
            "there is no lazy result: give a function such as "
            "lambda arrays: arrays['temperature'].mean(), or lazy results of run.arrays"
        )
    return lazy
