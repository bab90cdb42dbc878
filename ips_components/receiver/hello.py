"""What a hello says in JSON: checked before anything is done with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ips_components.errors import ProtocolError
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire import messages as m


def parse_info(hello: m.Hello) -> dict[str, Any]:
    """Return the JSON part of a hello."""
    try:
        info = json.loads(hello.info or b"{}", parse_int=_int64)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"rank {hello.rank}: the hello's info is not JSON: {error}") from None
    if not isinstance(info, dict):
        raise ProtocolError(f"rank {hello.rank}: the hello's info is not a JSON object")
    return info


def described(info: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Check and return the arrays that a hello describes, in the form of `ArraySpec`."""
    arrays = info.get("arrays")
    if not arrays:
        return None
    checked = []
    try:
        for one in arrays:
            spec = ArraySpec(
                name=one["name"],
                dtype=one["dtype"],
                shape=tuple(one["shape"]),
                steps=StepAxis(**one.get("steps", {})),
                dims=tuple(one.get("dims", ())),
                attrs=one.get("attrs", {}),
                ragged=bool(one.get("ragged", False)),
                ids=str(one.get("ids", "")),
            )
            checked.append(
                {
                    "name": spec.name,
                    "dtype": spec.dtype,
                    "shape": list(spec.shape),
                    "steps": {
                        "start": spec.steps.start,
                        "every": spec.steps.every,
                        "count": spec.steps.count,
                    },
                    "dims": list(spec.dims),
                    "attrs": dict(spec.attrs),
                    "ragged": spec.ragged,
                    "ids": spec.ids,
                }
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the description of an array is wrong: {error!r}") from error
    return checked


def newest_step(info: Mapping[str, Any]) -> int:
    """Check and return the newest step that the rank has begun; -1: none, or it does not say."""
    step = info.get("step", -1)
    if not isinstance(step, int):
        raise ProtocolError(f"the step of a hello is a number, got {step!r}")
    return step


def hosts(info: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Check and return where the ranks are and what each holds."""
    try:
        return [(str(host), blocks({"blocks": boxes})) for host, boxes in info.get("hosts", ())]
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"the hosts of a hello are wrong: {error!r}") from error


def blocks(info: Mapping[str, Any]) -> dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Check and return the blocks that a hello names."""
    try:
        return {
            str(name): [
                (tuple(_index(o) for o in offset), tuple(_index(n) for n in shape))
                for offset, shape in blocks
            ]
            for name, blocks in info.get("blocks", {}).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise ProtocolError(f"the blocks of a hello are wrong: {error!r}") from error


def _int64(text: str) -> int:
    """Return a number that travels on Dask's streams, which know 64 bits; else ValueError."""
    number = int(text) if len(text) <= 20 else 1 << 64
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError("a number of more than 64 bits")
    return number


def _index(number: Any) -> int:
    if type(number) is not int:
        raise ValueError(f"{number!r} is no whole number")
    return number
