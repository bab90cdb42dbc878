"""How many steps a chunk has, and into how many parts space is cut, by default.

A chunk costs the scheduler and the worker about the same whatever its size, so that several small
steps go into one chunk, where the analysis cannot notice that they come together. A large step is
cut in space.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ips_components.model.spec import ArraySpec

#: Bytes that a chunk has at most where it can be cut in space.
MAX_CHUNK = 64 << 20
#: Chunks along time that a run has at least: how fine its progress is.
MIN_CHUNKS = 16
#: Steps in a chunk at most: more of them save next to nothing.
MAX_STEPS = 32


@dataclass(frozen=True, slots=True)
class ChunkChoice:
    """The number of steps in a chunk, and why.

    Parameters
    ----------
    steps
        At least 1.
    reason
        For people; starts in lower case.
    """

    steps: int
    reason: str


def default_steps(
    spec: ArraySpec,
    n_receivers: int,
    *,
    chunk_bytes: int,
    latency: float = 1.0,
    step_seconds: float = 0.0,
) -> ChunkChoice:
    """Return how many steps a chunk of an array has by default.

    Parameters
    ----------
    spec
        The array.
    n_receivers
        Number of workers that share a step.
    chunk_bytes
        What a chunk should have; 0 for one step in each chunk.
    latency
        Seconds that the first step of a chunk may wait for its last one.
    step_seconds
        What a step of the simulation takes; 0 where it is not known.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (256, 1024), StepAxis(count=200))
    >>> default_steps(spec, 2, chunk_bytes=32 << 20)
    ChunkChoice(steps=12, reason='a sixteenth of the run')
    >>> default_steps(spec, 2, chunk_bytes=4 << 20)
    ChunkChoice(steps=4, reason='CHUNK_BYTES = 4 MiB')
    >>> default_steps(spec, 2, chunk_bytes=32 << 20, step_seconds=0.2)
    ChunkChoice(steps=5, reason='LATENCY = 1 s')
    """
    if spec.ragged:
        return ChunkChoice(1, "the array is ragged")
    if spec.steps.count is None:
        return ChunkChoice(1, "the number of steps is not known")
    if spec.steps.at_most:
        return ChunkChoice(1, "the simulation may end earlier")
    parts = zip(spec.shape, default_parts(spec, n_receivers), strict=True)
    step_bytes = max(1, prod(-(-n // into) for n, into in parts) * spec.itemsize)
    bounds = [
        (MAX_STEPS, f"more than {MAX_STEPS} steps save nothing"),
        (spec.steps.count // MIN_CHUNKS, "a sixteenth of the run"),
        (chunk_bytes // step_bytes, f"CHUNK_BYTES = {chunk_bytes / (1 << 20):g} MiB"),
    ]
    if step_seconds > 0:
        bounds.append((int(latency / step_seconds + 1e-9), f"LATENCY = {latency:g} s"))
    steps, reason = min(bounds, key=lambda each: each[0])
    return ChunkChoice(max(1, steps), reason)


def default_parts(spec: ArraySpec, n_receivers: int) -> tuple[int, ...]:
    """Return into how many parts each dimension of space is cut.

    The first one is cut into a multiple of the workers; the others where one index of those before
    them is too large for a chunk, such as a component of a field.

    Examples
    --------
    >>> default_parts(ArraySpec("t", "f8", (1024, 1 << 16), StepAxis(count=9)), 2)
    (8, 1)
    >>> default_parts(ArraySpec("t", "f8", (3, 1024, 1 << 16), StepAxis(count=9)), 2)
    (3, 8, 1)
    """
    parts: list[int] = []
    multiple, size = n_receivers, prod(spec.shape) * spec.itemsize
    for n in spec.shape:
        too_large = not parts or size > MAX_CHUNK
        size //= max(n, 1)
        least = -(-n // max(1, MAX_CHUNK // max(size, 1))) if too_large else 1
        parts.append(max(1, min(multiple * -(-least // multiple), n)))
        multiple = 1
    return tuple(parts)
