"""What the Dask side must know of a run: one frozen, JSON-able object.

The IPS side makes it from the config (:mod:`ips_components.config`); it travels with the worker
plugin to every worker and with the analysis task.  Standard library and the model only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ips_components.errors import ConfigError
from ips_components.model.spec import ArraySpec, StepAxis

DEADLINES = {"connect": 60.0, "contract": 60.0, "step": 300.0, "drain": 60.0}


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of one run.

    Parameters
    ----------
    run : str
        Run id; a restart has a new one.
    token : str
        64 hexadecimal digits, the run's secret.
    analysis : str
        ``package.module:function``.
    parameters : mapping
        Keyword arguments of the analysis function.
    arrays : list of mapping or None
        Fields of :class:`~ips_components.model.spec.ArraySpec` per array; None when the
        simulation describes its arrays itself.
    chunks : mapping
        Chunks of an array, in dask's notation, by array name.
    policies : mapping
        ``"block"`` or ``"drop"`` by array name.
    n_receivers : int
        Workers that must have opened their receivers.
    results, results_format : str
        Where and how results are written.
    run_dir : str
        Folder of the run's records.
    deadlines : mapping
        Seconds for connect, contract, step, drain.
    on_analytics_loss : {"continue", "abort"}
        What ranks do when the analysis is gone.
    replay_steps : int
        Steps that ranks keep for chunks whose worker died.
    memory_share : float
        Share of a worker's memory limit that chunks may take.
    lanes : tuple of str
        ``"shm"``, ``"tcp"`` or both.
    n_steps : int or None
        Steps of the run, for messages; None when unknown.
    """

    run: str
    token: str = field(repr=False)
    analysis: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    arrays: list[dict[str, Any]] | None = None
    chunks: Mapping[str, Any] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    n_receivers: int = 1
    results: str = "results.zarr"
    results_format: str = "zarr"
    run_dir: str = "."
    deadlines: Mapping[str, float] = field(default_factory=dict)
    on_analytics_loss: str = "continue"
    replay_steps: int = 1
    memory_share: float = 0.4
    lanes: tuple[str, ...] = ("shm", "tcp")
    n_steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "deadlines", {**DEADLINES, **self.deadlines})
        object.__setattr__(self, "lanes", tuple(self.lanes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers."""
        return {**asdict(self), "lanes": list(self.lanes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSettings:
        """Return the settings of :meth:`to_dict`.

        Raises
        ------
        ConfigError
            If there is a name that this version does not know.
        """
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ConfigError(
                f"unknown run settings {', '.join(sorted(unknown))}: IPS and the Dask workers run "
                "different versions of ips_components; install the same on both sides"
            )
        return cls(**values)

    def array_specs(self) -> list[ArraySpec] | None:
        """Return the arrays that the config describes, None when the simulation does it."""
        return None if self.arrays is None else specs_from(self.arrays)


def specs_from(described: Iterable[Mapping[str, Any]]) -> list[ArraySpec]:
    """Return array specs of plain mappings, as they come from the config or from rank 0."""
    return [
        ArraySpec(
            name=one["name"],
            dtype=one["dtype"],
            shape=tuple(one["shape"]),
            steps=StepAxis(**one.get("steps", {})),
            dims=tuple(one.get("dims", ())),
            attrs=dict(one.get("attrs", {})),
            ragged=bool(one.get("ragged", False)),
        )
        for one in described
    ]
