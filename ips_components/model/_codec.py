"""The two written forms of what is agreed for an array: binary for ranks, JSON for people.

The binary form is compact, and a C program parses it without any library. All of it is
little-endian and every item begins at a multiple of 8 bytes::

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
               i64    flags: 1 ragged, 2 policy "drop" (else "block"), 4 open-ended,
                      8 the number of steps is a bound, 16 indexed by ids; 32, 64 with that: the
                      lowest, the highest rank owns an id that several have; 128 a choice of blocks
                      at the end of the record
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
               with flag 128, some blocks of an adaptive mesh are wanted: i64*4 first level, one
                      past the last, cells of the next level along one, n; i64*2n: first cell and
                      one past the last of the box per dimension, in cells of level 0
    at the end, if any: i64 number of arrays that are described and not needed, then a record of
               each (i64 length, string name, string dtype, i64 bytes per cell, i64 flags, i64*2
               start and every, i64 n, i64*n shape of space, string JSON object with "attrs")
    string     i64 length in bytes, UTF-8 without terminator, zero bytes up to a multiple of 8

A chunk is needed exactly when some wanted selection has a cell in it; this is never written down.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from ips_components.errors import ContractError
from ips_components.model._binary import Reader, Writer
from ips_components.model.amr import BlockChoice
from ips_components.model.array_contract import ArrayContract
from ips_components.model.layout import ChunkLayout, unroll
from ips_components.model.placement import Placement
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis

MAX_BOX = 16
MAX_CHUNKS = 1 << 24
"""Bound of the chunks along one dimension of a contract that is read from bytes."""

_RAGGED, _DROP, _OPEN, _AT_MOST = 1, 2, 4, 8
_CHOICE = 128
_IDS = {"": 0, "unique": 16, "low": 16 | 32, "high": 16 | 64}
_IDS_OF = {flags: ids for ids, flags in _IDS.items()}


def write_array(out: Writer, array: ArrayContract, *, placements: bool) -> None:
    """Append the binary record of an array, without its placement for a digest."""
    spec, layout = array.spec, array.layout
    with out.record():
        out.string(spec.name)
        out.string(array.name)
        out.string(spec.dtype)
        out.ints(spec.itemsize)
        flags = _RAGGED * spec.ragged | _DROP * (array.policy == "drop") | _IDS[spec.ids]
        flags |= _CHOICE * (array.blocks is not None)
        out.ints(flags | _OPEN * layout.open_ended | _AT_MOST * spec.steps.at_most)
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
        if (blocks := array.blocks) is not None:
            out.ints(*blocks.levels, blocks.refinement, len(blocks.box))
            out.ints(*(n for span in blocks.box for n in span))


def _write_selection(out: Writer, selection: Selection) -> None:
    out.ints(*selection.start, *selection.count, *selection.step)


def read_array(reader: Reader) -> ArrayContract:
    """Read the binary record of an array."""
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
        blocks = _read_blocks(reader) if flags & _CHOICE else None
    ragged = bool(flags & _RAGGED)
    ids = _IDS_OF.get(flags & (16 | 32 | 64))
    if ids is None:
        raise ContractError(f"array {name!r}: flags {flags} say no rule for ids")
    spec = ArraySpec(
        name,
        dtype,
        (-1, *shape[2:]) if ragged else shape[1:],
        StepAxis(start, every, None if flags & _OPEN else count, bool(flags & _AT_MOST)),
        dims=tuple(extra["dims"]),
        attrs=extra["attrs"],
        ragged=ragged,
        ids=ids,
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
        blocks,
    )


def _read_blocks(reader: Reader) -> BlockChoice:
    first, last, refinement, n = reader.ints(4)
    if not 0 <= n <= MAX_BOX:
        raise ContractError(f"a box of blocks has {n} dimensions")
    numbers = reader.ints(2 * n)
    box = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    return BlockChoice((first, last), box, refinement)


def write_unneeded(out: Writer, specs: Collection[ArraySpec]) -> None:
    """Append the arrays that are described and not needed."""
    out.ints(len(specs))
    for spec in specs:
        with out.record():
            out.string(spec.name)
            out.string(spec.dtype)
            out.ints(spec.itemsize, _RAGGED * spec.ragged | _IDS[spec.ids])
            out.ints(spec.steps.start, spec.steps.every, len(spec.shape), *spec.shape)
            out.string(json.dumps({"attrs": dict(spec.attrs)}, sort_keys=True))


def read_unneeded(reader: Reader) -> tuple[ArraySpec, ...]:
    """Read the arrays that are described and not needed."""
    return tuple(_read_spec(reader) for _ in range(reader.length(8)))


def _read_spec(reader: Reader) -> ArraySpec:
    with reader.record():
        name, dtype = reader.string(), reader.string()
        _, flags, start, every = reader.ints(4)
        shape = reader.ints(reader.length(8))
        attrs = json.loads(reader.string())["attrs"]
    return ArraySpec(
        name,
        dtype,
        shape,
        StepAxis(start, every),
        attrs=attrs,
        ragged=bool(flags & _RAGGED),
        ids=_IDS_OF[flags & (16 | 32 | 64)],
    )


def _read_runs(reader: Reader, length: int) -> tuple[int, ...]:
    numbers = reader.ints(2 * reader.length(16))
    runs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    # Checked before unrolling: a hostile repetition must not allocate.
    if (
        any(size < 1 or times < 1 for size, times in runs)
        or sum(size * times for size, times in runs) > length
        or sum(times for _, times in runs) > MAX_CHUNKS
    ):
        raise ContractError(f"chunk runs {runs} do not fit a dimension of length {length}")
    return unroll(runs)


def _read_selection(reader: Reader, ndim: int) -> Selection:
    return Selection(reader.ints(ndim), reader.ints(ndim), reader.ints(ndim))


def array_to_dict(array: ArrayContract) -> dict[str, Any]:
    """Return the JSON object of an array."""
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
            **({"at_most": True} if spec.steps.at_most else {}),
        },
        "ragged": spec.ragged,
        **({"ids": spec.ids} if spec.ids else {}),
        "attrs": dict(spec.attrs),
        "policy": array.policy,
        **({"blocks": asdict(array.blocks)} if array.blocks else {}),
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


def array_from_dict(item: dict[str, Any]) -> ArrayContract:
    """Read the JSON object of an array."""
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
            ids=item.get("ids", ""),
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
        _blocks_from_dict(item.get("blocks")),
    )


def _blocks_from_dict(item: dict[str, Any] | None) -> BlockChoice | None:
    if item is None:
        return None
    box = tuple((low, high) for low, high in item["box"])
    return BlockChoice((item["levels"][0], item["levels"][1]), box, item["refinement"])


def _selection_to_dict(selection: Selection) -> dict[str, list[int]]:
    return {
        "start": list(selection.start),
        "count": list(selection.count),
        "step": list(selection.step),
    }


def _selection_from_dict(item: dict[str, Any]) -> Selection:
    return Selection(tuple(item["start"]), tuple(item["count"]), tuple(item["step"]))
