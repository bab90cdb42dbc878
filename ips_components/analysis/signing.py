"""The contract of a run: signed once, with the coordinators of all of its simulations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ips_components.analysis.arrays import ExternalArray
from ips_components.analysis.coordinator_client import Coordinator
from ips_components.analysis.offers import check_may_be_left_out
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError
from ips_components.model.contract import Contract
from ips_components.model.spec import ArraySpec

__all__ = ["SignedContract"]

logger = logging.getLogger(__name__)


class SignedContract:
    """What is agreed with the simulations of a run, and what is said of it.

    Parameters
    ----------
    settings
        Of each simulation's run, the run's own first.
    coordinators
        By run id.
    """

    def __init__(
        self, settings: Mapping[str, RunSettings], coordinators: Mapping[str, Coordinator]
    ) -> None:
        self.contract: Contract | None = None
        """None until it is signed; all arrays, of all simulations."""
        self.chunk_reasons: Mapping[str, str] = {}
        """By name of an array: why its chunks are as large as they are."""
        self._settings = settings
        self._coordinators = coordinators
        self._arrays: Mapping[str, ExternalArray] = {}

    def sign(
        self,
        contracts: Mapping[str, Contract],
        arrays: Mapping[str, ExternalArray],
        *,
        ahead: bool = False,
    ) -> None:
        """Sign the contracts of all simulations.

        Parameters
        ----------
        contracts
            By run id.
        arrays
            What the simulations offer, by name.
        ahead
            Whether external tasks are declared as the run goes on.

        Raises
        ------
        ContractError
            When it was signed before.
        """
        if self.contract is not None:
            raise ContractError("the contract of a run is signed once; it was signed before")
        self._arrays = arrays
        agreed = tuple(array for each in contracts.values() for array in each.arrays)
        self.contract = Contract(next(iter(self._settings)), agreed)
        for row in self.terms():
            logger.info("Contract: %s", row)
        for run in self._coordinators:
            if self._settings[run].leave_out:
                check_may_be_left_out(contracts[run], self._settings[run].simulation)
            self.sign_one(run, contracts[run], ahead=ahead)

    def sign_one(self, run: str, contract: Contract, *, ahead: bool = False) -> None:
        """Sign the contract of one simulation, with what it describes and is not needed."""
        signed = replace(contract, unneeded=self._unneeded(run, contract))
        self._coordinators[run].sign(signed.to_bytes(), ahead=ahead, remarks=self._remarks())

    def terms(self) -> list[dict[str, Any]]:
        """Return the table of the contract, with what makes it and its chunks that large."""
        rows = [] if self.contract is None else self.contract.table()
        remarks = self._remarks()
        return [{**row, **remarks.get(row["name"], {})} for row in rows]

    def _remarks(self) -> dict[str, dict[str, Any]]:
        """Return what is said of arrays beside their contract, by name."""
        remarks: dict[str, dict[str, Any]] = {
            name: {"chunk_reason": why} for name, why in self.chunk_reasons.items()
        }
        for name, array in self._arrays.items():
            if (found := array.source.widened) is not None:
                more = {"times_used": found[0], "widened_by": list(found[1])}
                remarks[name] = {**remarks.get(name, {}), **more}
        return remarks

    def _unneeded(self, run: str, contract: Contract) -> tuple[ArraySpec, ...]:
        """Return the arrays of a simulation that are described and the analysis does not need."""
        needed = {array.spec.name for array in contract.arrays}
        offered = [each.spec for each in self._arrays.values() if each.source.run == run]
        described = offered or self._settings[run].array_specs()
        return tuple(spec for spec in described if spec.name not in needed)
