"""Pure geometry and agreements: which cell of which block goes where (stdlib and NumPy only).

Public names are loaded when they are first used: a rank needs half of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_components.model.block import Block
    from ips_components.model.contract import ArrayContract, Contract, Policy
    from ips_components.model.decomposition import Decomposition, dims_create
    from ips_components.model.keys import array_name, chunk_key
    from ips_components.model.layout import ChunkLayout
    from ips_components.model.pieces import (
        BlockPlan,
        BlockPlans,
        Piece,
        RowPiece,
        RowPlan,
        part_of,
        ranks_of,
    )
    from ips_components.model.placement import Placement, affinity, place, replace
    from ips_components.model.selection import Selection, cover, disjoint
    from ips_components.model.spec import OPEN_ENDED, ArraySpec, StepAxis

__all__ = [
    "OPEN_ENDED",
    "ArrayContract",
    "ArraySpec",
    "Block",
    "BlockPlan",
    "BlockPlans",
    "ChunkLayout",
    "Contract",
    "Decomposition",
    "Piece",
    "Placement",
    "Policy",
    "RowPiece",
    "RowPlan",
    "Selection",
    "StepAxis",
    "affinity",
    "array_name",
    "chunk_key",
    "cover",
    "dims_create",
    "disjoint",
    "part_of",
    "place",
    "ranks_of",
    "replace",
]

_MODULES = {
    "block": ("Block",),
    "contract": ("ArrayContract", "Contract", "Policy"),
    "decomposition": ("Decomposition", "dims_create"),
    "keys": ("array_name", "chunk_key"),
    "layout": ("ChunkLayout",),
    "pieces": (
        "BlockPlan",
        "BlockPlans",
        "Piece",
        "RowPiece",
        "RowPlan",
        "part_of",
        "ranks_of",
    ),
    "placement": ("Placement", "affinity", "place", "replace"),
    "selection": ("Selection", "cover", "disjoint"),
    "spec": ("OPEN_ENDED", "ArraySpec", "StepAxis"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
