"""What a config says of one array."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ips_components.config import _types as types
from ips_components.config._declare import parameter
from ips_components.model.amr import BLOCK_SHAPE, LEVELS, REFINEMENT, TABLE_OF, table_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayConfig:
    """What the config says about one array; without a shape, the simulation describes it."""

    name: str
    shape: tuple[int, ...] | None = parameter(
        types.EXTENTS, "Global shape of space, without time.", None
    )
    dtype: str = parameter(types.TEXT, "NumPy type.", "float64")
    dims: tuple[str, ...] = parameter(types.LIST, "Names of the dimensions of space.", ())
    decomposition: tuple[int, ...] | None = parameter(
        types.EXTENTS, "Blocks along each dimension of space.", None
    )
    halo: int | tuple[int | tuple[int, int], ...] = parameter(
        types.WIDTHS,
        "Ghost cells around each block, never sent; `2:3` is 2 below and 3 above it.",
        0,
        unit="cells",
    )
    shared: tuple[str, ...] = parameter(
        types.OWNERS,
        "Where neighbouring blocks both have the plane of points between them (staggered arrays): "
        "which of them owns it, the lower or the higher one.",
        (),
    )
    ids: str = parameter(
        types.choice("none", "unique", "low", "high"),
        "Where the first dimension of SHAPE is indexed by global ids (a mesh): each id is at one "
        "rank, or the lowest or highest rank that has it owns it.",
        "none",
    )
    levels: int = parameter(
        types.NON_NEGATIVE_INT,
        "Levels of refinement, where the rows are blocks of an adaptive mesh (SHAPE = -1, 8, 8). "
        "The analysis gets the table `name.blocks` of their levels and places as well.",
        0,
    )
    refinement: int = parameter(
        types.POSITIVE_INT, "Cells of the next level along one cell, with LEVELS.", 2
    )
    steps: Mapping[str, int | None] | None = parameter(
        types.STEPS,
        "Steps at which it is put; [TIME_LOOP]'s by default. Without SHAPE: what the simulation "
        "does not know when it describes the array.",
        None,
    )
    at_most: bool = parameter(
        types.BOOL,
        "Whether STEPS is a bound: the simulation may end earlier, and results are those of the "
        "steps that came.",
        False,
    )
    chunks: Any = parameter(  # noqa: RUF009 (a field, whatever its annotation)
        types.CHUNKS, "Chunks for the analysis.", None
    )
    policy: str = parameter(
        types.choice("block", "drop"),
        "When a worker is full: make the ranks wait, or drop the step.",
        "block",
    )
    simulation: str = parameter(
        types.TEXT,
        "Port of the simulation that puts it, where several feed the analysis and SHAPE is given.",
        "",
    )
    units: str = parameter(types.TEXT, "Physical unit.", "")
    long_name: str = parameter(types.TEXT, "Name for figures.", "")

    @property
    def owner(self) -> str | tuple[str, ...] | None:
        """Which neighbour owns shared points: one word for all dimensions, or one per dimension."""
        if len(self.shared) > 1:
            return self.shared
        return self.shared[0] if self.shared else None

    def description(self, n_steps: int | None) -> dict[str, Any] | None:
        """Fields of an ``ArraySpec``, None when the simulation is to describe the array."""
        if self.shape is None:
            return None
        names = {"units": self.units, "long_name": self.long_name}
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "steps": dict(self.steps or {"start": 0, "every": 1, "count": n_steps}),
            "dims": list(self.dims),
            "attrs": {name: value for name, value in names.items() if value} | self._mesh,
            "ragged": self.shape[0] == -1,
            **({"ids": self.ids} if self.ids != "none" else {}),
        }

    @property
    def _mesh(self) -> dict[str, Any]:
        return {LEVELS: self.levels, REFINEMENT: self.refinement} if self.levels else {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays that are put: its own, and that of the table of its blocks."""
        return (self.name, table_name(self.name)) if self.levels else (self.name,)

    def descriptions(self, n_steps: int | None) -> list[dict[str, Any]]:
        """Return the fields of an ``ArraySpec`` for each array that is put and described here.

        The table of an array's blocks says what a rank in C has to know of that array, which the
        contract may not name.
        """
        whole = self.description(n_steps)
        if whole is None or not self.levels:
            return [whole] if whole is not None else []
        shape = whole["shape"]
        table = {
            **whole,
            "name": table_name(self.name),
            "dtype": "int64",
            "shape": [-1, len(shape)],
            "dims": ["block", "level_and_place"],
            "attrs": {TABLE_OF: self.name, BLOCK_SHAPE: shape[1:], **self._mesh},
        }
        return [whole, table]
