"""Write the vectors of contracts and pieces that the Python and the C implementation share.

Run ``python tests/conformance/generate_geometry.py`` after a deliberate change of the format.

``geometry_vectors.json``: a contract (hex of its binary form), some blocks, and the pieces of each
block at some time indices, in order. ``contract_vectors.json``: contracts in both their forms, and
byte strings that a reader must refuse.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ips_components.model import (
    ArrayContract,
    ArraySpec,
    Block,
    BlockPlan,
    Contract,
    Decomposition,
    RowPlan,
    Selection,
    StepAxis,
)
from ips_components.model.by_id import IdPlan

HERE = Path(__file__).parent
RUN = "vectors"


def agree(name, dtype, shape, count, keys=None, receivers=(0, 1), **options):
    spec = ArraySpec(
        name, dtype, shape, StepAxis(options.pop("start", 0), options.pop("every", 1), count)
    )
    selections = None
    if keys is not None:
        selections = [Selection.from_key(key, spec.index_shape) for key in keys]
    return ArrayContract.agree(spec, selections, run=RUN, receivers=receivers, **options)


def cases():
    """Name, contract of one array, blocks with halo, time indices to ask."""
    whole = Decomposition.regular((8, 12), (2, 2))
    blocks = [(b, (1, 1)) for (b,) in whole.blocks]
    yield "everything, halo of one", agree("t", "<f8", (8, 12), 4), blocks, range(5)
    yield (
        "strided region of every third step",
        agree("t", "<f8", (8, 12), 10, [np.s_[1::3, 1::2, -5:]], start=100, every=10),
        blocks,
        range(11),
    )
    yield (
        "union of three boxes, two steps per chunk",
        agree(
            "t",
            "<f4",
            (8, 12),
            7,
            [np.s_[::2, :3], np.s_[3, 2:, ::3], np.s_[5:, 7, 11]],
            chunks=(2, (3, 5), 5),
            receivers=(3, 1, 4),
        ),
        [(b, None) for (b,) in whole.blocks],
        range(8),
    )
    yield (
        "uneven steps per chunk",
        agree("t", "|u1", (9,), 6, [np.s_[1:]], chunks=((1, 3, 2), 4)),
        [(Block((0,), (5,)), (0,)), (Block((5,), (4,)), (2,)), (Block((9,), (0,)), None)],
        range(6),
    )
    tiles = [Block((0, 0, 0), (2, 5, 3)), Block((2, 0, 0), (3, 2, 3)), Block((2, 2, 0), (3, 3, 3))]
    yield (
        "irregular tiling in three dimensions",
        agree("rho", "<c16", (5, 5, 3), 2, [np.s_[..., 1:]], chunks=(1, 2, 3, 2)),
        [(b, (0, 1, 2)) for b in tiles],
        range(2),
    )
    yield (
        "four dimensions",
        agree("f", "<i4", (3, 4, 2, 5), 2, [np.s_[0, :, 1:, 0], np.s_[1, ..., ::2]]),
        [
            (Block((0, 0, 0, 0), (3, 2, 2, 5)), None),
            (Block((0, 2, 0, 0), (3, 2, 2, 5)), (0, 0, 0, 1)),
        ],
        range(2),
    )
    yield (
        "a number per step",
        agree("e", "<f8", (), 5, [np.s_[::2]]),
        [(Block((), ()), None)],
        range(5),
    )
    yield (
        "open-ended run",
        agree("t", "<f8", (8,), None, [np.s_[10::5, 2:]], chunks={"time": 4}, policy="drop"),
        [(Block((0,), (5,)), (1,)), (Block((5,), (3,)), (1,))],
        [0, 9, 10, 11, 15, 1_000_000],
    )


def piece_vector(piece):
    return {
        "chunk": piece.chunk,
        "receiver": piece.receiver,
        "src": [[s.start, len(range(s.start, s.stop, s.step)), s.step] for s in piece.src],
        "dst": [list(span) for span in piece.dst],
        "cells": piece.cells,
    }


def geometry_vectors():
    vectors = []
    for title, array, blocks, times in cases():
        vectors.append(
            {
                "title": title,
                "contract": Contract(RUN, (array,)).to_bytes().hex(),
                "blocks": [
                    {
                        "offset": list(block.offset),
                        "shape": list(block.shape),
                        "halo": list(halo or (0,) * block.ndim),
                        "pieces": {
                            str(t): [piece_vector(p) for p in BlockPlan(array, block, halo).at(t)]
                            for t in times
                        },
                    }
                    for block, halo in blocks
                ],
            }
        )
    spec = ArraySpec("x", "<f4", (-1, 4), StepAxis(count=6), ragged=True)
    columns = [Selection.from_key(np.s_[::2, :, 1::2], (6, 3, 4))]
    array = ArrayContract.agree(spec, columns, run=RUN, receivers=(0, 1, 2))
    vectors.append(
        {
            "title": "particles",
            "contract": Contract(RUN, (array,)).to_bytes().hex(),
            "ranks": [
                {
                    "rank": rank,
                    "size": 5,
                    "pieces": {str(t): row_vector(RowPlan(array, rank, 5).at(t)) for t in range(6)},
                }
                for rank in range(5)
            ],
        }
    )
    vectors.extend(id_vectors())
    return vectors


def id_vectors():
    """Rows by ids: in any order, columns and ids in strides, several steps in a chunk, no rows."""
    cases = [
        ("low", (11,), None, {}, [[10, 3, 0, 7], [1, 2, 3, 4, 5, 6, 8, 9], []]),
        (
            "unique",
            (11, 3),
            [np.s_[::2, 1:10:3, 1:], np.s_[1, :5, :2]],
            {"chunks": {0: 3, 1: (5, 6), 2: 2}},
            [[10, 3, 0, 7, 4], [2, 1]],
        ),
    ]
    for rule, shape, keys, options, ranks in cases:
        spec = ArraySpec("u", "<f4", shape, StepAxis(count=6), ids=rule)
        selections = [Selection.from_key(key, spec.index_shape) for key in keys or ()] or None
        array = ArrayContract.agree(spec, selections, run=RUN, receivers=(0, 1), **options)
        yield {
            "title": f"{rule} ids of shape {shape}",
            "contract": Contract(RUN, (array,)).to_bytes().hex(),
            "ids": [
                {
                    "ids": ids,
                    "pieces": {
                        str(t): [
                            id_vector(one)
                            for one in IdPlan(array, np.array(ids, dtype=np.int64)).at(t)
                        ]
                        for t in range(7)
                    },
                }
                for ids in ranks
            ],
        }


def id_vector(one):
    return {
        "chunk": one.piece.chunk,
        "receiver": one.piece.receiver,
        "time": list(one.piece.dst[0]),
        "bytes": one.cut.nbytes,
        "columns": [
            [s.start, len(range(s.start, s.stop, s.step)), s.step] for s in one.cut.columns
        ],
        "rows": one.cut.rows.tolist(),
        "positions": one.cut.positions.tolist(),
    }


def row_vector(piece):
    if piece is None:
        return None
    columns = [[s.start, len(range(s.start, s.stop, s.step)), s.step] for s in piece.src[1:]]
    return {"chunk": piece.chunk, "receiver": piece.receiver, "columns": columns}


def contract_vectors():
    spec = ArraySpec(
        "temperature",
        "<f8",
        (8, 12),
        StepAxis(10, 5, 20),
        dims=("y", "x"),
        attrs={"units": "K", "long_name": "température"},
    )
    first = ArrayContract.agree(
        spec,
        [Selection.from_key(k, (20, 8, 12)) for k in (np.s_[::2, :3], np.s_[5, 4:, ::2])],
        run="été-7",
        receivers=(0, 1),
    )
    rows = ArraySpec("x", "<f4", (-1, 3), StepAxis(), ragged=True)
    second = ArrayContract.agree(rows, run="été-7", receivers=(0, 1, 2), policy="drop")
    agreed = Contract("été-7", (first, second))
    empty = Contract("none", ())
    good = agreed.to_bytes()
    return {
        "contracts": [
            {"hex": c.to_bytes().hex(), "digest": c.digest(), "json": json.loads(c.to_json())}
            for c in (agreed, empty)
        ],
        "refused": [
            {"why": why, "hex": data.hex()}
            for why, data in (
                ("empty", b""),
                ("wrong magic", b"IPSCTRT0" + good[8:]),
                ("cut short", good[:-8]),
                ("one word too long", good + bytes(8)),
                ("run longer than the message", good[:16] + b"\xff" * 7 + b"\x7f" + good[24:]),
                ("negative number of arrays", good[:32] + b"\xff" * 8 + good[40:]),
                ("record longer than the message", good[:40] + b"\xff" * 6 + bytes(2) + good[48:]),
                ("record of no length", good[:40] + bytes(8) + good[48:]),
            )
        ],
    }


def dump(value, depth=0):
    """Write JSON with one line per short list, so that a change shows as a short difference."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) <= 96 or not isinstance(value, dict | list):
        return flat
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{pad}{json.dumps(k)}: {dump(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * depth + "}"
    return "[\n" + ",\n".join(pad + dump(v, depth + 1) for v in value) + "\n" + " " * depth + "]"


FILES = {"contract_vectors.json": contract_vectors, "geometry_vectors.json": geometry_vectors}


def main():
    for name, make in FILES.items():
        (HERE / name).write_text(dump(make()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
