"""Random coupled runs: what a simulation offers, what of it is wanted, and what goes wrong.

A `Case` follows from its seed alone: threads against receivers (`random_runs`), or
MPI ranks and Dask workers under ips.py (`test_random_workflows`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from ips_components.bridge import Array
from ips_components.model import Block
from ips_components.model.array_contract import ArrayContract
from ips_components.model.layout import ChunkLayout
from ips_components.model.pieces import ranks_of
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis

DTYPES = (
    "f8",
    "f8",
    "f8",
    "f4",
    ">f8",
    "f2",
    "i1",
    "u2",
    ">i4",
    "i8",
    "b1",
    "c8",
    "c16",
    "S5",
    "U3",
)
NEVER = 10**9
PAGE = 4096
_POISON = 0x5A


@dataclass(frozen=True)
class Field:
    """One array of a case.

    Parameters
    ----------
    name, dtype, shape, axis
        As in `ArraySpec`.
    halo
        Ghost cells per dimension.
    tilings
        Blocks by rank. More than one tiling: blocks move, step by step, in turn.
    chunks
        Sizes of chunks, time first; for a ragged array the number of its parts.
    keys
        What is wanted, as slices of the whole array, time first.
    policy
        Of a full receiver.
    how
        How blocks are put: ``"put"``, ``"fortran"``, ``"strided"`` or ``"block"`` (in place).
    off_axis
        Whether it is put at steps between those of its axis as well.
    ragged
        Rows vary.
    """

    name: str
    ordinal: int
    dtype: str
    shape: tuple[int, ...]
    axis: StepAxis
    halo: tuple[int, ...]
    tilings: tuple[tuple[tuple[Block, ...], ...], ...]
    chunks: Any
    keys: tuple[tuple[slice, ...], ...]
    policy: str
    how: str
    off_axis: bool
    ragged: bool

    @property
    def spec(self) -> ArraySpec:
        """The array as the analyst sees it."""
        shape = (-1, *self.shape) if self.ragged else self.shape
        return ArraySpec(self.name, self.dtype, shape, self.axis, ragged=self.ragged)

    @property
    def steps(self) -> range:
        """Steps at which it is put."""
        axis = self.axis
        every = 1 if self.off_axis else axis.every
        return range(axis.start, axis.start + axis.every * (axis.count - 1) + 1, every)

    def described(self, rank: int) -> Array:
        """The array as one rank describes it."""
        if self.ragged:
            return Array(self.name, (-1, *self.shape), self.dtype, steps=self.axis, ragged=True)
        blocks = [(block.offset, block.shape) for block in self.tilings[0][rank]]
        halo, shape = self.halo, self.shape
        return Array(self.name, shape, self.dtype, blocks=blocks, halo=halo, steps=self.axis)

    def agree(self, run: str, receivers: Sequence[int]) -> ArrayContract:
        """The agreement on it."""
        spec = self.spec
        if self.ragged:
            layout = ChunkLayout.from_spec(spec, None, self.chunks)
        else:
            layout = ChunkLayout.from_spec(spec, self.chunks)
        selections = [Selection.from_key(key, layout.shape) for key in self.keys]
        return ArrayContract.agree(
            spec, selections, run=run, receivers=receivers, layout=layout, policy=self.policy
        )

    # -- values --------------------------------------------------------------------------------

    def at(self, step: int) -> np.ndarray[Any, Any]:
        """All cells at a step."""
        return _cells(prod(self.shape), step, self.ordinal, self.dtype).reshape(self.shape)

    def rows(self, rank: int, step: int) -> np.ndarray[Any, Any]:
        """The rows of one rank of a ragged array."""
        n = (rank * 5 + step * 3 + self.ordinal) % 4
        cells = _cells(n * prod(self.shape), step + 100 * rank, self.ordinal, self.dtype)
        return cells.reshape(n, *self.shape)

    @cached_property
    def whole(self) -> np.ndarray[Any, Any]:
        """All cells at the steps of its axis."""
        return np.stack([self.at(self.axis.step(t)) for t in range(self.axis.count)])

    def chunk(self, contract: ArrayContract, chunk: int, ranks: int) -> np.ndarray[Any, Any]:
        """What a chunk has to be."""
        if self.ragged:
            return self._ragged_chunk(contract, chunk, ranks)
        box = contract.chunk_selection(chunk)
        value = np.zeros(box.count, self.dtype)
        for part in contract.wanted:
            if (common := part.intersect(box)) is not None:
                value[common.within(box).to_slices()] = self.whole[common.to_slices()]
        return value

    def _ragged_chunk(
        self, contract: ArrayContract, chunk: int, ranks: int
    ) -> np.ndarray[Any, Any]:
        row, part = divmod(chunk, contract.layout.n_space)
        step = self.axis.step(contract.layout.bounds(0, row)[0])
        columns = contract.cover.to_slices()[2:]
        parts = [
            self.rows(rank, step)[(slice(None), *columns)]
            for rank in ranks_of(part, contract.layout.n_space, ranks)
        ]
        empty = np.empty((0, *contract.chunk_shape(chunk)[2:]), self.dtype)
        return np.concatenate([empty, *parts], dtype=self.dtype)[None]

    def blocks(self, rank: int, step: int) -> Iterator[tuple[Block, np.ndarray[Any, Any]]]:
        """The blocks of a rank at a step, with their cells and halo."""
        whole = self.at(step)
        for block in self.tilings[step % len(self.tilings)][rank]:
            shape = [n + 2 * h for n, h in zip(block.shape, self.halo, strict=True)]
            order = "F" if self.how == "fortran" else "C"
            if self.how == "strided" and shape:
                cells = poisoned((*shape[:-1], 3 * shape[-1]), self.dtype)[..., 1::3]
            else:
                cells = poisoned(tuple(shape), self.dtype, order)
            self.inside(cells)[...] = whole[block.to_slices()]
            yield block, cells

    def inside(self, cells: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """What is not halo."""
        cut = (slice(h, n - h) for n, h in zip(cells.shape, self.halo, strict=True))
        return cells[(..., *cut)]  # a view, though it may have no dimensions


def poisoned(shape: tuple[int, ...], dtype: str, order: str = "C") -> np.ndarray[Any, Any]:
    """Cells that must not be sent."""
    cells = np.zeros(shape, dtype, order)
    poison(cells)
    return cells


def poison(cells: np.ndarray[Any, Any]) -> None:
    """Overwrite cells."""
    kind = cells.dtype.kind
    cells[...] = "~" if kind == "U" else b"~" if kind == "S" else _POISON


def _cells(n: int, step: int, ordinal: int, dtype: str) -> np.ndarray[Any, Any]:
    """Numbers that differ from cell to cell, step to step, and array to array."""
    index = np.arange(n, dtype=np.int64)
    base = (index * 2654435761 + (step + 1) * 40503 + (ordinal + 1) * 97) % (1 << 31)
    kind, size = np.dtype(dtype).kind, np.dtype(dtype).itemsize
    if kind == "b":
        return (base >> 7) % 2 == 1
    if kind == "f":
        return (base % 2048 if size == 2 else base / 7.0).astype(dtype)
    if kind == "c":
        return (base % (1 << 20) + 1j * (base % 101)).astype(dtype)
    if kind in "SU":
        return (base % 1000).astype(dtype)
    return base.astype(np.uint64).astype(dtype)


@dataclass(frozen=True)
class Case:
    """A run, and what goes wrong in it.

    Parameters
    ----------
    ranks, receivers
        How many.
    together
        Whether ranks have a communicator; without one, each asks for the contract itself.
    late
        Whether the contract comes after the description.
    lanes, replay_steps, slot_bytes
        As in the contact file.
    share
        Budget of a receiver, in multiples of what the largest rows of its arrays need together;
        0: plenty.
    keep
        What the analysis keeps of the chunks: ``"none"``, ``"few"`` or ``"all"``.
    pace
        Seconds of computing between steps, at most.
    cuts
        Seconds between two cuts of all connections, at most; 0: none.
    doomed
        Number of the receiver that dies, and the number of chunks after which it does so.
    """

    seed: int
    ranks: int
    receivers: int
    together: bool
    late: bool
    lanes: tuple[str, ...]
    replay_steps: int
    slot_bytes: int
    share: float
    keep: str
    pace: float
    cuts: float
    doomed: tuple[int, int] | None
    arrays: tuple[Field, ...]

    @property
    def steps(self) -> int:
        """Number of steps of the simulation."""
        return max(field.steps[-1] for field in self.arrays) + 1

    def rng(self, who: object) -> random.Random:
        """Random numbers of one part of the run."""
        return random.Random(f"{self.seed}/{who}")

    def __str__(self) -> str:
        lines = [f"case {self.seed}:"]
        lines += [
            f"  {f.name} = {getattr(self, f.name)!r}"
            for f in fields(self)
            if f.name not in ("seed", "arrays")
        ]
        for one in self.arrays:
            lines.append(f"  array {one.name}:")
            lines += [f"    {f.name} = {_short(getattr(one, f.name))}" for f in fields(one)[2:]]
        return "\n".join(lines)


def _short(value: Any) -> str:
    text = repr(value).replace("Block(offset=", "(").replace("shape=", "")
    return text if len(text) < 600 else text[:600] + " ..."


# -- drawing -----------------------------------------------------------------------------------


def case(seed: int, *, plain: bool = False) -> Case:
    """Return the case of a seed; ``plain``: nothing that only a whole process can survive."""
    rng = random.Random(seed)
    ranks, receivers = rng.choice([1, 1, 2, 2, 3, 4]), rng.choice([1, 2, 2, 3])
    policies = rng.choice(["block", "block", "block", "drop", "either"])
    arrays = tuple(_field(rng, k, ranks, policies) for k in range(rng.choice([1, 1, 2, 3])))
    trouble = rng.choice(["", "", "cuts", "cuts", "death"])
    share = rng.choice([0.0, 0.0, 1.0, 1.5, 3.0])
    keep = rng.choice(["none", "few"] if share else ["none", "few", "all"])
    chunks = sum(len(one.agree("r", [0]).needed_ids()) for one in arrays)
    doomed = None
    if trouble == "death" and receivers > 1 and not plain:
        doomed = (rng.randrange(receivers), rng.randrange(chunks))
    return Case(
        seed=seed,
        ranks=ranks,
        receivers=receivers,
        together=rng.random() < 0.7,
        late=rng.random() < 0.3,
        lanes=rng.choice([("shm", "tcp"), ("shm", "tcp"), ("tcp",)]),
        replay_steps=rng.choice([0, 0, 1, 2, 2, 5, 50]),
        share=share,
        keep=keep,
        pace=rng.choice([0.0, 0.0, 0.0, 0.002, 0.01]),
        cuts=rng.choice([0.001, 0.004, 0.02, 0.1]) if trouble == "cuts" else 0.0,
        doomed=doomed,
        arrays=arrays,
        slot_bytes=rng.choice([1, 2 * PAGE, 5 * PAGE, 16 * PAGE, 1 << 30, 1 << 30]),
    )


def _field(rng: random.Random, ordinal: int, ranks: int, policies: str) -> Field:
    dtype = rng.choice(DTYPES)
    ragged = rng.random() < 0.12
    ndim = rng.choice([0, 1]) if ragged else rng.choice([0, 1, 2, 2, 2, 3, 4])
    large = not ragged and 0 < ndim < 4 and rng.random() < 0.15
    shape = tuple(rng.randint(1, 9) for _ in range(ndim))
    if large:
        shape = (*shape[:-1], rng.choice([2_000, 10_000, 40_000]) // (9 ** (ndim - 1)) + 1)
    most = 8 if large else 24
    axis = StepAxis(rng.choice([0, 0, 0, 3]), rng.choice([1, 1, 1, 2, 3]), rng.randint(1, most))
    n_tilings = 1 if ragged or ndim == 0 else rng.choice([1, 1, 1, 1, 2, 3])
    tilings = tuple(_tiling(rng, shape, ranks) for _ in range(n_tilings))
    halo = tuple(rng.choice([0, 0, 0, 1, 2]) for _ in shape)
    full = (axis.count, 1, *shape) if ragged else (axis.count, *shape)
    chunks: Any = tuple(_cut(rng, n, 5) for n in full)
    if ragged:
        chunks = rng.randint(1, 3)
        halo = ()
    keys = tuple(_key(rng, full) for _ in range(rng.choice([1, 1, 2, 3])))
    hows = ["put", "put", "fortran", "strided"] + (["block"] * 2 if n_tilings == 1 else [])
    return Field(
        name=f"a{ordinal}",
        ordinal=ordinal,
        dtype=dtype,
        shape=shape,
        axis=axis,
        halo=halo,
        tilings=tilings,
        chunks=chunks,
        keys=keys,
        policy=rng.choice(["block", "drop"]) if policies == "either" else policies,
        how="put" if ragged else rng.choice(hows),
        off_axis=rng.random() < 0.3,
        ragged=ragged,
    )


def _cut(rng: random.Random, n: int, most: int) -> tuple[int, ...]:
    """Sizes >= 1 that add up to n."""
    if rng.random() < 0.5:  # regular
        size = rng.randint(max(1, n // most), n)
        return tuple(min(size, n - at) for at in range(0, n, size))
    cuts = sorted(rng.sample(range(1, n), min(n - 1, rng.randint(0, most))))
    return tuple(b - a for a, b in pairwise([0, *cuts, n]))


def _tiling(
    rng: random.Random, shape: tuple[int, ...], ranks: int
) -> tuple[tuple[Block, ...], ...]:
    """Blocks that tile a shape, dealt out to ranks; some may get none."""
    boxes = [Block((0,) * len(shape), shape)]
    for _ in range(rng.randint(0, 2 * ranks) if shape else 0):
        box = boxes.pop(rng.randrange(len(boxes)))
        dim = rng.randrange(len(shape))
        cut = rng.randint(0, box.shape[dim])
        low, high, offset = list(box.shape), list(box.shape), list(box.offset)
        low[dim], high[dim] = cut, box.shape[dim] - cut
        offset[dim] += cut
        boxes += [Block(box.offset, tuple(low)), Block(tuple(offset), tuple(high))]
    boxes = [box for box in boxes if box.size]
    rng.shuffle(boxes)
    dealt: list[list[Block]] = [[] for _ in range(ranks)]
    for i, box in enumerate(boxes):
        dealt[i if i < ranks else rng.randrange(ranks)].append(box)
    rng.shuffle(dealt)
    return tuple(map(tuple, dealt))


def _key(rng: random.Random, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """A non-empty key of slices."""
    key = []
    for n in shape:
        if rng.random() < 0.4:
            key.append(slice(0, n, 1))
            continue
        start = rng.randrange(n)
        key.append(slice(start, rng.randint(start + 1, n), rng.choice([1, 1, 2, 3, 5])))
    return tuple(key)
