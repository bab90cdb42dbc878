"""The config of one run: typed, checked, frozen."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from ips_components.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TimeLoop:
    """The steps of the simulation: how many, and from which time to which."""

    start: float = 0.0
    finish: float | None = None
    n_steps: int | None = None
    times: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ArrayConfig:
    """What the config says about one array; without a shape, the simulation describes it."""

    name: str
    shape: tuple[int, ...] | None = None
    dtype: str = "float64"
    dims: tuple[str, ...] = ()
    decomposition: tuple[int, ...] | None = None
    halo: int | tuple[int, ...] = 0
    steps: Mapping[str, int | None] | None = None
    chunks: Any = None
    policy: str = "block"
    simulation: str = ""
    units: str = ""
    long_name: str = ""

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
            "attrs": {name: value for name, value in names.items() if value},
            "ragged": self.shape[0] == -1,
        }


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """One simulation component."""

    port: str
    section: str
    executable: str
    nproc: int
    args: tuple[str, ...] = ()
    task_ppn: int = 0
    task_cpp: int = 0
    task_gpp: int = 0
    omp: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    task_log: str = "simulation.log"
    time_out: float = 0.0
    input_files: tuple[str, ...] = ()
    output_files: tuple[str, ...] = ()
    restart_files: tuple[str, ...] = ()
    state_files: tuple[str, ...] = ()
    bin_path: str = ""

    def arguments(self, **words: object) -> list[str]:
        """Arguments with ``{NSTEP}`` and the like filled in."""
        filled = []
        for argument in self.args:
            for name, value in words.items():
                argument = argument.replace("{" + name + "}", str(value))
            filled.append(argument)
        return filled

    def program(self) -> str:
        """Path of the executable: in BIN_PATH when it is there, else as it is written."""
        beside = Path(self.bin_path) / self.executable if self.bin_path else None
        return str(beside) if beside is not None and beside.is_file() else self.executable


@dataclass(frozen=True, slots=True)
class AnalyticsConfig:
    """One analytics component."""

    port: str
    section: str
    analysis: str
    analysis_args: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    arrays: tuple[ArrayConfig, ...] = ()
    dask_nodes: int = 1
    dask_workers_per_node: int = 1
    dask_ppw: int | None = None
    dask_worker_per_gpu: bool = False
    use_shifter: bool = False
    results: str = ""
    results_format: str = "zarr"
    overwrite: bool = False
    memory_share: float = 0.3
    replay_steps: int = 2
    replay_bytes: int = 1 << 30
    on_analytics_loss: str = "continue"
    connect_time_out: float = 120.0
    contract_time_out: float = 300.0
    step_time_out: float = 600.0
    drain_time_out: float = 120.0
    analysis_time_out: float = 3600.0
    silence_time_out: float = 30.0
    teardown_time_out: float = 3600.0
    lanes: tuple[str, ...] = ("shm", "tcp")
    security: str = "none"
    live_page: bool = False
    task_log: bool = True
    progress: bool = True
    figure: bool = True
    worker_plugins: str | None = None
    input_dir: str = ""
    input_files: tuple[str, ...] = ()
    output_files: tuple[str, ...] = ()
    gpus_per_node: int = 0

    @property
    def n_receivers(self) -> int:
        """Dask workers that will be started."""
        per_node = self.gpus_per_node if self.dask_worker_per_gpu else 1
        return self.dask_nodes * per_node * self.dask_workers_per_node

    @property
    def deadlines(self) -> dict[str, float]:
        """Deadlines by the names that the wire uses."""
        return {
            "connect": self.connect_time_out,
            "contract": self.contract_time_out,
            "step": self.step_time_out,
            "drain": self.drain_time_out,
            "silence": self.silence_time_out,
        }


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One simulation of ``ips.py``: everything that its config file says to our components."""

    file: str
    sim_name: str
    sim_root: str
    log_file: str
    run_id: str = ""
    comment: str = ""
    mode: str = "NORMAL"
    restart_root: str = ""
    restart_time: str = "LATEST"
    times: TimeLoop = TimeLoop()
    simulations: tuple[SimulationConfig, ...] = ()
    analytics: tuple[AnalyticsConfig, ...] = ()
    oversubscribe: bool = False
    attended: bool = True
    """Whether the driver is the one of this package: it launches every simulation once."""

    @property
    def coupled_ports(self) -> tuple[SimulationConfig, ...]:
        """The components whose tasks put data into the run."""
        return self.simulations

    @property
    def n_steps(self) -> int | None:
        """Steps that the simulation puts; None where nobody knows."""
        return self.times.n_steps if self.attended else None

    def checkpoint_time(self) -> float:
        """Time stamp of the checkpoint to restart from: the number of steps that were done.

        Raises
        ------
        ConfigError
            If RESTART_ROOT has no checkpoint, or not this one.
        """
        folder = Path(self.restart_root, "restart")
        stamps = []
        for each in sorted(folder.iterdir()) if folder.is_dir() else ():
            with suppress(ValueError):
                stamps.append(float(each.name))
        wanted = max(stamps, default=None)
        if self.restart_time != "LATEST":
            with suppress(ValueError):
                wanted = float(self.restart_time)
        if wanted is None or wanted not in stamps:
            found = ", ".join(f"{stamp:g}" for stamp in stamps) or "none"
            raise ConfigError(
                f"{self.file}, RESTART_TIME: there is no checkpoint {self.restart_time} in "
                f"{folder} "
                f"(found {found}); a run writes one at its end when its config has a section "
                "[CHECKPOINT]"
            )
        return wanted

    def parameters(self) -> dict[str, Any]:
        """Every value as it was resolved, flat: ``SECTION.NAME`` to value."""
        flat: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("simulations", "analytics"):
                for component in value:
                    flat.update(_flat(component, component.section))
            elif is_dataclass(value):
                flat.update(_flat(value, "TIME_LOOP"))
            else:
                flat[each.name.upper()] = value
        return flat


def _flat(config: Any, section: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name == "arrays":
            for array in value:
                flat.update(_flat(array, f"{section}.ARRAYS.{array.name}"))
        elif each.name not in ("port", "section", "name"):
            flat[f"{section}.{each.name.upper()}"] = value
    return flat
