"""The Python model agrees with the shared vectors, which the C bridge is tested against too."""

import json
from pathlib import Path

import numpy as np
import pytest

from ips_components.errors import ContractError
from ips_components.model import Block, BlockPlan, Contract, RowPlan
from ips_components.model.by_id import IdPlan

HERE = Path(__file__).parent
GEOMETRY = json.loads((HERE / "geometry_vectors.json").read_text(encoding="utf-8"))
CONTRACTS = json.loads((HERE / "contract_vectors.json").read_text(encoding="utf-8"))


def spans(slices):
    return [[s.start, len(range(s.start, s.stop, s.step)), s.step] for s in slices]


@pytest.mark.parametrize("vector", GEOMETRY, ids=lambda v: v["title"])
def test_pieces(vector):
    (array,) = Contract.from_bytes(bytes.fromhex(vector["contract"])).arrays
    for item in vector.get("blocks", ()):
        plan = BlockPlan(array, Block(tuple(item["offset"]), tuple(item["shape"])), item["halo"])
        for t, expected in item["pieces"].items():
            found = [
                {
                    "chunk": p.chunk,
                    "receiver": p.receiver,
                    "src": spans(p.src),
                    "dst": [list(span) for span in p.dst],
                    "cells": p.cells,
                }
                for p in plan.at(int(t))
            ]
            assert found == expected
    for item in vector.get("ranks", ()):
        plan = RowPlan(array, item["rank"], item["size"])
        for t, expected in item["pieces"].items():
            piece = plan.at(int(t))
            assert (piece is None) == (expected is None)
            if piece is not None:
                assert [piece.chunk, piece.receiver, spans(piece.src[1:])] == list(
                    expected.values()
                )


@pytest.mark.parametrize("vector", [v for v in GEOMETRY if "ids" in v], ids=lambda v: v["title"])
def test_rows_by_ids(vector):
    (array,) = Contract.from_bytes(bytes.fromhex(vector["contract"])).arrays
    for item in vector["ids"]:
        plan = IdPlan(array, np.array(item["ids"], np.int64))
        for t, expected in item["pieces"].items():
            found = [
                {
                    "chunk": piece.chunk,
                    "receiver": piece.receiver,
                    "time": list(piece.dst[0]),
                    "bytes": piece.dst[1][1],
                    "columns": spans(cut.columns),
                    "rows": cut.rows.tolist(),
                    "positions": cut.positions.tolist(),
                }
                for piece, cut in plan.at(int(t))
            ]
            assert found == expected


@pytest.mark.parametrize("vector", CONTRACTS["contracts"], ids=lambda v: v["json"]["run"])
def test_contracts(vector):
    agreed = Contract.from_bytes(bytes.fromhex(vector["hex"]))
    assert agreed.digest() == vector["digest"]
    assert json.loads(agreed.to_json()) == vector["json"]
    assert Contract.from_json(json.dumps(vector["json"])).to_bytes().hex() == vector["hex"]


@pytest.mark.parametrize("vector", CONTRACTS["refused"], ids=lambda v: v["why"])
def test_refused(vector):
    with pytest.raises(ContractError):
        Contract.from_bytes(bytes.fromhex(vector["hex"]))
