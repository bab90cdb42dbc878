"""What an analysis may publish while the run goes on: what fits into one file over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from dask.base import is_dask_collection

from ips_components.errors import ContractError

_COORDINATES = ("time", "step")
_KINDS = "biufUSmM"  # what NetCDF can hold


def check_published(values: Mapping[str, Any]) -> None:
    """Refuse values that the file of published values could not hold.

    Raises
    ------
    ContractError
        A value is lazy, of a kind that NetCDF does not have, or has a name or a dimension that the
        file has for its steps.
    """
    for name, value in values.items():
        if is_dask_collection(value):
            raise ContractError(
                f"run.publish: {name!r} is lazy; publish what is computed: the values of "
                "run.rolling(...).map or of run.completed()"
            )
        if name in _COORDINATES:
            raise ContractError(
                f"run.publish: {name!r} is a coordinate of the file that all values share; give "
                "the value another name"
            )
        if hasattr(value, "data_vars"):
            raise ContractError(
                f"run.publish: {name!r} is a Dataset; publish its variables, each by its name"
            )
        taken = [d for d in getattr(value, "dims", ()) if d in (*_COORDINATES, name)]
        if taken:
            raise ContractError(
                f"run.publish: {name!r} has a dimension {taken[0]!r}, which in the file is the "
                "name of a coordinate of the steps, or of the value itself; publish one step at a "
                "time, or rename the dimension"
            )
        kind = np.asarray(value).dtype
        if kind.kind not in _KINDS:
            raise ContractError(
                f"run.publish: {name!r} is of type {kind}, which NetCDF does not have; publish "
                "numbers, e.g. the real and the imaginary part, each by its name"
            )
