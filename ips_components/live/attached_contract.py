"""One further contract of an attached client: an attached run, from its receivers to its end."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ips_components.analysis.contract import contracts_from_graph, submit
from ips_components.analysis.coordinator_client import (
    RemoteCoordinator,
    call,
    wait_for_receivers,
)
from ips_components.coordination.settings import RunSettings
from ips_components.coordination.worker import run_plugin
from ips_components.live.steps import refuse_passed
from ips_components.wire.contact import Certificates, Contact, Endpoint, new_token

if TYPE_CHECKING:
    from distributed import Client, Future

    from ips_components.analysis.arrays import ExternalArray, OpenEndedArray

#: Part of a worker's memory limit that chunks of one contract may take.
MEMORY_SHARE = 0.05
#: Of the tasks of attached clients: those of the run's own analysis go first.
PRIORITY = -10
#: Seconds that ranks may take to join.
JOIN_WITHIN = 30.0
#: Seconds without a sign of life after which a receiver is given up.
SILENCE = 10.0


def new_id(run: str) -> str:
    """Return the id of a new attached run; a run id has 64 bytes at most."""
    return f"{run[:48]}~{secrets.token_hex(4)}"


class AttachedContract:
    """A contract of an attached client: opens, signs, computes, and ends.

    Parameters
    ----------
    client
        Client of the cluster.
    run, name
        The run that this one is attached to, and the name of the attached client.
    attached
        Id of the attached run, see `new_id`.
    facts
        What the coordinator has said of the run.
    tls
        Certificates of the run, if it has any.

    Attributes
    ----------
    begun : dict
        The newest step that each rank had begun when it joined; by rank.
    joined_at : float
        When all had joined, in seconds of the monotonic clock.
    """

    def __init__(
        self,
        client: Client,
        run: str,
        name: str,
        attached: str,
        facts: Mapping[str, Any],
        tls: Certificates | None,
    ) -> None:
        self.client, self.run, self.name, self.attached = client, run, name, attached
        self._coordinator = RemoteCoordinator(client, attached)
        self._facts, self._tls = facts, tls
        self.begun: dict[int, int] = {}
        self.joined_at = 0.0
        self.over = False

    def open(self) -> None:
        """Open receivers, and have the ranks join.

        Raises
        ------
        SimulationLost
            When the simulation has ended.
        DeadlineExceeded
            When receivers or ranks do not come in time.
        """
        facts = self._facts
        launches = facts.get("launches", {})
        if launches:  # ranks put with the steps of the run
            launches = {**launches, "renumber": False}
        settings = RunSettings(
            run=self.attached,
            token=new_token(),
            analysis="",
            n_receivers=facts["n_receivers"],
            arrays=tuple(facts["arrays"]),
            deadlines={**facts["deadlines"], "silence": SILENCE},
            lanes=tuple(facts["lanes"]),
            security=facts["security"],
            simulation=facts["simulation"],
            launches=launches,
            replay_steps=1,
            slot_bytes=facts["slot_bytes"],
            memory_share=MEMORY_SHARE,
        )
        try:
            self.client.register_plugin(run_plugin(settings))
            endpoints = wait_for_receivers(self.client, self.attached, 1, JOIN_WITHIN)
            self._coordinator.open(settings)
            known = Endpoint.__dataclass_fields__
            contact = Contact(
                run=self.attached,
                token=settings.token,
                endpoints=tuple(
                    Endpoint(**{k: v for k, v in each.items() if k in known}) for each in endpoints
                ),
                deadlines={"connect": JOIN_WITHIN, "contract": 2 * JOIN_WITHIN, "drain": SILENCE},
                options={
                    "lanes": list(settings.lanes),
                    "replay_steps": 1,
                    "slot_bytes": settings.slot_bytes,
                },
                tls=self._tls,
            )
            call(self.client, "amend", self.run, name=self.name, contact=contact.to_bytes())
            found = call(self.client, "ranks", self.attached, timeout=JOIN_WITHIN)
        except BaseException:
            self.end("it could not begin")
            raise
        self.joined_at = time.monotonic()
        self.begun = {int(rank): int(step) for rank, step in found.items()}

    def submit(
        self,
        results: Mapping[str, Any],
        arrays: Mapping[str, ExternalArray | OpenEndedArray],
        first: int,
        policy: str,
    ) -> dict[str, Future]:
        """Derive the contract from lazy results, sign it, and submit them.

        Parameters
        ----------
        results
            Dask collections by name.
        arrays
            What they were made of; used up by that.
        first
            The first step that can be had.
        policy
            What full receivers mean to the ranks; they drop what they would have to wait with in
            any case.

        Returns
        -------
        dict
            A future by name.
        """
        contracts = contracts_from_graph(
            results,
            arrays,
            runs=[self.attached],
            policies=dict.fromkeys(arrays, policy),  # type: ignore[misc]
        )
        contract = contracts[self.attached]
        refuse_passed(contract, first)
        self._coordinator.sign(contract.to_bytes(), ahead=False)
        futures = submit(self.client, results, streaming=True, priority=PRIORITY)
        keys = [future.key for future in futures.values()]
        self._coordinator.commit(keys, list(futures), JOIN_WITHIN)
        return futures

    def wait_for_ranks(self) -> float:
        """Wait until all ranks have the contract; return the seconds since they have joined."""
        call(self.client, "ranks", self.attached, timeout=JOIN_WITHIN, joined=True)
        return time.monotonic() - self.joined_at

    def end(self, why: str = "done") -> None:
        """Have the ranks leave, and the receivers closed; idempotent."""
        if self.over:
            return
        self.over = True
        with contextlib.suppress(Exception):  # a run that is over has no coordinator any more
            call(
                self.client,
                "end_amendment",
                self.run,
                name=self.name,
                attached=self.attached,
                why=why,
                within=SILENCE,
            )
