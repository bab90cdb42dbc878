"""Arrays of a simulation that is launched many times: steps of one launch, or of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ips_components.errors import ContractError


def whole_axis(array: Mapping[str, Any], launches: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of an array with the steps of all launches.

    Parameters
    ----------
    array
        As the simulation describes it: with the steps of the whole run, of none, or of one launch.
    launches
        Settings of the run about launches.

    Raises
    ------
    ContractError
        When the array contradicts STEPS_PER_LAUNCH.
    """
    per_launch, total = launches.get("steps"), launches.get("count")
    steps = dict(array.get("steps") or {})
    count, every = steps.get("count"), int(steps.get("every") or 1)
    if not launches or per_launch is None or count is None:
        return dict(array)
    published = -(-per_launch // every)
    if count == published and per_launch % every == 0:  # the steps of one launch
        count = None if total is None else published * total
        return {**array, "steps": {**steps, "start": 0, "count": count}}
    if (count * every) % per_launch:
        raise ContractError(
            f"array {array['name']!r} is described with {count} steps, which is neither "
            f"STEPS_PER_LAUNCH = {per_launch} nor a multiple of it; describe the steps of one "
            "launch, of all of them, or none"
        )
    return dict(array)
