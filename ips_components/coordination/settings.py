"""What one coupled run needs to know, in a form that travels: plain values, no behaviour.

The IPS side makes a :class:`RunSettings` from its config; it goes as a dict to the analysis task,
to every worker's receiver and to the run coordinator on the scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

from ips_components.errors import ConfigError

if TYPE_CHECKING:
    from ips_components.model.default_chunks import ChunkChoice
    from ips_components.model.spec import ArraySpec

DEADLINES: Mapping[str, float] = {
    "connect": 120.0,
    "contract": 300.0,
    "step": 600.0,
    "drain": 120.0,
    "silence": 30.0,
}
"""Seconds to wait for peers, for the contract, for one step, for the end, for a sign of life."""

ON_LOSS = ("continue", "abort")
LANES = ("shm", "tcp")
FORMATS = ("zarr", "netcdf")
POLICIES = ("block", "drop")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of one run of one analysis.

    Parameters
    ----------
    run
        Run id: distinguishes restarts, older ones are stale.
    token
        Secret of the run, 64 hexadecimal digits.
    analysis
        ``package.module:function``, or several of them with commas between.
    n_receivers
        Number of Dask workers to wait for, each of which opens one receiver.
    parameters
        Keyword arguments of the analysis function.
    arrays
        Descriptions of the arrays (fields of ``ArraySpec``), or None when rank 0 describes them.
    decompositions
        Expected decomposition of each array: blocks per dimension of space. Optional.
    halos
        Ghost cells around the blocks of each array: one number, or per dimension a number or a
        pair (below, above). Optional.
    shared
        Owner of the points that neighbouring blocks of an array share, ``"low"`` or ``"high"``,
        one for all dimensions or one per dimension (``""``: none are shared). Optional.
    chunks
        Chunks of each array in Dask's notation, time first. Optional.
    steps
        Steps (fields of ``StepAxis``) of arrays that the simulation describes without knowing how
        many there will be.
    at_most
        Names of the arrays whose number of steps is a bound: the simulation may end earlier.
    policies
        ``"block"`` (default) or ``"drop"`` for each array: what a full worker means to the ranks.
    results, results_format
        Path of the results, and ``"zarr"`` or ``"netcdf"``.
    overwrite
        Whether results of an earlier run at this path may be replaced.
    figure
        Whether what a figure shows of the results is kept for the process that draws it.
    streaming_reductions
        Whether reductions over time keep a running state instead of a tree of partial results.
    chunk_bytes, latency, step_seconds
        What several steps in one chunk may have, how many seconds the first of them may wait for
        the last, and what a step takes (0: not known); see `model.default_chunks`.
    run_dir
        Directory of the run's own files.
    task_log
        File on the scheduler's host that gets every change of state of the run's external tasks as
        a line of JSON; empty for none.
    n_steps
        Number of simulation steps, None when it is not known.
    n_ranks
        Number of ranks that the simulation is launched with, None when it is not known.
    deadlines
        Seconds by name; see `DEADLINES`.
    on_analytics_loss
        ``"continue"``: the simulation goes on alone; ``"abort"``: it does not.
    replay_steps
        Steps that a rank keeps for sending again.
    replay_bytes
        Memory that a rank may take for that.
    slot_bytes
        Memory that a rank may take for all its blocks, those included.
    memory_share
        Part of a worker's memory limit that may hold data which no task has consumed yet.
    lanes
        Ways that data may take: ``"shm"`` (same node), ``"tcp"``.
    security
        ``"tls"``: blocks over TCP are encrypted with the certificates of the Dask workers. Anything
        else: they are not.
    checkpoint
        File with the state of the analysis to go on from; empty for a new start.
    windows
        File with the state of its windows to go on from; empty for a new start.
    simulation
        Port of the simulation, for messages.
    launches
        Empty: the simulation is launched once. Else its launches put into the same arrays one
        after the other: ``steps`` (of each, None when they differ), ``renumber`` (ranks count from
        0 at every launch), ``retry`` (one that fails is launched again), ``count`` (how many there
        will be, None when not known), ``checkpoint`` (whether the workflow takes checkpoints).
        A run that goes on from one also has ``first_step``, ``first_launch`` and ``published``
        (how often something was published that the workflow has taken). ``begin`` is the physical
        time at which the first launch begins, None where it is not known.
    times
        Physical times of the steps of a simulation that is launched once, as
        `model.step_times.StepTimes` has them.
    leave_out
        Whether a failure of the simulation leaves it out of the run, instead of failing the run.
    partners
        Settings of further runs, as dicts: those of the other simulations that feed this
        analysis. Each has a run id, a token, receivers and ranks of its own.
    attach
        Whether other programs of the same user may attach to the run.
    """

    run: str
    token: str = field(repr=False)
    analysis: str
    n_receivers: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[Mapping[str, Any], ...] | None = None
    decompositions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    halos: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    chunks: Mapping[str, Any] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    results: str = "results.zarr"
    results_format: str = "zarr"
    overwrite: bool = False
    figure: bool = False
    streaming_reductions: bool = True
    chunk_bytes: int = 32 << 20
    latency: float = 1.0
    step_seconds: float = 0.0
    run_dir: str = "."
    task_log: str = ""
    n_steps: int | None = None
    n_ranks: int | None = None
    deadlines: Mapping[str, float] = field(default_factory=dict)
    on_analytics_loss: str = "continue"
    replay_steps: int = 2
    replay_bytes: int = 1 << 30
    slot_bytes: int = 1 << 30
    memory_share: float = 0.3
    lanes: tuple[str, ...] = LANES
    security: str = "none"
    checkpoint: str = ""
    windows: str = ""
    simulation: str = "the simulation"
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    at_most: tuple[str, ...] = ()
    launches: Mapping[str, Any] = field(default_factory=dict)
    leave_out: bool = False
    times: Mapping[str, Any] = field(default_factory=dict)
    partners: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    attach: bool = True

    def __post_init__(self) -> None:
        if not self.run or not self.token:
            raise ConfigError("a run needs an id and a token")
        if self.n_receivers < 1:
            raise ConfigError(f"a run needs at least one receiver, got {self.n_receivers}")
        if not 0.0 < self.memory_share <= 1.0:
            raise ConfigError(f"memory share must be in (0, 1], got {self.memory_share}")
        for name, value, allowed in (
            ("results format", self.results_format, FORMATS),
            ("policy on loss of the analytics", self.on_analytics_loss, ON_LOSS),
            *((f"policy of array {array!r}", p, POLICIES) for array, p in self.policies.items()),
            *(("lane", lane, LANES) for lane in self.lanes),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        object.__setattr__(self, "deadlines", {**DEADLINES, **self.deadlines})

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Make settings from `to_dict`'s result; names that this version lacks are passed over."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in settings.items() if name in known}
        for name in ("arrays", "at_most", "lanes", "partners"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)

    def chunk_steps(self, spec: ArraySpec, notices: str = "") -> ChunkChoice:
        """Return how many steps a chunk of an array has, unless `chunks` says it.

        Parameters
        ----------
        notices
            Why the analysis would notice that steps come together; empty if it would not.
        """
        from ips_components.model.default_chunks import ChunkChoice, default_steps

        if self.policies.get(spec.name) == "drop":
            notices = "steps may be dropped one by one"
        elif self.leave_out:
            notices = "what a failed simulation has put is kept by step"
        elif self.launches:
            notices = "the simulation is launched several times"
        if notices or not self.chunk_bytes:
            return ChunkChoice(1, notices or "CHUNK_BYTES = 0")
        return default_steps(
            spec,
            self.n_receivers,
            chunk_bytes=self.chunk_bytes,
            latency=self.latency,
            step_seconds=self.step_seconds,
        )

    def array_specs(self) -> list[ArraySpec]:
        """Return the arrays that the config describes; none when the simulation describes them."""
        from ips_components.model.margins import owners, sides

        described = []
        for array in self.arrays or ():
            # What only ranks need to find their blocks travels with the array.
            attrs = dict(array.get("attrs", {}))
            if (grid := self.decompositions.get(array["name"])) is not None:
                attrs["process_grid"] = list(grid)
            ndim = len(array["shape"])
            if halo := self.halos.get(array["name"]):
                attrs["halo"] = halo
                if not isinstance(halo, int):
                    pairs = sides(halo, ndim)
                    even = all(low == high for low, high in pairs)
                    attrs["halo"] = [low if even else [low, high] for low, high in pairs]
            if owner := self.shared.get(array["name"]):
                attrs["shared"] = list(owners(owner, ndim))
            described.append({**array, "attrs": attrs})
        return self.specs_from(described)

    def bounded(self, specs: Iterable[ArraySpec]) -> list[ArraySpec]:
        """Return specifications with what the config says of their steps.

        Raises
        ------
        ConfigError
            If `steps` contradicts what the simulation says, or an array in `at_most` has no number
            of steps.
        """
        from ips_components.model.amr import TABLE_OF
        from ips_components.model.spec import StepAxis

        found = []
        for spec in specs:
            name = spec.attrs.get(TABLE_OF, spec.name)  # a table has the steps of its blocks
            if (steps := self.steps.get(name)) is not None:
                axis = StepAxis(**steps)
                if not spec.steps.open_ended and axis != spec.steps:
                    raise ConfigError(
                        f"array {spec.name!r}: the simulation describes {spec.steps}, the config "
                        f"says {axis}; leave STEPS out of [[[{spec.name}]]]"
                    )
                spec = replace(spec, steps=axis)
            if name in self.at_most:
                if spec.steps.open_ended:
                    raise ConfigError(
                        f"array {spec.name!r}: AT_MOST = True needs a number of steps as the "
                        "bound, and neither the config nor the simulation gives one; set STEPS, "
                        "or leave AT_MOST out: the graph then grows with the steps that come"
                    )
                spec = replace(spec, steps=replace(spec.steps, at_most=True))
            found.append(spec)
        return found

    @staticmethod
    def specs_from(described: Iterable[Mapping[str, Any]]) -> list[ArraySpec]:
        """Make array specifications from their descriptions."""
        from ips_components.model.spec import ArraySpec, StepAxis

        return [
            ArraySpec(
                name=array["name"],
                dtype=array["dtype"],
                shape=tuple(array["shape"]),
                steps=StepAxis(**array.get("steps", {})),
                dims=tuple(array.get("dims", ())),
                attrs=dict(array.get("attrs", {})),
                ragged=bool(array.get("ragged", False)),
                ids=str(array.get("ids", "")),
            )
            for array in described
        ]
