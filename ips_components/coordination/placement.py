"""Placement of a run: when its ranks come, when a receiver leaves, and when one joins.

Chunks are placed near the blocks that they are made of.  When a receiver leaves, its chunks go
to the others, which ask the ranks for what was on its way.  When one joins, it gets its share of
the steps that no rank has begun: what has been begun stays where it is.  If a rank is quicker
than expected, the newcomer asks for what was sent elsewhere.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.messages import RequestResend, SetContract, SetPlacement
from ips_components.coordination.outbox import Outbox
from ips_components.coordination.replay import what_replay_lacks
from ips_components.coordination.settings import RunSettings
from ips_components.model.block import Block
from ips_components.model.contract import ArrayContract
from ips_components.model.decomposition import Decomposition, dims_create
from ips_components.model.placement import affinity, place, replace, share, switch

logger = logging.getLogger(__name__)

#: Seconds within which every rank has received a new placement, as a rule.
SHARE_DELAY = 0.5
#: Rows of chunks beyond the newest known step that ranks may have sent already.
LOOK_AHEAD = 64


class Placer:
    """Owns the placement of the chunks of runs, and sends contract and placements.

    Parameters
    ----------
    tasks : ExternalTasks
    outbox : Outbox
    """

    def __init__(self, tasks: Any, outbox: Outbox) -> None:
        self._tasks = tasks
        self._outbox = outbox

    def answer(self, run: CoordinatedRun) -> None:
        """Send the contract to the receivers, placed near the blocks where that matters."""
        if not run.answered:
            self._account_for_all(run)
        contract = run.agreed
        hosts = self._hostnames(run)
        if self._count_cells(run, hosts):
            placements = {
                array.spec.name: place(array.layout, list(hosts), **_nearness(run, array, hosts))
                for array in contract.arrays
            }
            run.agree(contract.with_placements(placements))
        elif not all(set(a.placement.receivers) <= hosts.keys() for a in contract.arrays):
            self._place_again(run)  # a worker has died since the contract was made
        self._note_replay(run)
        run.answered, run.answered_at = True, run.state.clock()
        self.send_contract(run)

    def _account_for_all(self, run: CoordinatedRun) -> None:
        """Have ranks account for what their program describes and the contract leaves out."""
        contract = run.agreed
        known = {spec.name for spec in (*(a.spec for a in contract.arrays), *contract.unneeded)}
        described = RunSettings.specs_from(run.state.described or ())
        if more := [spec for spec in described if spec.name not in known]:
            run.agree(dataclasses.replace(contract, unneeded=(*contract.unneeded, *more)))
            run.state.ledger.declare(spec.name for spec in more)

    def _note_replay(self, run: CoordinatedRun) -> None:
        """Say, before the first step, what could not be sent again if a worker died."""
        names = ("replay_steps", "replay_bytes", "slot_bytes")
        if run.answered or not run.state.n_ranks or not all(name in run.settings for name in names):
            return
        numbers = (int(run.settings[name]) for name in names)
        lacks = what_replay_lacks(run.agreed.arrays, run.state.n_ranks, *numbers)
        if lacks:
            logger.warning("Run %s: %s", run.state.run, lacks)
            run.state.fault("the replay buffers", "note", lacks)

    def send_contract(self, run: CoordinatedRun, workers: Iterable[str] | None = None) -> None:
        """Send the contract to some workers, or to all."""
        for worker in list(run.workers) if workers is None else workers:
            action = SetContract(
                ordinal=run.workers[worker],
                blob=run.blob,
                endpoints=run.open_endpoints(),
                horizon=list(run.horizon.items()) if run.ahead else None,
                size=run.state.n_ranks,
                first_step=int(run.settings.get("launches", {}).get("first_step", 0)),
                wanted=list(run.wanted.items()),
            )
            self._outbox.send(run, action, [worker])

    def request_resend(self, run: CoordinatedRun, keys: Iterable[Any]) -> None:
        """Ask the ranks for chunks that were lost with their worker, or are wanted again."""
        contract = run.agreed
        ordinals = {array.name: i for i, array in enumerate(contract.arrays)}
        chunks = []
        for name, *index in keys:
            ordinal = ordinals[name]
            chunks.append((ordinal, contract.arrays[ordinal].layout.ravel(index)))
        resend = self._by_owner(run, chunks)
        for worker, ordinal in run.workers.items():
            if ordinal in resend:
                self._outbox.send(run, RequestResend(resend[ordinal]), [worker])

    def _hostnames(self, run: CoordinatedRun) -> dict[int, str]:
        return {o: run.state.endpoints[o]["hostname"] for o in sorted(run.workers.values())}

    def _count_cells(self, run: CoordinatedRun, hosts: Mapping[int, str]) -> bool:
        """Count the cells of each chunk by host, once; return whether the placement matters."""
        if len(set(hosts.values())) < 2 or not run.hosts:
            return False
        if not run.cells:
            arrays = run.agreed.arrays
            run.cells = {array.spec.name: self._cells(run, array) for array in arrays}
        return True

    def _cells(self, run: CoordinatedRun, array: ArrayContract) -> dict[str, Any] | None:
        """How many wanted cells of each chunk in space the blocks of each host hold."""
        if array.spec.ragged or array.spec.ids:
            return None
        blocks: dict[str, list[Block]] = {}
        grid = array.spec.attrs.get("process_grid") or dims_create(
            len(run.hosts), len(array.spec.shape)
        )
        regular = Decomposition.regular(array.spec.shape, grid)
        for rank, (host, boxes) in enumerate(run.hosts):
            if array.spec.name in boxes:
                mine = [Block(tuple(o), tuple(n)) for o, n in boxes[array.spec.name]]
            else:
                mine = list(regular.blocks[rank]) if rank < regular.size else []
            blocks.setdefault(host, []).extend(mine)
        return affinity(array.layout, array.wanted, blocks)

    def replan(self, run: CoordinatedRun) -> None:
        """Give the chunks of a lost receiver to the others, and ask for what was on its way."""
        before = run.agreed
        awaited = [self._awaited(run, ordinal) for ordinal in range(len(before.arrays))]
        self._place_again(run)
        lost, rows, skip = [], [], []
        for ordinal, (array, now) in enumerate(zip(before.arrays, run.agreed.arrays, strict=True)):
            beyond = self._may_be_sent(run, ordinal)
            since = min(awaited[ordinal], default=beyond * array.layout.n_space)
            since //= array.layout.n_space
            rows.append((ordinal, since, beyond))
            coming = set(awaited[ordinal])
            for chunk in array.needed_ids(since, beyond).tolist():
                if array.placement.owner(chunk) == now.placement.owner(chunk):
                    continue
                if chunk in coming:
                    lost.append((ordinal, chunk))
                else:
                    skip.append((ordinal, chunk))
        self._send_placement(run, lost, skip, dict.fromkeys(run.workers.values(), rows))

    def share(self, run: CoordinatedRun, newcomer: int) -> None:
        """Give a receiver that has joined its share, of steps that no rank has begun.

        What has been begun stays where it is. If a rank is quicker than expected, what it has sent
        elsewhere is sent again.
        """
        contract = run.agreed
        hosts = self._hostnames(run)
        self._count_cells(run, hosts)
        placements, overtaken, rows = {}, [], []
        for ordinal, array in enumerate(contract.arrays):
            awaited, n_rows = self._awaited(run, ordinal), array.layout.numblocks[0]
            n_space = array.layout.n_space
            newest = self._newest_row(run, array)
            first = min(awaited, default=newest * n_space) // n_space
            start = min(n_rows, newest + 2 + self._rows_within(run, newest, SHARE_DELAY))
            base = run.shared.get(ordinal, array.placement)
            shared = share(base, list(hosts), **_nearness(run, array, hosts))
            window = range(first, max(first, start))
            now = switch(array.placement, shared, window, n_rows)
            if now is None:
                continue
            run.shared[ordinal] = shared
            placements[array.spec.name] = now
            rows.append((ordinal, start, self._may_be_sent(run, ordinal)))
            overtaken += [
                (ordinal, chunk)
                for chunk in awaited
                if chunk >= start * n_space and now.owner(chunk) != array.placement.owner(chunk)
            ]
        if not placements:
            return
        run.agree(contract.with_placements(placements))
        # The others go on from where they are.
        others = [(ordinal, 0, beyond) for ordinal, _, beyond in rows]
        each = {o: rows if o == newcomer else others for o in run.workers.values()}
        self._send_placement(run, overtaken, [], each)

    def _send_placement(
        self,
        run: CoordinatedRun,
        again: Iterable[tuple[int, int]],
        skip: Iterable[tuple[int, int]],
        rows: Mapping[int, list[tuple[int, int, int]]],
    ) -> None:
        run.epoch += 1
        contract = run.agreed
        resend = self._by_owner(run, again)
        done: dict[int, list[tuple[int, int]]] = {}
        for ordinal, chunk in skip:
            done.setdefault(contract.arrays[ordinal].placement.owner(chunk), []).append(
                (ordinal, chunk)
            )
        for worker, ordinal in run.workers.items():
            action = SetPlacement(
                epoch=run.epoch,
                blob=run.blob,
                endpoints=run.open_endpoints(),
                resend=resend.get(ordinal, []),
                rows=rows[ordinal],
                skip=done.get(ordinal, []),
            )
            self._outbox.send(run, action, [worker])

    def _place_again(self, run: CoordinatedRun) -> None:
        """Place all chunks on the receivers that live, moving as few as possible."""
        contract = run.agreed
        hosts = self._hostnames(run)
        placements = {
            array.spec.name: replace(array.placement, list(hosts), **_nearness(run, array, hosts))
            for array in contract.arrays
            if not set(array.placement.receivers) <= hosts.keys()
        }
        run.agree(contract.with_placements(placements))

    def _awaited(self, run: CoordinatedRun, ordinal: int) -> list[int]:
        """Chunks of an array that are to come, up to a little beyond the newest known step.

        A rank reports a step when it begins the next one: some have sent more than is known.
        What was lost with a worker is to come again, from the receiver that was asked for it.
        """
        array = run.agreed.arrays[ordinal]
        last = self._may_be_sent(run, ordinal)
        keys = self._tasks.waiting(run.state.run)
        return sorted(
            array.layout.ravel(index)
            for name, *index in keys
            if name == array.name and index[0] < last
        )

    def _newest_row(self, run: CoordinatedRun, array: ArrayContract) -> int:
        """Return the last row of chunks that a rank has reported."""
        axis, newest = array.spec.steps, run.state.newest_step
        newest = axis.start if newest is None else newest
        index = min(max(0, newest - axis.start) // axis.every, axis.length - 1)
        return array.layout.chunk_of(0, index)

    def _may_be_sent(self, run: CoordinatedRun, ordinal: int) -> int:
        """Rows of chunks below this one are those that ranks may have begun to send.

        What is declared ahead bounds them: no rank has sent what is not declared yet.
        """
        array = run.agreed.arrays[ordinal]
        newest = self._newest_row(run, array)
        ahead = max(LOOK_AHEAD, self._rows_within(run, newest, 4 * SHARE_DELAY))
        end = run.horizon.get(ordinal, 0) if run.ahead else array.layout.numblocks[0]
        return min(newest + 1 + ahead, end)

    def _rows_within(self, run: CoordinatedRun, newest: int, seconds: float) -> int:
        """Number of rows that the ranks begin in some time, if they go on as before."""
        state = run.state
        began = state.steps[min(state.steps)].first_put if state.steps else state.clock()
        return int(newest * seconds / max(state.clock() - began, seconds))

    def _by_owner(
        self, run: CoordinatedRun, chunks: Iterable[tuple[int, int]]
    ) -> dict[int, list[tuple[int, int]]]:
        """Sort (array, chunk) by the receiver that they belong to now."""
        contract = run.agreed
        owners: dict[int, list[tuple[int, int]]] = {}
        for ordinal, chunk in chunks:
            run.again.add(contract.arrays[ordinal].key(chunk))
            owner = contract.arrays[ordinal].placement.owner(chunk)
            owners.setdefault(owner, []).append((ordinal, chunk))
        return owners


def _nearness(
    run: CoordinatedRun, array: ArrayContract, hosts: Mapping[int, str]
) -> dict[str, Any]:
    """Return what a placement needs to know of the hosts of receivers and cells."""
    return {"needed": array.needed_space, "hosts": hosts, "cells": run.cells.get(array.spec.name)}
