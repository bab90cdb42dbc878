"""The arrays that simulations offer to an analysis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ips_components.analysis.arrays import ExternalArray, external_arrays
from ips_components.analysis.coordinator_client import Coordinator
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError
from ips_components.model.contract import Contract


def offered_arrays(
    settings_of: Mapping[str, RunSettings],
    coordinators: Mapping[str, Coordinator],
    timeout: float,
    notices: str = "",
) -> tuple[dict[str, ExternalArray], dict[str, str]]:
    """Return the arrays that the simulations offer, and why their chunks are so long, by name.

    Parameters
    ----------
    settings_of, coordinators
        By run, one for each simulation.
    timeout
        Seconds to wait for what a simulation describes itself.
    notices
        Why the analysis would notice that the steps of a chunk come together.

    Raises
    ------
    ContractError
        When two simulations offer an array of one name.
    """
    arrays: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    offered_by: dict[str, str] = {}
    for run, settings in settings_of.items():
        specs = settings.bounded(
            settings.array_specs()
            or RunSettings.specs_from(coordinators[run].describe_arrays(timeout))
        )
        choices = {each.name: settings.chunk_steps(each, notices) for each in specs}
        reasons |= {
            name: "CHUNKS" if name in settings.chunks else choice.reason
            for name, choice in choices.items()
        }
        chunks = settings.chunks
        if len(settings_of) > 1:
            chunks = {s.name: chunks[s.name] for s in specs if s.name in chunks}
        offered = external_arrays(
            specs,
            run=run,
            n_receivers=settings.n_receivers,
            chunks=chunks,
            steps={name: choice.steps for name, choice in choices.items()},
        )
        if twice := sorted(arrays.keys() & offered.keys()):
            raise ContractError(
                f"{offered_by[twice[0]]} and {settings.simulation} both offer an array "
                f"{twice[0]!r}: rename one of them"
            )
        arrays.update(offered)
        offered_by.update(dict.fromkeys(offered, settings.simulation))
    return arrays, reasons


def check_may_be_left_out(contract: Contract, simulation: str) -> None:
    """Raise unless all arrays of a contract can have NaN."""
    for array in contract.arrays:
        if array.dtype.kind not in "fc" and not array.spec.ragged:
            raise ContractError(
                f"array {array.spec.name!r} of {simulation} has dtype {array.dtype}, which has no "
                "NaN to stand for what a simulation that is left out has not delivered; put it as "
                "float64, or set ON_FAILURE = fail"
            )
