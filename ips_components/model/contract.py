"""The contract: which cells of which arrays the analysis needs, agreed before step zero.

People read it as JSON (`Contract.to_json`) or as a table (`Contract.table`). Ranks get a compact
binary form that a C program parses without any library. All of it is little-endian and every item
begins at a multiple of 8 bytes::

    contract   magic  8 bytes "IPSCTRT1"
               i64    length of the whole contract in bytes
               string run
               i64    number of arrays, then that many records:
    array      i64    length of this record in bytes, this field included; what a reader does not
                      know lies at the end of the record and is skipped by this length
               string name
               string dask name
               string dtype, as NumPy writes it, such as "<f8"
               i64    bytes per cell
               i64    flags: 1 ragged, 2 policy "drop" (else "block"), 4 open-ended
               i64*3  steps: start, every, count (-1 when open-ended)
               i64    n = number of dimensions, time first
               i64*n  shape of the index space (2**40 for time when open-ended; the rows of a
                      ragged array count its parts)
               n *    chunk sizes of a dimension: i64 number of runs, then i64*2 per run: size,
                      repetitions (an open-ended time dimension has one run and repeats for ever)
               i64*3n cover: all starts, all counts, all steps
               i64    number of wanted selections, then i64*3n for each, like cover
               i64*2  placement: epoch, period
               i64    number of owners, then an i64 each
               string JSON object with "dims" and "attrs"; ranks have no use for it
    string     i64 length in bytes, UTF-8 without terminator, zero bytes up to a multiple of 8

A chunk is needed exactly when some wanted selection has a cell in it; this is never written down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from ips_components.errors import ContractError, GeometryError
from ips_components.model._binary import Reader, Writer
from ips_components.model.keys import array_name, chunk_key
from ips_components.model.layout import ChunkLayout, Ints, unroll
from ips_components.model.placement import Placement, place
from ips_components.model.progression import Progression
from ips_components.model.selection import Selection, cover, disjoint
from ips_components.model.spec import ArraySpec, StepAxis

MAGIC = b"IPSCTRT1"
FORMAT = "ips-components-contract"
VERSION = 1

_MAX_CHUNKS = 1 << 24
"""Bound of the chunks along one dimension of a contract that is read from bytes."""

_RAGGED, _DROP, _OPEN = 1, 2, 4

Policy = Literal["block", "drop"]


@dataclass(frozen=True, slots=True)
class ArrayContract:
    """What is agreed for one array.

    Parameters
    ----------
    spec
        The array as the simulation offers it.
    layout
        Chunk grid over the whole field.
    cover
        Strided box around all that is wanted. The external chunk of a needed chunk ``c`` is
        ``cover ∩ c``, stored densely.
    wanted
        Disjoint strided boxes inside ``cover``: exactly these cells are sent. Other cells of an
        external chunk are zero.
    placement
        Receiver of each chunk.
    name
        Dask name of the external array.
    policy
        What a full receiver means: ``"block"`` lets ranks wait, ``"drop"`` leaves steps out.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (6, 8), StepAxis(count=10))
    >>> wanted = [Selection.from_key(np.s_[::5, :2], (10, 6, 8))]
    >>> array = ArrayContract.agree(spec, wanted, run="r1", receivers=(0, 1), n_receivers=2)
    >>> array.needed
    ((0, 1), (10, 11))
    >>> array.chunk_shape(10), array.chunk_cells(10), array.key(10)
    ((1, 2, 8), 16, ('external-t-82f3e9c6', 5, 0, 0))
    """

    spec: ArraySpec
    layout: ChunkLayout
    cover: Selection
    wanted: tuple[Selection, ...]
    placement: Placement
    name: str
    policy: Policy = "block"
    _needed: list[tuple[tuple[int, int], ...]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        where = f"contract for array {self.spec.name!r}"
        index_shape = self.spec.index_shape
        if self.spec.ragged:  # the number of parts is the analyst's choice
            index_shape = (index_shape[0], *self.layout.shape[1:2], *index_shape[2:])
        if self.layout.shape != index_shape:
            raise ContractError(
                f"{where}: chunks are laid over shape {self.layout.shape}, "
                f"but the simulation offers {index_shape}"
            )
        if not self.wanted or any(not part.size for part in self.wanted):
            raise ContractError(f"{where}: nothing is wanted; leave the array out of the contract")
        for part in (self.cover, *self.wanted):
            if part.ndim != self.layout.ndim or any(
                b > n for b, n in zip(part.stop, self.layout.shape, strict=True)
            ):
                raise ContractError(
                    f"{where}: selection {part} is outside the shape {self.layout.shape}"
                )
        for i, part in enumerate(self.wanted):
            if not self.cover.contains(part):
                raise ContractError(f"{where}: wanted {part} is outside its cover {self.cover}")
            for other in self.wanted[:i]:
                if part.intersect(other) is not None:
                    raise ContractError(f"{where}: wanted {other} and {part} overlap")
        if self.spec.ragged and any(w.dims[2:] != self.cover.dims[2:] for w in self.wanted):
            raise ContractError(f"{where}: a ragged array sends the same columns at all steps")
        if self.placement.n_space != self.layout.n_space:
            raise ContractError(
                f"{where}: placement is for {self.placement.n_space} chunks in space, "
                f"the layout has {self.layout.n_space}"
            )
        if self.policy not in ("block", "drop"):
            raise ContractError(f"{where}: policy must be 'block' or 'drop', got {self.policy!r}")

    @classmethod
    def agree(
        cls,
        spec: ArraySpec,
        selections: Iterable[Selection] | None = None,
        *,
        run: str,
        receivers: Iterable[int] = (0,),
        chunks: Any = None,
        n_receivers: int | None = None,
        layout: ChunkLayout | None = None,
        policy: Policy = "block",
    ) -> ArrayContract:
        """Derive cover, disjoint wanted boxes, layout and placement from overlapping selections.

        Parameters
        ----------
        spec
            The array.
        selections
            What is wanted, in any order and overlap; None for everything.
        run
            Run id, for the Dask name.
        receivers
            Ordinals of the receivers.
        chunks, n_receivers
            For `ChunkLayout.from_spec`, unless ``layout`` is given.
        policy
            See `ArrayContract`.
        """
        ordinals = tuple(receivers)
        if layout is None:
            layout = ChunkLayout.from_spec(spec, chunks, n_receivers or len(ordinals))
        parts = [Selection.full(layout.shape)] if selections is None else list(selections)
        if spec.ragged:
            parts = _whole_rows(layout, parts)
        wanted = disjoint(parts)
        if not wanted:
            raise ContractError(
                f"contract for array {spec.name!r}: nothing is wanted; leave the array out"
            )
        return cls(
            spec=spec,
            layout=layout,
            cover=cover(wanted),
            wanted=wanted,
            placement=place(layout, ordinals, needed=_needed_space(layout, wanted)),
            name=array_name(spec.name, run),
            policy=policy,
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a cell."""
        return np.dtype(self.spec.dtype)

    @property
    def needed(self) -> tuple[tuple[int, int], ...]:
        """Numbers of the needed chunks as half-open ranges, ascending.

        Raises
        ------
        ContractError
            For an open-ended array; ask `needed_ids` for a span of time chunks.
        """
        if not self._needed:
            ids = self.needed_ids()
            breaks = np.flatnonzero(np.diff(ids) != 1) + 1
            parts = np.split(ids, breaks)
            self._needed.append(tuple((int(p[0]), int(p[-1]) + 1) for p in parts))
        return self._needed[0]

    def needed_ids(self, first: int = 0, last: int | None = None) -> Ints:
        """Return the numbers of the needed chunks among the time chunks ``first .. last - 1``."""
        if last is None:
            if self.layout.open_ended:
                raise ContractError(
                    f"array {self.spec.name!r} is open-ended: give the last time chunk"
                )
            last = self.layout.numblocks[0]
        found = []
        for part in self.wanted:
            linear = np.zeros(1, dtype=np.int64)
            for dim, indices in enumerate(part.dims):
                span = (first, last) if dim == 0 else (0, self.layout.numblocks[dim])
                hit = np.flatnonzero(self.layout.counts(dim, indices, *span)) + span[0]
                linear = np.add.outer(linear * self.layout.numblocks[dim], hit).reshape(-1)
            found.append(linear)
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found))

    @property
    def needed_space(self) -> tuple[int, ...]:
        """Chunks in space that are needed at some step (C-order numbers)."""
        return _needed_space(self.layout, self.wanted)

    def is_needed(self, chunk: int) -> bool:
        """Tell whether a chunk will be delivered."""
        box = self.layout.box(chunk)
        return any(part.intersect(box) is not None for part in self.wanted)

    def chunk_selection(self, chunk: int) -> Selection:
        """Return ``cover ∩ c``: the global indices that the external chunk holds densely."""
        common = self.cover.intersect(self.layout.box(chunk))
        if common is None:
            raise ContractError(f"array {self.spec.name!r}: chunk {chunk} is not in the contract")
        return common

    def chunk_shape(self, chunk: int) -> tuple[int, ...]:
        """Return the shape of the external chunk; -1 for the rows of a ragged array."""
        shape = self.chunk_selection(chunk).count
        return (1, -1, *shape[2:]) if self.spec.ragged else shape

    def chunk_cells(self, chunk: int) -> int:
        """Return how many cells fill the chunk; for a ragged array, cells per row."""
        box = self.layout.box(chunk)
        return sum(common.size for part in self.wanted if (common := part.intersect(box)))

    def key(self, chunk: int) -> tuple[str | int, ...]:
        """Return the Dask key of a chunk."""
        return chunk_key(self.name, self.layout.unravel(chunk))

    def with_placement(self, placement: Placement) -> ArrayContract:
        """Return the same agreement with other receivers."""
        return replace(self, placement=placement)

    @property
    def wanted_bytes(self) -> int | None:
        """Bytes that all ranks send over the whole run; None when ragged or open-ended."""
        if self.spec.ragged or self.layout.open_ended:
            return None
        return sum(part.size for part in self.wanted) * self.spec.itemsize

    @property
    def fraction(self) -> float:
        """Share of the offered bytes that is sent."""
        full = Selection.full(self.layout.shape)
        return sum(part.size for part in self.wanted) / full.size

    def row(self) -> dict[str, Any]:
        """Return this array's row of `Contract.table`."""
        steps, *region = str(self.cover)[1:-1].split(", ")
        if self.spec.ragged:
            region[0] = "all rows"
        more = "" if len(self.wanted) == 1 else f" in {len(self.wanted)} parts"
        n_steps = "" if self.spec.steps.count is None else f" of {self.spec.steps.count}"
        open_ended = self.layout.open_ended
        return {
            "name": self.spec.name,
            "dtype": self.spec.dtype,
            "shape": list(self.spec.shape),
            "dims": list(self.spec.dims),
            "steps": f"{steps}{n_steps}",
            "region": f"[{', '.join(region)}]{more}",
            "fraction": self.fraction,
            "bytes": self.wanted_bytes,
            "chunks": None if open_ended else sum(b - a for a, b in self.needed),
        }


@dataclass(frozen=True, slots=True)
class Contract:
    """All arrays of one run that the analysis needs.

    Parameters
    ----------
    run
        Run id.
    arrays
        In a fixed order: messages name an array by its position here.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (6, 8), StepAxis(count=10))
    >>> contract = Contract("r1", (ArrayContract.agree(spec, run="r1", receivers=(0, 1)),))
    >>> Contract.from_bytes(contract.to_bytes()) == contract
    True
    >>> Contract.from_json(contract.to_json()) == contract
    True
    """

    run: str
    arrays: tuple[ArrayContract, ...]

    def __post_init__(self) -> None:
        names = [a.spec.name for a in self.arrays]
        if len(set(names)) != len(names):
            raise ContractError(f"run {self.run!r}: arrays {names} have a name twice")

    def __getitem__(self, name: str) -> ArrayContract:
        for array in self.arrays:
            if array.spec.name == name:
                return array
        raise KeyError(name)

    def ordinal(self, name: str) -> int | None:
        """Return the position of an array; None when nothing of it is needed."""
        for i, array in enumerate(self.arrays):
            if array.spec.name == name:
                return i
        return None

    def with_placements(self, placements: Mapping[str, Placement]) -> Contract:
        """Return the same agreement with other receivers; its `digest` does not change."""
        return Contract(
            self.run,
            tuple(a.with_placement(placements.get(a.spec.name, a.placement)) for a in self.arrays),
        )

    def digest(self) -> str:
        """Return the SHA-256 (hex) of what was agreed; placements may change and do not count."""
        return sha256(self._encode(placements=False)).hexdigest()

    def table(self) -> list[dict[str, Any]]:
        """Return one row per array: what is sent of it, in words and numbers."""
        return [array.row() for array in self.arrays]

    def to_bytes(self) -> bytes:
        """Return the binary form that ranks get (see the module's documentation)."""
        return self._encode(placements=True)

    def _encode(self, *, placements: bool) -> bytes:
        out = Writer(MAGIC)
        out.string(self.run)
        out.ints(len(self.arrays))
        for array in self.arrays:
            _write_array(out, array, placements=placements)
        return out.finish()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Contract:
        """Read the binary form.

        Raises
        ------
        ContractError
            When the bytes are no contract, are cut short, or contradict each other.
        """
        reader = Reader(data, MAGIC)
        try:
            run = reader.string()
            arrays = tuple(_read_array(reader) for _ in range(reader.length(8)))
        except (GeometryError, ValueError, TypeError, KeyError) as error:
            raise ContractError(f"the bytes are not a valid contract: {error}") from error
        return cls(run, arrays)

    def to_json(self) -> str:
        """Return the form for people and files."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "run": self.run,
            "digest": self.digest(),
            "arrays": [_array_to_dict(array) for array in self.arrays],
        }
        return json.dumps(document, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Contract:
        """Read the form for people, and check its digest."""
        try:
            document = json.loads(text)
            if document["format"] != FORMAT or document["version"] != VERSION:
                raise ContractError(
                    f"expected {FORMAT} version {VERSION}, "
                    f"got {document['format']} version {document['version']}"
                )
            contract = cls(document["run"], tuple(map(_array_from_dict, document["arrays"])))
        except (GeometryError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ContractError(f"the text is not a valid contract: {error!r}") from error
        if contract.digest() != document.get("digest", contract.digest()):
            raise ContractError("the contract was changed after it was signed: the digest differs")
        return contract


def _whole_rows(layout: ChunkLayout, parts: list[Selection]) -> list[Selection]:
    """Give all selections of a ragged array the same columns, and all its parts."""
    parts = [part for part in parts if part.size]
    if not parts:
        return []
    columns = cover(parts).dims[2:]
    all_parts = Progression(0, layout.shape[1])
    return [Selection.of((part.dims[0], all_parts, *columns)) for part in parts]


def _needed_space(layout: ChunkLayout, wanted: Iterable[Selection]) -> tuple[int, ...]:
    hit = np.zeros(layout.numblocks[1:], dtype=bool)
    for part in wanted:
        box = np.ones((), dtype=bool)
        for dim, indices in enumerate(part.dims[1:], start=1):
            box = np.logical_and.outer(box, layout.counts(dim, indices) > 0)
        hit |= box
    return tuple(np.flatnonzero(hit).tolist())


def _write_array(out: Writer, array: ArrayContract, *, placements: bool) -> None:
    spec, layout = array.spec, array.layout
    with out.record():
        out.string(spec.name)
        out.string(array.name)
        out.string(spec.dtype)
        out.ints(spec.itemsize)
        out.ints(
            _RAGGED * spec.ragged | _DROP * (array.policy == "drop") | _OPEN * layout.open_ended
        )
        count = -1 if spec.steps.count is None else spec.steps.count
        out.ints(spec.steps.start, spec.steps.every, count)
        out.ints(layout.ndim, *layout.shape)
        for dim in range(layout.ndim):
            runs = layout.runs(dim)
            out.ints(len(runs), *(n for run in runs for n in run))
        _write_selection(out, array.cover)
        out.ints(len(array.wanted))
        for part in array.wanted:
            _write_selection(out, part)
        if placements:
            placement = array.placement
            out.ints(placement.epoch, placement.period, len(placement.owners), *placement.owners)
        out.string(json.dumps({"dims": spec.dims, "attrs": dict(spec.attrs)}, sort_keys=True))


def _write_selection(out: Writer, selection: Selection) -> None:
    out.ints(*selection.start, *selection.count, *selection.step)


def _read_array(reader: Reader) -> ArrayContract:
    with reader.record():
        name, dask_name, dtype = reader.string(), reader.string(), reader.string()
        itemsize, flags = reader.ints(2)
        start, every, count = reader.ints(3)
        ndim = reader.length(8)
        shape = reader.ints(ndim)
        chunks = tuple(_read_runs(reader, n) for n in shape)
        cover_ = _read_selection(reader, ndim)
        wanted = tuple(_read_selection(reader, ndim) for _ in range(reader.length(24)))
        epoch, period = reader.ints(2)
        owners = reader.ints(reader.length(8))
        extra = json.loads(reader.string())
    ragged = bool(flags & _RAGGED)
    spec = ArraySpec(
        name,
        dtype,
        (-1, *shape[2:]) if ragged else shape[1:],
        StepAxis(start, every, None if flags & _OPEN else count),
        dims=tuple(extra["dims"]),
        attrs=extra["attrs"],
        ragged=ragged,
    )
    if spec.itemsize != itemsize:
        raise ContractError(f"array {name!r}: dtype {dtype} has not {itemsize} bytes per cell")
    return ArrayContract(
        spec,
        ChunkLayout(shape, chunks),
        cover_,
        wanted,
        Placement(epoch, period, owners),
        dask_name,
        "drop" if flags & _DROP else "block",
    )


def _read_runs(reader: Reader, length: int) -> tuple[int, ...]:
    numbers = reader.ints(2 * reader.length(16))
    runs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    # Checked before unrolling: a hostile repetition must not allocate.
    if (
        any(size < 1 or times < 1 for size, times in runs)
        or sum(size * times for size, times in runs) > length
        or sum(times for _, times in runs) > _MAX_CHUNKS
    ):
        raise ContractError(f"chunk runs {runs} do not fit a dimension of length {length}")
    return unroll(runs)


def _read_selection(reader: Reader, ndim: int) -> Selection:
    return Selection(reader.ints(ndim), reader.ints(ndim), reader.ints(ndim))


def _array_to_dict(array: ArrayContract) -> dict[str, Any]:
    spec, layout, placement = array.spec, array.layout, array.placement
    return {
        "name": spec.name,
        "dask_name": array.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "dims": list(spec.dims),
        "steps": {
            "start": spec.steps.start,
            "every": spec.steps.every,
            "count": spec.steps.count,
        },
        "ragged": spec.ragged,
        "attrs": dict(spec.attrs),
        "policy": array.policy,
        "index_shape": list(layout.shape),
        "chunk_runs": [[list(run) for run in layout.runs(dim)] for dim in range(layout.ndim)],
        "cover": _selection_to_dict(array.cover),
        "wanted": [_selection_to_dict(part) for part in array.wanted],
        "placement": {
            "epoch": placement.epoch,
            "period": placement.period,
            "owners": list(placement.owners),
        },
    }


def _array_from_dict(item: dict[str, Any]) -> ArrayContract:
    placement = item["placement"]
    return ArrayContract(
        ArraySpec(
            item["name"],
            item["dtype"],
            tuple(item["shape"]),
            StepAxis(**item["steps"]),
            dims=tuple(item["dims"]),
            attrs=item["attrs"],
            ragged=item["ragged"],
        ),
        ChunkLayout(
            tuple(item["index_shape"]),
            tuple(
                unroll(tuple((size, times) for size, times in runs)) for runs in item["chunk_runs"]
            ),
        ),
        _selection_from_dict(item["cover"]),
        tuple(map(_selection_from_dict, item["wanted"])),
        Placement(placement["epoch"], placement["period"], tuple(placement["owners"])),
        item["dask_name"],
        item["policy"],
    )


def _selection_to_dict(selection: Selection) -> dict[str, list[int]]:
    return {
        "start": list(selection.start),
        "count": list(selection.count),
        "step": list(selection.step),
    }


def _selection_from_dict(item: dict[str, Any]) -> Selection:
    return Selection(tuple(item["start"]), tuple(item["count"]), tuple(item["step"]))
