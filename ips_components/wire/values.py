"""Python values in feedback messages: numbers and arrays as raw cells, all else as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.wire.messages import Feedback

FLOAT, INTEGER, TEXT, JSON = range(4)
MAX_MODEL_ARRAY = 60 << 20  # bytes as sent; a frame of feedback has at most 64 MiB
NO_MORE = Feedback("", 0, TEXT)
"""The last message of an analysis: a value without a name says that no other one will come."""
_MAX_INTEGER = (1 << 63) - 1
_DTYPES = {FLOAT: np.dtype("<f8"), INTEGER: np.dtype("<i8")}


def encode(name: str, step: int, value: Any) -> Feedback:
    """Return the message that carries a value.

    Parameters
    ----------
    name
        What the simulation asks for.
    step
        Step from which the value holds.
    value
        A number, an array of numbers, a text, or anything that JSON can express.

    Raises
    ------
    ProtocolError
        If the value is none of these, or an integer has more than 64 bits with its sign.

    Examples
    --------
    >>> decode(encode("gain", 3, 0.5)), decode(encode("mode", 3, "fast"))
    (0.5, 'fast')
    """
    if isinstance(value, str):
        return Feedback(name, step, TEXT, (), value.encode())
    array = np.asarray(value) if not isinstance(value, (dict, list, tuple)) else None
    if array is not None and array.dtype.kind in "biuf" and array.ndim < 16:
        kind = FLOAT if array.dtype.kind == "f" else INTEGER
        if array.dtype == np.uint64 and array.size and array.max() > _MAX_INTEGER:
            raise ProtocolError(
                f"feedback {name!r}: {array.max()} is larger than {_MAX_INTEGER}, the largest "
                "integer that ranks take; send it as a float or a text"
            )
        cells = np.ascontiguousarray(array, dtype=_DTYPES[kind])
        return Feedback(name, step, kind, array.shape, cells.tobytes())
    try:
        text = json.dumps(value)
    except TypeError as error:
        raise ProtocolError(
            f"feedback {name!r}: a value must be numbers, text or JSON, got {type(value)}"
        ) from error
    return Feedback(name, step, JSON, (), text.encode())


def encode_model(name: str, arrays: Mapping[str, Any], version: int) -> list[Feedback]:
    """Return the messages that carry a model: ``name/array`` for each, then their list as `name`.

    All have the version as their step. The list comes last: a rank that has it has all.

    Raises
    ------
    ProtocolError
        If the model is empty, a name is not a text, or a value is not an array of real numbers
        that fits into a frame.
    """
    messages = []
    for key, value in arrays.items():
        array = np.asarray(value)
        if not isinstance(key, str) or array.dtype.kind not in "biuf":
            raise ProtocolError(
                f"model {name!r}, array {key!r}: expected a name and real numbers, "
                f"got {array.dtype}"
            )
        if 8 * array.size > MAX_MODEL_ARRAY:
            raise ProtocolError(
                f"model {name!r}, array {key!r}: {8 * array.size} bytes are more than "
                f"{MAX_MODEL_ARRAY}; split it"
            )
        messages.append(encode(f"{name}/{key}", version, array))
    if not messages:
        raise ProtocolError(f"model {name!r} has no arrays")
    return [*messages, encode(name, version, {"arrays": list(arrays)})]


def decode(message: Feedback) -> Any:
    """Return the value of a message: float, int, array, str, or what the JSON says."""
    if message.kind == TEXT:
        return message.data.decode()
    if message.kind == JSON:
        return json.loads(message.data)
    dtype = _DTYPES.get(message.kind)
    if dtype is None:
        raise ProtocolError(f"feedback {message.name!r} has unknown kind {message.kind}")
    try:
        array = np.frombuffer(message.data, dtype).reshape(message.shape)
    except ValueError as error:
        raise ProtocolError(f"feedback {message.name!r} is damaged: {error}") from error
    return array.item() if array.ndim == 0 else array
